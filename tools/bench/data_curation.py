"""Section `curation`: hours of 720p video that `vdm curate` goes through in an hour of a core, step by step.

The footage is made here: shots of a few seconds in which a camera pans over a texture, H.264 with a keyframe each
second, as cameras and sites write it.  Seconds are those of CPU time, as the command prints them.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from bench.data_sets import panned
from bench.options import Options, say
from vdm_jax.cli.main import main
from vdm_jax.errors import RunError
from vdm_jax.media.figures import Figure
from vdm_jax.media.video import write_mp4

BAR = 20.0
DEAR = ("encode", "captions")  # steps that look at every picture at full size, or ask a model
RATE = 24.0


def measure(options: Options) -> list[Figure]:
    """Each step, and the cheap ones together."""
    size, frames, videos = ((72, 128), 24, 2) if options.quick else ((720, 1280), 120, 4)
    with tempfile.TemporaryDirectory(prefix="bench_data_") as folder:
        footage = Path(folder) / "footage"
        footage.mkdir()
        for number in range(videos):
            rng = np.random.default_rng(number)
            shots = np.concatenate([panned(rng, frames, *size) for _ in range(2)])
            write_mp4(footage / f"{number}.mp4", shots, RATE, crf=23)
        figures = Path(folder) / "figures.json"
        words = ["curate", str(footage), "--out", str(Path(folder) / "clips"), "--frames", "16", "--size", "64x64"]
        if main([*words, "--json", str(figures)]):
            raise RunError("vdm curate failed")
        steps = {
            row["name"].removeprefix("speed_"): row["value"]
            for row in json.loads(figures.read_text())
            if row["name"].startswith("speed_")
        }
    cheap = [name for name in steps if name not in DEAR]
    together = 1 / sum(1 / steps[name] for name in cheap)
    say(f"  {', '.join(cheap)} together: {together:.1f} hours a core-hour")
    found = [Figure(f"data/curation/{n}", v, "h/core-h", ok=None if n in DEAR else v >= BAR) for n, v in steps.items()]
    return [*found, Figure("data/curation/cheap_together", together, "h/core-h", ok=together >= BAR)]
