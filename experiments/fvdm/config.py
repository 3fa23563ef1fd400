"""FVDM as published (arXiv 2410.03160): a Latte-sized DiT whose frames have a time each in a fifth of the clips.

    vdm encode runs/vae data/clips --out data/latents
    vdm train --config experiments/fvdm/config.py --workdir runs/fvdm

model     an XL/2 DiT of spatial and temporal blocks in turn, as Latte-XL/2; depth 14 is 28 blocks.  Unlike Latte's, the
          variance of the reverse step is not learned
clip      16 frames of 256x256, every third of the video: latents of 32x32x4 (SD's VAE, x 0.18215), 4,096 tokens
published AdamW 1e-4 without decay or warm-up, 2 to 3 clips a device, 300,000 to 500,000 steps, p = 0.2; 100 DDIM steps.
          Gradients were clipped at 0.1 late in training; here throughout
hardware  8 devices with 80 GB in bfloat16 (batch and mesh are ours); not measured

The toy of the claim is `toy.py`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The config; every field can be overridden as `--config.section.field=value`."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "process": {
                "kind": "vp",
                "prediction": "eps",
                "schedule": "linear",
                "times": {"kind": "uniform", "independent": 0.2},
            },
            "model": {
                "kind": "dit",
                "channels": 4,
                "patch": (1, 2, 2),
                "dim": 1152,
                "depth": 14,
                "heads": 16,
                "attention": "factorised",
                "adaln": "per_block",
                "rope": False,
                "positions": "apart",
                "grid": (16, 16, 16),
                "qk_norm": "none",
                "remat": "attention",
            },
            "data": {"shards": "data/latents", "frames": 16, "height": 32, "width": 32},
            "train": {"steps": 300_000, "batch_size": 16, "precision": "bfloat16"},
            "ema": {"decays": (0.9999,)},
            "guard": {},
            "optimizer": {
                "learning_rate": 1e-4,
                "schedule": "constant",
                "warmup": 0,
                "weight_decay": 0.0,
                "clip_norm": 0.1,
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "context": 1},
            "checkpoint": {"every": 5000, "keep": 3},
            "log": {"every": 50, "eval_every": 5000, "sample_every": 10_000},
            "sample": {"steps": 100, "solver": "ddim", "guidance": 1.0, "clip_x0": False, "ema": 0.9999},
        }
    )
