"""Ca2-VDM (arXiv 2411.16375) as published for SkyTimelapse: latents of 33 frames of 256x256, chunks of 8 frames.

model     28 units of width 1,152 with 16 heads and patch 1x2x2 on latents of Stable Diffusion's autoencoder; causal in
          time, attention to the last 3 given frames, places in time that go round after 33 frames.  A unit here is a
          spatial and a temporal block with an MLP each, where Open-Sora's has one MLP
task      prefixes of 1, 9, 17 and 25 frames at level 0.1 (t_p = 100 of 1,000), told 0; the 8 frames behind are judged
hardware  8 devices with 80 GB in bfloat16; published: 8 A100
numbers   the code of the authors (Dawn-LX/CausalCache-VDM): linear betas, eps, AdamW at 2e-5 without decay, EMA 0.9999,
          gradients clipped at 1; 100 sampling steps with t_p = 50, up to 25 frames kept (`sampling.continuing`).
          There it starts from Open-Sora 1.0 and learns the variance too, here from nothing with a fixed one
expected  step time, MFU and loss not measured
"""

import ml_collections

FRAMES, CHUNK = 33, 8


def get_config() -> ml_collections.ConfigDict:
    """The config; every field can be overridden as `--config.section.field=value`."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "process": {"kind": "vp", "prediction": "eps", "schedule": "linear"},
            "model": {
                "kind": "dit",
                "channels": 4,
                "patch": (1, 2, 2),
                "dim": 1152,
                "depth": 28,
                "heads": 16,
                "attention": "factorised",
                "causal": True,
                "adaln": "single",
                "rope": False,
                "positions": "apart",
                "grid": (FRAMES, 16, 16),
                "cyclic": True,
                "known_merge": True,
                "prefix": 3,
                "qk_norm": "none",
                "remat": "attention",
            },
            "objective": {
                "kind": "denoising",
                "masks": [{"kind": "prefix", "first": 1, "step": CHUNK, "chunk": CHUNK, "cyclic": True}],
                "known_level": 0.1,
            },
            "data": {"shards": "data/sky_latents", "frames": FRAMES, "height": 32, "width": 32},
            "train": {"steps": 100_000, "batch_size": 16, "precision": "bfloat16"},
            "ema": {"decays": (0.9999,)},
            "optimizer": {
                "kind": "adamw",
                "learning_rate": 2e-5,
                "schedule": "constant",
                "weight_decay": 0.0,
                "clip_norm": 1.0,
            },
            "mesh": {"data": -1, "fsdp": 8, "tensor": 1, "context": 1},
            "checkpoint": {"every": 1000, "keep": 3},
            "log": {"every": 50, "eval_every": 2000},
            "sample": {"steps": 100, "solver": "ddim", "guidance": 1.0, "clip_x0": False, "ema": 0.9999},
        }
    )
