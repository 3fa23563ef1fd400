"""FreeNoise (arXiv 2310.15169) with VideoCrafter: clips of 16 frames are what it learns, clips of 64 what it samples.

    vdm train --config experiments/freenoise/config.py --config.data.shards=data/latents --workdir runs/videocrafter
    vdm sample runs/videocrafter ...                          64 frames, by the section `sample` below

FreeNoise trains nothing; what is trained here is its base.  Any run whose temporal attention knows no other places than
those in a window is sampled the same way with the three lines `frames`, `windows` and `noise`.

model     1.4 B: the UNet of VideoCrafter2, temporal attention and convolutions, told the frame rate
data      latents of 16 frames of 320x512 and CLIP features of the prompt (77 tokens), of `vdm encode`
hardware  8 devices with 80 GB in bfloat16 for training; 64 frames were sampled on one GPU of 40 GB
numbers   the paper and the code of the authors (AILab-CVC/FreeNoise): w = 16, s = 4, DDIM 50 steps with eta 0, guidance
          12 (15 and 128 frames at 256x256)
expected  step time, MFU and loss not measured
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The config; every field can be overridden as `--config.section.field=value`."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "init": None,
            "process": {
                "kind": "vp",
                "prediction": "eps",
                "schedule": "scaled_linear",
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "times": {"kind": "uniform"},
            },
            "model": {
                "kind": "unet",
                "temporal": "convolution",
                "text_dim": 1024,
                "heads": (5, 10, 20, 20),
                "projection": "linear",
                "scalars": ("fps",),
                "scalar_dim": 320,
                "remat": "full",
            },
            "data": {"shards": "data/videocrafter", "frames": 16, "height": 40, "width": 64},
            "train": {
                "steps": 5000,
                "batch_size": 16,
                "precision": "bfloat16",
                "tokens": 77,
                "dropout": {"tokens": 0.1},
                "vector": ("fps",),
            },
            "ema": {"decays": (0.999,)},
            "guard": {"spike_sigma": 6.0},
            "optimizer": {"learning_rate": 1e-5, "schedule": "constant", "warmup": 200, "weight_decay": 0.01},
            "mesh": {"data": -1, "fsdp": 8, "tensor": 1, "context": 1},
            "checkpoint": {"every": 500, "keep": 3},
            "log": {"every": 10, "eval_every": 500, "sample_every": 1000},
            "sample": {
                "steps": 50,
                "solver": "ddim",
                "guidance": 12.0,
                "clip_x0": False,
                "ema": 0.999,
                "frames": 64,
                "windows": {"size": 16, "stride": 4},
                "noise": {"kind": "rescheduled", "window": 16, "stride": 4},
            },
        }
    )
