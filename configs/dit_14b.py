"""DiT-14B: latent text-to-video at 480p with the sizes of Wan 2.1 14B (arXiv 2503.20314).

model     14.3 B parameters: 40 full-attention blocks of width 5,120, and a text encoder of 185 M
clip      81 frames of 480x832 as 4x8x8 latents: 21 frames of 60x104 with 16 channels, patch 1x2x2: 32,760 tokens,
          with 512 text tokens; `data` describes the latents, which the shard set must hold
hardware  64 devices with 80 GB (8 H100 hosts) and up in bfloat16, four of them on four clips at a time; weights,
          moments and averages (16 bytes a parameter) are split over the 64, more devices add to `data`
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
                "prediction": "velocity",
                "shift": 3.0,
                "times": {"kind": "logit_normal", "mean": 0.0, "std": 1.0},
            },
            "model": {
                "kind": "dit",
                "channels": 16,
                "patch": (1, 2, 2),
                "dim": 5120,
                "depth": 40,
                "heads": 40,
                "mlp_dim": 13_824,
                "mlp": "gelu",
                "attention": "full",
                "adaln": "single",
                "qk_norm": "all",
                "remat": "attention",
            },
            "text": {"tokenizer": "bpe", "vocab_size": 32_768, "length": 512, "dim": 1024, "depth": 12, "heads": 16},
            "data": {"shards": "data/latents_480p", "frames": 21, "height": 60, "width": 104},
            "train": {"steps": 400_000, "batch_size": 64, "precision": "bfloat16", "dropout": {"tokens": 0.1}},
            "ema": {"decays": (0.9999,)},
            "guard": {"spike_sigma": 6.0},
            "optimizer": {"learning_rate": 5e-5, "schedule": "wsd", "warmup": 5000, "weight_decay": 0.01},
            "mesh": {"data": -1, "fsdp": 16, "tensor": 1, "context": 4},
            "checkpoint": {"every": 1000, "keep": 3, "keep_every": 20_000},
            "log": {"every": 50, "eval_every": 2000, "sample_every": 10_000},
            "sample": {"steps": 50, "solver": "unipc", "guidance": 5.0, "clip_x0": False, "ema": 0.9999},
        }
    )
