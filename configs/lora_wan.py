"""A LoRA for a published Wan transformer (2503.20314), on latents of 480p; the weights themselves stay as they are.

    vdm import Wan2.1-T2V-14B-Diffusers --out runs/wan
    vdm encode runs/wan data/clips --out data/wan_480p
    vdm train --config configs/lora_wan.py --config.init=runs/wan --workdir runs/lora
    vdm export runs/lora --format peft --out exported/lora

model     whatever `init` holds, text- or image-to-video; without `init`, as `vdm plan` may take it, the one of 14 B
pairs     rank 32 beside the eight projections of attention and the two of the MLP in each block, as published LoRAs
          have them: 0.15 B parameters of 14 B, which alone have moments and an average
data      as for configs/finetune_wan.py: 21 frames of 60x104, 32,760 tokens, with 512 text tokens
hardware  8 devices with 80 GB in bfloat16, 4 of them on a clip at a time
expected  `vdm plan --config configs/lora_wan.py --target h100:8`: 57 of 74.5 GiB a device, 3.6 GiB of them weights and
          state, and 5.6 s a step at peak rates; step time, MFU and loss not measured yet
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
            "lora": {"targets": ("to_q", "to_k", "to_v", "to_out.0", "ffn"), "rank": 32, "alpha": 32.0},
            "data": {"shards": "data/wan_480p", "frames": 21, "height": 60, "width": 104},
            "train": {
                "steps": 3000,
                "batch_size": 8,
                "precision": "bfloat16",
                "frozen": "bfloat16",
                "tokens": 512,
                "dropout": {"tokens": 0.1},
            },
            "ema": {"decays": (0.99,)},
            "guard": {"spike_sigma": 6.0},
            "optimizer": {"learning_rate": 1e-4, "schedule": "constant", "warmup": 100, "weight_decay": 0.0},
            "mesh": {"data": -1, "fsdp": 2, "tensor": 1, "context": 4},
            "checkpoint": {"every": 500, "keep": 2},
            "log": {"every": 10, "eval_every": 500, "sample_every": 1000},
            "sample": {"steps": 30, "solver": "unipc", "guidance": 5.0, "clip_x0": False, "ema": 0.99},
        }
    )
