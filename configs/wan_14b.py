"""Wan 2.1 14B: latent text-to-video at 720p, the published transformer (arXiv 2503.20314) at its published sizes.

model     14.3 B parameters: 40 blocks of width 5,120, text features of width 4,096 (`WanTransformer3DModel`)
clip      81 frames of 720x1280 as 4x8x8 latents: 21 frames of 90x160 with 16 channels, patch 1x2x2: 75,600 tokens,
          with 512 text tokens; latents and the features of a frozen UMT5-XXL come with the data (`vdm encode`), and
          `data` describes the latents
hardware  64 devices with 80 GB (8 H100 hosts) in bfloat16, 8 of them on a clip at a time; weights, moments and
          averages (16 bytes a parameter) are split over the 64, more devices add to `data`
expected  `vdm plan --config configs/wan_14b.py --target h100:64`: 3.1 s a step at peak rates (MFU 80 %), 53 GiB of 74.5
          left; step time, MFU and loss not measured yet
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
                "shift": 5.0,
                "times": {"kind": "logit_normal", "mean": 0.0, "std": 1.0},
            },
            "model": {
                "kind": "wan",
                "channels": 16,
                "patch": (1, 2, 2),
                "dim": 5120,
                "depth": 40,
                "heads": 40,
                "mlp_dim": 13_824,
                "remat": "attention",
            },
            "text": None,
            "data": {"shards": "data/latents_720p", "frames": 21, "height": 90, "width": 160},
            "train": {
                "steps": 200_000,
                "batch_size": 8,
                "precision": "bfloat16",
                "tokens": 512,
                "dropout": {"tokens": 0.1},
            },
            "ema": {"decays": (0.9999,)},
            "guard": {"spike_sigma": 6.0},
            "optimizer": {"learning_rate": 5e-5, "schedule": "wsd", "warmup": 5000, "weight_decay": 0.01},
            "mesh": {"data": -1, "fsdp": 8, "tensor": 1, "context": 8},
            "checkpoint": {"every": 1000, "keep": 3, "keep_every": 20_000},
            "log": {"every": 50, "eval_every": 2000, "sample_every": 10_000},
            "sample": {"steps": 50, "solver": "unipc", "guidance": 5.0, "clip_x0": False, "ema": 0.9999},
        }
    )
