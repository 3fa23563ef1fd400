"""I2V-Adapter as published (arXiv 2312.16693): AnimateDiff on Stable Diffusion 1.5 learns to go on from a picture.

    vdm import stable-diffusion-v1-5 --with motion_adapter=animatediff-motion-adapter-v1-5-2 --out runs/animatediff
    vdm encode data/clips --run runs/animatediff --out data/i2v_adapter ...
    vdm train --config experiments/i2v-adapter/config.py --config.init=runs/animatediff --workdir runs/i2v
    vdm train --config experiments/i2v-adapter/config.py:high --config.init=runs/i2v --workdir runs/i2v_high
    vdm export runs/i2v_high --format adapter --out exported/i2v          for diffusers

model     0.86 B of the UNet and 0.45 B of motion modules, all frozen; the adapter, which alone trains, has 24.8 M
clip      16 frames as latents of SD's VAE, 32x32, then 64x64; the first one is clean, is told the level of the others,
          and counts nothing in the loss
published adapter, sizes, rate 1e-4, sampling (25 steps of DDIM, guidance 7.5, the prior); an epoch of WebVid-10M, then
          one of a set of their own.  Ours: batch, steps (the paper has neither), how often prompts are dropped.
          Image tokens (a frozen IP-Adapter) are left out: one adapter is trained at a time
prior     `vdm sample --similar` and `sample.prior` start clips so; what is here is the release's
hardware  8 devices with 80 GB in bfloat16; not measured
"""

import ml_collections

from vdm_jax.errors import did_you_mean

_SIDES = {"low": 32, "high": 64}


def get_config(stage: str = "low") -> ml_collections.ConfigDict:
    """The config; every field can be overridden as `--config.section.field=value`.

    Args:
      stage: `low` (256x256) or `high` (512x512), which starts from a run of `low`.
    """
    if stage not in _SIDES:
        raise ValueError(f"stage: {did_you_mean(stage, _SIDES)}")
    side = _SIDES[stage]
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "init": None,
            "process": {
                "kind": "vp",
                "prediction": "eps",
                "schedule": "linear",
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "times": {"kind": "uniform"},
            },
            "objective": {"kind": "denoising", "known_way": "shared", "masks": [{"kind": "ends", "first": 1}]},
            "adapter": {"kind": "first_frame"},
            "model": {
                "kind": "unet",
                "temporal": "motion",
                "motion_heads": (8, 8, 8, 8),
                "motion_depth": (1, 1, 1, 1),
                "remat": "full",
            },
            "data": {"shards": f"data/i2v_adapter_{side}", "frames": 16, "height": side, "width": side},
            "train": {
                "steps": 40_000,
                "batch_size": 256 if stage == "low" else 64,
                "precision": "bfloat16",
                "frozen": "bfloat16",
                "tokens": 77,
                "dropout": {"tokens": 0.1},
            },
            "ema": {"decays": (0.999,)},
            "guard": {"spike_sigma": 6.0},
            "optimizer": {"learning_rate": 1e-4, "schedule": "constant", "warmup": 0, "weight_decay": 0.01},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "context": 1},
            "checkpoint": {"every": 1000, "keep": 3},
            "log": {"every": 50, "eval_every": 2000, "sample_every": None},
            "sample": {
                "steps": 25,
                "solver": "ddim",
                "guidance": 7.5,
                "clip_x0": False,
                "ema": 0.999,
                "prior": {"t0": 1.0, "p": 0.5, "blur_sigma": 18.0, "blur_size": 9},
            },
        }
    )
