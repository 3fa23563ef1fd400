"""DiT-small: text-to-video in pixel space, for one accelerator or an afternoon of many CPU cores.

model     36 M parameters: 8 full-attention blocks of width 512, and a text encoder of 5 M
clip      16 frames of 64x64, patch 2x4x4: 2,048 tokens
hardware  one GPU or TPU core with 40 GB, bfloat16
expected  step time, MFU and loss not measured yet; peak memory: `./tools/bench_step --only memory`
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The config; every field can be overridden as `--config.section.field=value`."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "process": {
                "kind": "rectified_flow",
                "prediction": "x0",
                "shift": 1.0,
                "times": {"kind": "logit_normal", "mean": 0.0, "std": 1.0},
                "weighting": {"kind": "uniform", "space": "velocity"},
            },
            "model": {
                "kind": "dit",
                "patch": (2, 4, 4),
                "dim": 512,
                "depth": 8,
                "heads": 8,
                "mlp": "gelu",
                "attention": "full",
                "adaln": "single",
                "pooled_text": True,
                "remat": "none",
            },
            "text": {"tokenizer": "bpe", "vocab_size": 8192, "length": 64, "dim": 256, "depth": 4, "heads": 4},
            "data": {"shards": "data/small", "frames": 16, "height": 64, "width": 64},
            "train": {"steps": 50_000, "batch_size": 64, "precision": "bfloat16", "dropout": {"tokens": 0.1}},
            "ema": {"decays": (0.999, 0.9999)},
            "guard": {},
            "optimizer": {"learning_rate": 5e-4, "schedule": "wsd", "warmup": 1000, "decay_fraction": 0.2},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "context": 1},
            "checkpoint": {"every": 2000, "keep": 2, "keep_every": 10_000},
            "log": {"every": 50, "eval_every": 1000, "sample_every": 5000},
            "sample": {"steps": 50, "solver": "ddim", "guidance": 4.0, "ema": 0.9999},
        }
    )
