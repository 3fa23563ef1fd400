"""Fine-tuning of the published UNets with a temporal unit: AnimateDiff, ModelScope, Stable Video Diffusion.

    vdm import AnimateDiff-SD1.5 --out runs/animatediff
    vdm encode runs/animatediff data/clips --out data/animatediff
    vdm train --config configs/finetune_unet.py --config.init=runs/animatediff --workdir runs/tuned
    vdm train --config configs/finetune_unet.py:svd --config.init=runs/svd --workdir runs/tuned

model     that of `init`; without it, as `vdm plan` may take it, the published one of the variant
            animatediff  1.3 B: only the motion modules train, the UNet of pictures keeps its bits
            modelscope   1.4 B: all of it trains
            svd          1.5 B: all of it trains, image-to-video
data      `vdm encode` with that import: latents, and CLIP features of the prompt (77 tokens); of SVD those of the first
          frame (1 token), the first frame's latents (`concat`), and `fps` and `augmentation`.  `data` describes the
          latents: 16 frames of 512x512, 16 of 256x256, 14 of 576x1024, each divided by 8
hardware  8 devices with 80 GB in bfloat16
expected  `vdm plan --config configs/finetune_unet.py --target h100:8`: 0.12 s a step at peak rates for AnimateDiff, and
          59 GiB of 74.5 left; 0.04 s for ModelScope, and 65 GiB left; 0.44 s for SVD, and 22 GiB left.
          `--target v5p:2x2x2 --no-compile`: 0.93 s for SVD, and 43 of 95.7 GiB left, in 30 s of CPU; its compiler did
          not end in 10 minutes of CPU.  Not measured yet
"""

import ml_collections

from vdm_jax.errors import did_you_mean

_HEADS = (5, 10, 20, 20)
_VARIANTS = {
    "animatediff": {
        "process": {"kind": "vp", "prediction": "eps", "times": {"kind": "uniform"}},
        "model": {"temporal": "motion", "motion_heads": (8, 8, 8, 8), "motion_depth": (1, 1, 1, 1)},
        "data": {"shards": "data/animatediff", "frames": 16, "height": 64, "width": 64},
        "train": {"tokens": 77, "dropout": {"tokens": 0.1}, "trains": ("attention_time",)},
        "sample": {"solver": "ddim", "guidance": 7.5},
    },
    "modelscope": {
        "process": {"kind": "vp", "prediction": "eps", "times": {"kind": "uniform"}},
        "model": {"temporal": "convolution", "text_dim": 1024, "heads": _HEADS, "projection": "linear"},
        "data": {"shards": "data/modelscope", "frames": 16, "height": 32, "width": 32},
        "train": {"tokens": 77, "dropout": {"tokens": 0.1}},
        "sample": {"solver": "ddim", "guidance": 9.0},
    },
    "svd": {
        "process": {
            "kind": "edm",
            "prediction": "v",
            "times": {"kind": "log_normal", "mean": 0.7, "std": 1.6},
        },
        "model": {
            "temporal": "mixed",
            "text_dim": 1024,
            "heads": _HEADS,
            "projection": "linear",
            "concat_channels": 4,
            "scalars": ("fps", "motion", "augmentation"),
        },
        "data": {"shards": "data/svd", "frames": 14, "height": 72, "width": 128},
        "train": {"tokens": 1, "vector": ("fps", "augmentation"), "constants": {"motion": 127.0}},
        "sample": {"solver": "euler", "guidance": 1.0},
    },
}


def get_config(variant: str = "animatediff") -> ml_collections.ConfigDict:
    """The config; every field can be overridden as `--config.section.field=value`.

    Args:
      variant: `animatediff`, `modelscope` or `svd`.
    """
    if variant not in _VARIANTS:
        raise ValueError(f"variant: {did_you_mean(variant, _VARIANTS)}")
    own = _VARIANTS[variant]
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "init": None,
            "process": own["process"],
            "model": {"kind": "unet", "remat": "full", **own["model"]},
            "data": own["data"],
            "train": {"steps": 5000, "batch_size": 16, "precision": "bfloat16", **own["train"]},
            "ema": {"decays": (0.999,)},
            "guard": {"spike_sigma": 6.0},
            "optimizer": {"learning_rate": 1e-5, "schedule": "constant", "warmup": 200, "weight_decay": 0.01},
            "mesh": {"data": -1, "fsdp": 8, "tensor": 1, "context": 1},
            "checkpoint": {"every": 500, "keep": 3},
            "log": {"every": 10, "eval_every": 500, "sample_every": 1000},
            "sample": {"steps": 30, "clip_x0": False, "ema": 0.999, **own["sample"]},
        }
    )
