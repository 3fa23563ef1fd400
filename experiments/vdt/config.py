"""VDT as published (arXiv 2305.13311): one DiT for six tasks in time and completion in space, trained on masks.

    vdm encode runs/vae data/clips --out data/latents
    vdm train --config experiments/vdt/config.py --workdir runs/vdt

model     VDT-L/2: 28 units of unmodulated temporal attention, spatial attention and MLP.  The published one draws the
          projection behind temporal attention, where ours starts at zero, and learns the variance of the reverse step
clip      16 frames of 256x256 as latents of 32x32x4 (SD's VAE): 4,096 tokens
tasks     a spatial mask in a fifth of the clips, else one of six in time.  Drawn per clip (published: per batch)
published architecture, masks and loss; steps, batch and learning rate are not known and are ours
hardware  8 devices with 80 GB in bfloat16; not measured

The toy of the claim is `toy.py`.
"""

import ml_collections

MASKS = (
    {"kind": "blocks", "share": 1.5},  # 1.5 of 7.5: a fifth
    {"kind": "ends", "first": 8},
    {"kind": "ends", "last": 8},
    {"kind": "strided", "step": 4},
    {"kind": "ends"},
    {"kind": "one_frame"},
    {"kind": "bernoulli", "unknown": 0.8},
)


def get_config() -> ml_collections.ConfigDict:
    """The config; every field can be overridden as `--config.section.field=value`."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "process": {"kind": "vp", "prediction": "eps", "schedule": "linear", "times": {"kind": "uniform"}},
            "objective": {"kind": "denoising", "masks": MASKS, "known_way": "shared", "mean_over": "all"},
            "model": {
                "kind": "dit",
                "channels": 4,
                "patch": (1, 2, 2),
                "dim": 1152,
                "depth": 28,
                "heads": 16,
                "attention": "factorised",
                "temporal": "attention_first",
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
            "optimizer": {"learning_rate": 1e-4, "schedule": "constant", "warmup": 0, "weight_decay": 0.0},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "context": 1},
            "checkpoint": {"every": 5000, "keep": 3},
            "log": {"every": 50, "eval_every": 5000, "sample_every": 10_000},
            "sample": {"steps": 100, "solver": "ddim", "guidance": 1.0, "clip_x0": False, "ema": 0.9999},
        }
    )
