"""DiT-tiny: the model of `./tools/demo`, text-to-video in pixel space on a CPU.

model     1.9 M parameters: 4 full-attention blocks of width 128 and a one-layer text encoder
clip      8 frames of 16x16, patch 2x4x4: 64 tokens
hardware  2 CPU cores, float32
expected  see the table in README.md, which `./tools/demo` and `./tools/bench_step` print
"""

import ml_collections

from vdm_jax.errors import did_you_mean

VARIANTS = ("sprites", "footage", "captioned_footage")


def get_config(variant: str = "sprites") -> ml_collections.ConfigDict:
    """The config; every field can be overridden as `--config.section.field=value`.

    Args:
      variant: `sprites`, `footage` (unconditional, 8 frames of 32x32) or `captioned_footage`.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant: {did_you_mean(variant, VARIANTS)}")
    config = _sprites()
    if variant != "sprites":
        config.data = {"shards": "data/footage", "frames": 8, "height": 32, "width": 32}
        config.model.grid = (4, 8, 8)
        config.train.update(steps=1500, batch_size=16)
    if variant == "footage":
        config.text = None
        config.model.pooled_text = False
        config.train.dropout = {}
    return config


def _sprites() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "process": {
                "kind": "rectified_flow",
                "prediction": "x0",
                # Wide, and towards noise: there a clip's direction is decided, which is the last thing to be learned.
                "times": {"kind": "logit_normal", "mean": 0.4, "std": 1.3},
                "weighting": {"kind": "uniform", "space": "x0"},
            },
            "model": {
                "kind": "dit",
                "patch": (2, 4, 4),
                "dim": 128,
                "depth": 4,
                "heads": 4,
                "mlp": "relu2",
                "attention": "full",
                "adaln": "per_block",
                "positions": "learned",
                "grid": (4, 4, 4),
                "pooled_text": True,
            },
            "text": {"tokenizer": "bpe", "vocab_size": 400, "length": 12, "dim": 128, "depth": 1, "heads": 4},
            "data": {"shards": "data/sprites", "frames": 8, "height": 16, "width": 16},
            "train": {"steps": 2400, "batch_size": 16, "dropout": {"tokens": 0.1}, "eval_batches": 4},
            "ema": {"decays": (0.99, 0.995)},
            "guard": {},
            # Muon reaches in 1,100 steps the loss that AdamW needs 2,000 for, at 5 % more time a step.
            "optimizer": {
                "kind": "muon",
                "learning_rate": 3e-3,
                "schedule": "wsd",
                "warmup": 100,
                "decay_fraction": 0.3,
                "weight_decay": 0.0,
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "context": 1},
            "checkpoint": {"every": 500, "keep": 2},
            "log": {"every": 20, "eval_every": 500, "sample_every": 1000},
            "sample": {"steps": 30, "solver": "ddim", "guidance": 3.0, "ema": 0.995},
        }
    )
