"""DiT-tiny: the model of `./tools/demo`, text-to-video in pixel space on a CPU.

  model     1.9 M parameters: 4 full-attention blocks of width 128 and a one-layer text encoder
  clip      8 frames of 16x16, patch 2x4x4: 64 tokens
  hardware  2 CPU cores, float32
  expected  see the table in README.md, which `./tools/demo` and `./tools/bench_step` print
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
                "times": {"kind": "logit_normal", "mean": 0.0, "std": 1.0},
                "weighting": {"kind": "uniform", "space": "velocity"},
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
                "pooled_text": True,
            },
            "text": {"tokenizer": "bpe", "vocab_size": 400, "length": 12, "dim": 128, "depth": 1, "heads": 4},
            "data": {"shards": "data/sprites", "frames": 8, "height": 16, "width": 16},
            "train": {"steps": 2000, "batch_size": 64, "dropout": {"tokens": 0.1}},
            "ema": {"decays": (0.99, 0.995)},
            "guard": {},
            "optimizer": {"learning_rate": 2e-3, "schedule": "wsd", "warmup": 100, "decay_fraction": 0.3},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "context": 1},
            "checkpoint": {"every": 500, "keep": 2},
            "log": {"every": 20, "eval_every": 500, "sample_every": 1000},
            "sample": {"steps": 30, "solver": "ddim", "guidance": 3.0, "ema": 0.995},
        }
    )
