"""The progress line of commands that work through a known number of things: how far, how fast, how long still."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from vdm_jax.training.progress import duration

BAR = 20


class Counter:
    """Draws `worlds  120/576 |####      |  412 clips/s  eta 1s`; call it with (done, total)
    or (done, total, name of the last one).

    On a terminal the line is rewritten in place; elsewhere only the last one is printed, so that logs stay short.

    Args:
      label: first word.
      unit: what is counted, plural.
      stream: where; stderr by default.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        label: str,
        unit: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._label, self._unit, self._clock = label, unit, clock
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._start, self._last = clock(), -float("inf")

    def __call__(self, done: int, total: int, name: str = "") -> None:
        """Shows that `done` of `total` are finished; cheap enough to be called for each."""
        now, finished = self._clock(), done >= total
        if not finished and (not self._live or now - self._last < 0.1):
            return
        self._last = now
        text = counter_line(self._label, self._unit, done, total, now - self._start)
        if name and not finished:
            text += f"  {name}"
        if self._live:
            text = "\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1]
        self._stream.write(text + ("\n" if finished else ""))
        self._stream.flush()


def counter_line(label: str, unit: str, done: int, total: int, seconds: float) -> str:
    """The text of the line after `seconds`."""
    rate = done / max(seconds, 1e-9)
    full = BAR * done // max(total, 1)
    rest = f"in {duration(seconds)}" if done >= total else f"eta {duration((total - done) / rate) if done else '?'}"
    bar = f"{'#' * full:<{BAR}}"
    return f"{label} {done:>{len(str(total))}}/{total} |{bar}|  {rate:.3g} {unit}/s  {rest}"
