"""Fine-tuning of a published CogVideoX transformer, all its weights.

    vdm import CogVideoX-5b --out runs/cogvideox
    vdm encode runs/cogvideox data/clips --out data/cogvideox
    vdm train --config configs/finetune_cogvideox.py --config.init=runs/cogvideox --workdir runs/tuned

    vdm train --config configs/finetune_cogvideox.py:1.5-i2v --config.init=runs/cogvideox15 --workdir runs/tuned

model     whatever `init` holds, text- or image-to-video, of version 1.0 (2 B or 5 B) or, by the variants, 1.5; without
          `init`, as `vdm plan` may take it, the one of 2 B
data      `vdm encode` with that import: latents, T5 features (226 tokens), and of image-to-video models `concat`, in
          version 1.5 also `ofs`.  `data` describes the latents: 49 frames of 480x720 are 13 of 60x90, 17,550 tokens; in
          version 1.5, 81 frames of 768x1360 are 22 of 96x170, the first one twice, 44,880 tokens
hardware  8 devices with 80 GB in bfloat16
expected  `vdm plan --config configs/finetune_cogvideox.py --target h100:8`: 0.46 s a step at peak rates for 2 B (MFU
          79 %), 63 GiB of 74.5 left; not measured yet
"""

import ml_collections

from vdm_jax.errors import did_you_mean

VARIANTS = ("1.0", "1.5", "1.5-i2v")


def get_config(variant: str = "1.0") -> ml_collections.ConfigDict:
    """The config; every field can be overridden as `--config.section.field=value`.

    Args:
      variant: `1.0`, `1.5` or `1.5-i2v`.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant: {did_you_mean(variant, VARIANTS)}")
    later = variant != "1.0"
    own = {"patch": (2, 2, 2), "positions": "rope", "dim": 3072, "depth": 42, "heads": 48} if later else {}
    size = {"frames": 22, "height": 96, "width": 170} if later else {"frames": 13, "height": 60, "width": 90}
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "init": None,
            "process": {"kind": "vp", "prediction": "v", "times": {"kind": "uniform"}},
            "model": {"kind": "cogvideox", "remat": "attention", **own},
            "data": {"shards": "data/cogvideox", **size},
            "train": {
                "steps": 5000,
                "batch_size": 8,
                "precision": "bfloat16",
                "tokens": 226,
                "dropout": {"tokens": 0.1},
                "vector": ("ofs",) if variant == "1.5-i2v" else (),
            },
            "ema": {"decays": (0.999,)},
            "guard": {"spike_sigma": 6.0},
            "optimizer": {"learning_rate": 1e-5, "schedule": "constant", "warmup": 200, "weight_decay": 0.01},
            "mesh": {"data": -1, "fsdp": 8, "tensor": 1, "context": 1},
            "checkpoint": {"every": 500, "keep": 3},
            "log": {"every": 10, "eval_every": 500, "sample_every": 1000},
            "sample": {"steps": 50, "solver": "ddim", "guidance": 6.0, "clip_x0": False, "ema": 0.999},
        }
    )
