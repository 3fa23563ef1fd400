r"""Stable Video Diffusion as published (arXiv 2311.15127): a UNet of pictures that becomes one of videos, in stages.

    S=experiments/svd/config.py
    vdm train --config $S:images --workdir runs/svd_images
    vdm train --config $S:video --config.init=runs/svd_images --workdir runs/svd_video
    vdm train --config $S:video_wide --config.init=runs/svd_video --workdir runs/svd_wide
    vdm train --config $S:high_quality --config.init=runs/svd_wide --workdir runs/svd
    vdm train --config $S:image_to_video --config.init=runs/svd --config.widen="('concat_channels', 'scalars')" \
      --workdir runs/svd_i2v
    vdm train --config $S:camera_lora --config.init=runs/svd_i2v --workdir runs/svd_zoom

model     SD 2.1's UNet, a block over time behind each block over space, blended by a learned share: 1.5 B parameters.
          Stages share it, so each starts from the run before.  A clip of one frame is a picture (`image_only`): layers
          over time leave it as it is, and `images` trains the others.  Image-to-video reads 4 more channels and one
          more number, for which `widen` gives zero rows, and features of a picture in place of a prompt; an import of
          such weights needs no `widen`
clip      14 frames as latents of SD's VAE: 32x48, 40x72 and 72x128
noise     EDM at unit variance, which is v-prediction; ln sigma is drawn around a mean that rises with the resolution
numbers   `fps` as `vdm encode` stores it, `motion` a constant (it stores no motion score)
published steps, batches, learning rates, levels, 15 % of prompts dropped, the noise on the picture, sampling of
          image-to-video.  Ours: the batch of `images`, its noise in `video`, dropout of the picture, guidance of
          text-to-video, and all of `camera_lora` but what it adapts, attention over time
hardware  64 devices with 80 GB in bfloat16 (published: 48 nodes of 8); not measured
"""

import ml_collections

from vdm_jax.errors import did_you_mean

_TEXT = {"text_dim": 1024, "scalars": ("fps", "motion")}
_PICTURE = {"text_dim": 1024, "scalars": ("fps", "motion", "augmentation"), "concat_channels": 4}
_WORDS = {"tokens": 77, "vector": ("fps",), "constants": {"motion": 127.0}, "dropout": {"tokens": 0.15}}
_GIVEN = {
    "tokens": 1,
    "vector": ("fps",),
    "constants": {"motion": 127.0, "augmentation": 0.02},
    "dropout": {"tokens": 0.1, "concat": 0.1},
}
_STILL = {**_WORDS, "vector": (), "constants": {"fps": 0.0, "motion": 0.0}, "trains": ("!res_time", "!frames", "!mix")}
_NOISY = {"kind": "denoising", "corruption": {"key": "concat", "mean": -3.0, "std": 0.5, "told": "augmentation"}}
_RISING = {"guidance": 2.5, "guidance_from": 1.0, "guidance_also": ("concat",)}


def _stage(model, levels, size, train, rate=1e-4, **more):
    """A stage: mean and standard deviation of ln sigma, and (frames, height, width) of its latents."""
    return {"model": model, "levels": levels, "size": size, "train": train, "rate": rate, **more}


_STAGES = {
    "images": _stage(_TEXT, (-1.2, 1.0), (1, 32, 48), {"steps": 31_000, "batch_size": 1536, **_STILL}),
    "video": _stage(_TEXT, (-1.2, 1.0), (14, 32, 48), {"steps": 150_000, "batch_size": 1536, **_WORDS}),
    "video_wide": _stage(_TEXT, (0.0, 1.0), (14, 40, 72), {"steps": 100_000, "batch_size": 768, **_WORDS}),
    "high_quality": _stage(_TEXT, (0.5, 1.4), (14, 72, 128), {"steps": 50_000, "batch_size": 768, **_WORDS}, 3e-5),
    "image_to_video": _stage(
        _PICTURE,
        (0.7, 1.6),
        (14, 72, 128),
        {"steps": 50_000, "batch_size": 768, **_GIVEN},
        3e-5,
        objective=_NOISY,
        sample=_RISING,
    ),
    "camera_lora": _stage(
        _PICTURE,
        (0.7, 1.6),
        (14, 72, 128),
        {"steps": 3000, "batch_size": 64, **_GIVEN},
        objective=_NOISY,
        sample=_RISING,
        lora={"targets": ("frames/block/attention", "frames/block/second"), "rank": 16},
    ),
}


def get_config(stage: str = "video") -> ml_collections.ConfigDict:
    """The config; every field can be overridden as `--config.section.field=value`.

    Args:
      stage: `images`, `video`, `video_wide`, `high_quality`, `image_to_video` or `camera_lora`.
    """
    if stage not in _STAGES:
        raise ValueError(f"stage: {did_you_mean(stage, _STAGES)}")
    own = _STAGES[stage]
    (mean, std), (frames, height, width) = own["levels"], own["size"]
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "init": None,
            "process": {
                "kind": "edm",
                "prediction": "v",
                "sigma_data": 1.0,
                "sigma_max": 700.0,
                "told": "quarter_log",
                "times": {"kind": "log_normal", "mean": mean, "std": std},
            },
            "objective": own.get("objective"),
            "lora": own.get("lora"),
            "model": {
                "kind": "unet",
                "temporal": "mixed",
                "heads": (5, 10, 20, 20),
                "projection": "linear",
                "remat": "full",
                **own["model"],
            },
            "data": {"shards": f"data/svd_{stage}", "frames": frames, "height": height, "width": width},
            "train": {"precision": "bfloat16", **own["train"]},
            "ema": {"decays": (0.9999,)},
            "guard": {"spike_sigma": 6.0},
            "optimizer": {
                "learning_rate": own["rate"],
                "schedule": "constant",
                "warmup": 1000,
                "weight_decay": 0.01,
            },
            "mesh": {"data": -1, "fsdp": 8, "tensor": 1, "context": 1},
            "checkpoint": {"every": 1000, "keep": 3},
            "log": {"every": 50, "eval_every": 5000, "sample_every": 10_000},
            "sample": {
                "steps": 25,
                "solver": "euler",
                "guidance": 5.0,
                "clip_x0": False,
                "ema": 0.9999,
                **own.get("sample", {}),
            },
        }
    )
