"""Go-with-the-Flow at its published scale (arXiv 2501.08331): a LoRA that makes CogVideoX-5B follow warped noise.

    vdm import CogVideoX-5b --out runs/cogvideox
    vdm encode runs/cogvideox data/clips --out data/cogvideox_flow --flow
    vdm train --config experiments/go-with-the-flow/config.py --config.init=runs/cogvideox --workdir runs/warped
    vdm sample runs/warped --flow driving.mp4 --degradation 0.5 --prompt "..." --out x.mp4

model     CogVideoX-5B, text-to-video; without `init`, as `vdm plan` may take it, the 5 B network with fresh weights
pairs     rank 2048 beside the four projections of attention (reported, not in the released code)
noise     of 16 channels, warped at 1920x2880 (32 times the 60x90 latents) along the flow of 49 frames, every fourth of
          them kept; degraded by g ~ U(0, 1) for each clip.  The released script reduces without densities (`plain`)
data      13 latent frames of 60x90 with their flow, which `vdm encode --flow` stores on the grid of the latents; the
          paper has RAFT's of frames at half size
hardware  8 A100 of 80 GB, 40 GPU-days in all, about 30,000 steps (as published; unverified)
expected  step time, MFU and loss not measured; noise at 1920x2880 is 354 MB a clip while it is made
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The config; every field can be overridden as `--config.section.field=value`."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "init": None,
            "process": {"kind": "vp", "prediction": "v", "times": {"kind": "uniform"}},
            "model": {
                "kind": "cogvideox",
                "remat": "attention",
                "positions": "rope",
                "dim": 3072,
                "depth": 42,
                "heads": 48,
            },
            "objective": {
                "kind": "denoising",
                "noise": {"kind": "warped", "scale": 32, "stride": 4, "space": "plain", "time": "nearest"},
            },
            "lora": {"targets": ("to_q", "to_k", "to_v", "to_out.0"), "rank": 2048, "alpha": 2048.0},
            "data": {"shards": "data/cogvideox_flow", "frames": 13, "height": 60, "width": 90},
            "train": {
                "steps": 30_000,
                "batch_size": 8,
                "precision": "bfloat16",
                "frozen": "bfloat16",
                "tokens": 226,
                "dropout": {"tokens": 0.1},
            },
            "ema": {"decays": ()},
            "guard": {"spike_sigma": 6.0},
            "optimizer": {"learning_rate": 1e-4, "schedule": "constant", "warmup": 200, "weight_decay": 0.0},
            "mesh": {"data": -1, "fsdp": 8, "tensor": 1, "context": 1},
            "checkpoint": {"every": 500, "keep": 3},
            "log": {"every": 10, "eval_every": 500, "sample_every": 1000},
            "sample": {"steps": 30, "solver": "ddim", "guidance": 6.0, "clip_x0": False},
        }
    )
