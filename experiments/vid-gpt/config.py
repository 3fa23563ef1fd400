"""ViD-GPT (arXiv 2406.10981) in the sizes of its published successor: latents of 33 frames of 256x256, chunks of 8.

model     28 units of width 1,152 with 16 heads and patch 1x2x2 on latents of Stable Diffusion's autoencoder; causal in
          time, attention to the last 3 prompt frames, a table of 33 places in time.  A unit here is a spatial and a
          temporal block with an MLP each, where Open-Sora's has one MLP
task      prompts of 1 to 25 frames, clean and told 0; the 8 frames behind are judged; shorter clips have a `length`
hardware  8 devices with 80 GB in bfloat16
numbers   the backbone is published (Open-Sora 1.0, linear betas, eps, 100 sampling steps); frames, chunks and the
          optimiser are those of Ca2-VDM's code, which is the authors' shared one, as the paper's run is not told.
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
                "known_merge": True,
                "prefix": 3,
                "qk_norm": "none",
                "remat": "attention",
            },
            "objective": {
                "kind": "denoising",
                "masks": [{"kind": "prefix", "first": 1, "step": 1, "chunk": CHUNK}],
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
