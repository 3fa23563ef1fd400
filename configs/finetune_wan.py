"""Fine-tuning of a published Wan transformer, all its weights, on latents of 480p.

    vdm import Wan2.1-T2V-14B-Diffusers --out runs/wan
    vdm encode runs/wan data/clips --out data/wan_480p
    vdm train --config configs/finetune_wan.py --config.init=runs/wan --workdir runs/tuned

model     whatever `init` holds, text- or image-to-video; without `init`, as `vdm plan` may take it, the one of 14 B
data      `vdm encode` with that import: latents, UMT5 features (512 tokens), and of image-to-video models `concat` and
          `image`.  `data` describes the latents: 81 frames of 480x832 are 21 of 60x104, 32,760 tokens
hardware  32 devices with 80 GB in bfloat16, 4 of them on a clip at a time; 1.3 B needs one host
expected  `vdm plan --config configs/finetune_wan.py --target h100:32`: 1.65 s a step at peak rates for 14 B (MFU 77 %),
          52 GiB of 74.5 left; not measured yet
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The config; every field can be overridden as `--config.section.field=value`."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "init": None,
            "process": {"kind": "rectified_flow", "shift": 3.0, "times": {"kind": "logit_normal"}},
            "model": {"kind": "wan", "remat": "attention"},
            "data": {"shards": "data/wan_480p", "frames": 21, "height": 60, "width": 104},
            "train": {
                "steps": 5000,
                "batch_size": 8,
                "precision": "bfloat16",
                "tokens": 512,
                "dropout": {"tokens": 0.1},
            },
            "ema": {"decays": (0.999,)},
            "guard": {"spike_sigma": 6.0},
            "optimizer": {"learning_rate": 1e-5, "schedule": "constant", "warmup": 200, "weight_decay": 0.01},
            "mesh": {"data": -1, "fsdp": 8, "tensor": 1, "context": 4},
            "checkpoint": {"every": 500, "keep": 3},
            "log": {"every": 10, "eval_every": 500, "sample_every": 1000},
            "sample": {"steps": 30, "solver": "unipc", "guidance": 5.0, "clip_x0": False, "ema": 0.999},
        }
    )
