"""Fine-tuning of the published Latte transformer, all its weights.

    vdm import Latte-1 --out runs/latte
    vdm encode runs/latte data/clips --out data/latte
    vdm train --config configs/finetune_latte.py --config.init=runs/latte --workdir runs/tuned

model     1.1 B parameters, those of `init`; without it, as `vdm plan` may take it, Latte-1.  The variance that it also
          predicts is not trained, its weights stay as they are
data      `vdm encode` with that import: latents of every frame by itself, and T5 features (120 tokens), whose padding
          is not read.  `data` describes the latents: 16 frames of 512x512 are 16 of 64x64, 16,384 tokens
hardware  8 devices with 80 GB in bfloat16
expected  `vdm plan --config configs/finetune_latte.py --target h100:8`: 0.27 s a step at peak rates (MFU 76 %), 58 GiB
          of 74.5 left; not measured yet
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The config; every field can be overridden as `--config.section.field=value`."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "init": None,
            "process": {"kind": "vp", "prediction": "eps", "times": {"kind": "uniform"}},
            "model": {"kind": "latte", "remat": "attention"},
            "data": {"shards": "data/latte", "frames": 16, "height": 64, "width": 64},
            "train": {
                "steps": 5000,
                "batch_size": 16,
                "precision": "bfloat16",
                "tokens": 120,
                "tokens_mask": True,
                "dropout": {"tokens": 0.1},
            },
            "ema": {"decays": (0.999,)},
            "guard": {"spike_sigma": 6.0},
            "optimizer": {"learning_rate": 2e-5, "schedule": "constant", "warmup": 200, "weight_decay": 0.0},
            "mesh": {"data": -1, "fsdp": 8, "tensor": 1, "context": 1},
            "checkpoint": {"every": 500, "keep": 3},
            "log": {"every": 10, "eval_every": 500, "sample_every": 1000},
            "sample": {"steps": 50, "solver": "ddim", "guidance": 7.5, "clip_x0": False, "ema": 0.999},
        }
    )
