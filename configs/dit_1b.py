"""DiT-1B: latent text-to-video at 480p with the sizes of Wan 2.1 1.3B (arXiv 2503.20314).

model     1.4 B parameters: 30 full-attention blocks of width 1,536, and a text encoder of 185 M
clip      81 frames of 480x832 as 4x8x8 latents: 21 frames of 60x104 with 16 channels, patch 1x2x2: 32,760 tokens;
          `data` describes the latents, which the shard set must hold
hardware  8 devices with 80 GB (one H100 host) and up in bfloat16, one clip each; weights, moments and averages are
          split over the 8, more devices add to `data` (raise `batch_size` with them)
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
                "dim": 1536,
                "depth": 30,
                "heads": 12,
                "mlp_dim": 8960,
                "mlp": "gelu",
                "attention": "full",
                "adaln": "single",
                "qk_norm": "all",
                "remat": "attention",
            },
            "text": {"tokenizer": "bpe", "vocab_size": 32_768, "length": 256, "dim": 1024, "depth": 12, "heads": 16},
            "data": {"shards": "data/latents_480p", "frames": 21, "height": 60, "width": 104},
            "train": {"steps": 200_000, "batch_size": 64, "precision": "bfloat16", "dropout": {"tokens": 0.1}},
            "ema": {"decays": (0.9999,)},
            "guard": {"spike_sigma": 6.0},
            "optimizer": {"learning_rate": 1e-4, "schedule": "wsd", "warmup": 2000, "weight_decay": 0.01},
            "mesh": {"data": -1, "fsdp": 8, "tensor": 1, "context": 1},
            "checkpoint": {"every": 1000, "keep": 3, "keep_every": 20_000},
            "log": {"every": 50, "eval_every": 2000, "sample_every": 5000},
            "sample": {"steps": 50, "solver": "unipc", "guidance": 5.0, "clip_x0": False, "ema": 0.9999},
        }
    )
