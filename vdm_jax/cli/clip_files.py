"""Sampled clips as files: one, or a folder of them with a contact sheet."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from vdm_jax.errors import did_you_mean
from vdm_jax.media.grid import contact_sheet, spread, write_png
from vdm_jax.media.video import write_gif, write_mp4

WRITERS = {".mp4": write_mp4, ".gif": write_gif}
_SHOWN = 8  # frames of a clip on the contact sheet


def check_out(out: Path, count: int) -> None:
    """Refuses a place that cannot hold `count` clips.

    Raises:
      ValueError: another kind of file, or one file for several clips.
    """
    if out.suffix and out.suffix not in WRITERS:
        raise ValueError(f"--out: {did_you_mean(out.suffix, WRITERS)}, or a directory")
    if out.suffix and count > 1:
        raise ValueError(f"--out: {out} is one file for {count} clips; give a directory")


def write_clips(out: Path, clips: Iterable[tuple[str, np.ndarray]], fps: float) -> Iterator[Path]:
    """Writes clips as they come: one to a file, or each to a file in a directory, and a contact sheet of all.

    Args:
      out: see `check_out`.
      clips: prompt, and uint8 `[T, H, W, 3]`.
      fps: of the files.

    Yields:
      What was written.
    """
    if out.suffix:
        out.parent.mkdir(parents=True, exist_ok=True)
        for _, clip in clips:
            WRITERS[out.suffix](out, clip, fps=fps)
            yield out
        return
    out.mkdir(parents=True, exist_ok=True)
    shown, prompts = [], []
    for prompt, clip in clips:
        path = out / f"{len(shown):03d}.mp4"
        write_mp4(path, clip, fps=fps)
        shown.append(clip[spread(len(clip), _SHOWN)])
        prompts.append(prompt)
        yield path
    sheet = out / "contact_sheet.png"
    write_png(contact_sheet(shown, prompts, frames=_SHOWN), sheet)
    yield sheet
