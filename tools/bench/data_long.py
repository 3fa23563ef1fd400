"""Section `long`: what `vdm curate` holds at most while it works on a source of two hours, against one of five minutes.

The footage is made here: small and cheap to decode, shots of six seconds in which a camera pans over a texture, so
that all that grows with the length of a source (times, keyframes, cuts, clips, scores) grows as it does for films.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from bench.data_sets import panned
from bench.options import Options, say
from vdm_jax.errors import RunError
from vdm_jax.media.figures import Figure

GROWTH = 256.0  # megabytes; two hours of small pictures are 3,000
SHOT, RATE, SIZE = 6, 10, (90, 160)  # seconds, pictures a second, pixels
SHORT, LONG = 300, 7200  # seconds
CLIP = ("--frames", "16", "--fps", "8", "--stride", "64", "--size", "64x64", "--val-fraction", "0")


def measure(options: Options) -> list[Figure]:
    """Peaks of both, and the difference."""
    lengths = (2 * SHOT, 8 * SHOT) if options.quick else (SHORT, LONG)
    with tempfile.TemporaryDirectory(prefix="bench_data_") as folder:
        short, long = (peak(Path(folder) / str(seconds), seconds) for seconds in lengths)
    say(f"  at most {short:,.0f} MB for {lengths[0]:,} s, {long:,.0f} MB for {lengths[1]:,} s")
    growth = max(0.0, long - short)
    figure = Figure("data/long/peak", long, "MB", short, long / short, ok=growth <= GROWTH)
    return [figure, Figure("data/long/growth", growth, "MB", ok=growth <= GROWTH)]


def peak(folder: Path, seconds: int) -> float:
    """Megabytes that a process held at most which curated a source of so many seconds."""
    folder.mkdir()
    write(folder / "source.mp4", seconds)
    words = ["curate", str(folder / "source.mp4"), "--out", str(folder / "clips"), *CLIP, "--workers", "1"]
    process = subprocess.Popen([sys.executable, "-m", "vdm_jax.cli.main", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RunError(f"vdm curate failed on {seconds} s of footage")
    return used.ru_maxrss / 1024


def write(path: Path, seconds: int) -> None:
    """A video of that length, MPEG-4 with a keyframe each second, made shot by shot."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *SIZE, "yuv420p", RATE
        stream.bit_rate = 500_000
        for pixels in _pictures(seconds):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())


def _pictures(seconds: int) -> Iterator[np.ndarray]:
    for number in range(seconds // SHOT):
        yield from panned(np.random.default_rng(number), SHOT * RATE, *SIZE)
