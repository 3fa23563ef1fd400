"""AnimateLCM (arXiv 2402.00769) as published: the stage of pictures, the stage of clips, and the SVD variant.

    vdm train --config experiments/animatelcm/config.py:images --config.init=runs/sd15 --workdir runs/picture_lcm
    vdm train --config experiments/animatelcm/config.py:clips --config.init=runs/animatediff --workdir runs/animatelcm
    vdm train --config experiments/animatelcm/config.py:svd --config.init=runs/svd --workdir runs/svd_lcm

images    stage A: low-rank pairs of rank 64 in Stable Diffusion 1.5 learn, of pictures of 512x512, to sample in a few
          of 100 steps.  The rank, the batch, the learning rate and the teacher's guidance of 7.5 are those usual for
          LCM-LoRA (arXiv 2311.05556); the paper gives none
clips     stage B: the motion modules of AnimateDiff, of clips of 16 frames; the student begins with the pairs of
          `runs/picture_lcm` (`objective.pairs`), the target without.  Batch, rate and guidance as in stage A
svd       all of SVD's UNet, 25 frames of 576x1024: guidance rises along the clip from one of 1, 1.25, 1.5 to one of 2,
          2.25, 2.5; steps between the 100 sigmas of Karras and 0, weighted by their length to the power of -0.1
hardware  8 devices with 80 GB in bfloat16
numbers   the training script of the authors (G-U-N/AnimateLCM) for SVD: AdamW at 1e-4, decay 0.01, 500 steps of
          warm-up, gradients clipped at 1, target 0.95, noise of exp(N(-3, 0.5^2)) on the picture; batch and length of
          training are not theirs
expected  step time, MFU and loss not measured
"""

import ml_collections

from vdm_jax.errors import did_you_mean

_STABLE_DIFFUSION = {
    "kind": "vp",
    "prediction": "eps",
    "schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
_VARIANTS = {
    "images": {
        "process": _STABLE_DIFFUSION,
        "model": {},
        "lora": {"targets": ("attention", "res"), "rank": 64, "alpha": 64.0},
        "objective": {"guidance": {"kind": "range", "low": 7.5, "high": 7.5}},
        "data": {"shards": "data/pictures", "frames": 1, "height": 64, "width": 64},
        "train": {"tokens": 77, "batch_size": 128, "frozen": "bfloat16"},
        "optimizer": {"learning_rate": 1e-4, "weight_decay": 0.0},
        "sample": {"steps": 4},
    },
    "clips": {
        "process": _STABLE_DIFFUSION,
        "model": {
            "temporal": "motion",
            "motion_heads": (8, 8, 8, 8),
            "motion_depth": (1, 1, 1, 1),
            "motion_mid_depth": 1,
        },
        "lora": None,
        "objective": {"guidance": {"kind": "range", "low": 7.5, "high": 7.5}, "pairs": "runs/picture_lcm"},
        "data": {"shards": "data/clips", "frames": 16, "height": 64, "width": 64},
        "train": {"tokens": 77, "batch_size": 128, "frozen": "bfloat16", "trains": ("attention_time",)},
        "optimizer": {"learning_rate": 1e-4, "weight_decay": 0.0},
        "sample": {"steps": 4},
    },
    "svd": {
        "process": {
            "kind": "edm",
            "prediction": "v",
            "sigma_data": 1.0,
            "sigma_min": 0.002,
            "sigma_max": 700.0,
            "told": "quarter_log",
        },
        "model": {
            "temporal": "mixed",
            "text_dim": 1024,
            "heads": (5, 10, 20, 20),
            "projection": "linear",
            "concat_channels": 4,
            "scalars": ("fps", "motion", "augmentation"),
        },
        "lora": None,
        "objective": {
            "guidance": {"kind": "ramp", "starts": (1.0, 1.25, 1.5), "ends": (2.0, 2.25, 2.5)},
            "guides": ("tokens", "concat"),
            "scaling": None,
            "corruption": {"key": "concat", "mean": -3.0, "std": 0.5},
            "power": -0.1,
        },
        "data": {"shards": "data/svd", "frames": 25, "height": 72, "width": 128},
        "train": {
            "tokens": 1,
            "batch_size": 16,
            "vector": ("fps", "augmentation"),
            "constants": {"motion": 127.0},
        },
        "optimizer": {"learning_rate": 1e-4, "weight_decay": 0.01},
        "sample": {"steps": 4},
    },
}


def get_config(variant: str = "images") -> ml_collections.ConfigDict:
    """The config; every field can be overridden as `--config.section.field=value`.

    Args:
      variant: `images`, `clips` or `svd`.
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
            "lora": own["lora"],
            "objective": {"kind": "consistency", "steps": 100, "huber": 0.001, "decay": 0.95, **own["objective"]},
            "data": own["data"],
            "train": {"steps": 10_000, "precision": "bfloat16", **own["train"]},
            "ema": {"decays": (0.95,)},
            "optimizer": {
                "kind": "adamw",
                "schedule": "constant",
                "warmup": 500,
                "clip_norm": 1.0,
                **own["optimizer"],
            },
            "mesh": {"data": -1, "fsdp": 8, "tensor": 1, "context": 1},
            "checkpoint": {"every": 500, "keep": 3},
            "log": {"every": 10, "eval_every": 500, "sample_every": 1000},
            "sample": {"solver": "lcm", "guidance": 1.0, "clip_x0": False, "ema": 0.95, **own["sample"]},
        }
    )
