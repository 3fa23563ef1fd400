"""The one line a person watches: how far, how fast, how good, and whether the device waits for data.

    train   1200/20000 |##        |  3.41 steps/s  eta 1:31:52  loss 0.1834  mfu 41.2%  data wait 0.3%

On a terminal the line is rewritten in place; elsewhere (a log file, a pipe) it is printed now and then as it is.
"""

import io
import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

import jax

_WIDTH = 10


class Pace:
    """Accounts for the wall-clock time of a loop, in all and since the last lap.

    Args:
      clock: seconds, monotonic.

    Attributes:
      steps: steps done.
      data_seconds: time in which the host waited for batches.
      idle_seconds: the part of it in which the device had nothing to do (an upper bound: a wait during which the
        device ran dry counts in full).
      aside_seconds: time in callbacks and checkpoints, which is no part of the step rate.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forgets everything so far."""
        self.steps = 0
        self.data_seconds = self.idle_seconds = self.aside_seconds = 0.0
        self._start = self._lap = self._counters()

    def now(self) -> float:
        """Reads the clock."""
        return self._clock()

    def lap(self) -> None:
        """Begins a new lap."""
        self._lap = self._counters()

    def figures(self, lap: bool = False) -> dict[str, float]:
        """Rates since the last `reset`, or since the last `lap`.

        Returns:
          `steps_per_second`, and as fractions of the time spent on steps `data_wait` and `device_idle`.
        """
        since = self._lap if lap else self._start
        now, steps, data, idle, aside = (b - a for a, b in zip(since, self._counters(), strict=True))
        seconds = max(now - aside, 1e-9)
        return {"steps_per_second": steps / seconds, "data_wait": data / seconds, "device_idle": idle / seconds}

    def _counters(self) -> tuple[float, ...]:
        return self._clock(), self.steps, self.data_seconds, self.idle_seconds, self.aside_seconds


class Progress:
    """Draws the line.

    Args:
      total: steps of the whole run.
      label: first word.
      stream: where; stderr by default.
      every_seconds: at most one line in this time; by default 0.2 on a terminal, 10 elsewhere.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        total: int,
        label: str = "train",
        stream: TextIO | None = None,
        every_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._label, self._clock = total, label, clock
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._every = every_seconds if every_seconds is not None else (0.2 if self._live else 10.0)
        self._last = -float("inf")
        self._drawn = False

    def update(
        self, step: int, rate: float, loss: float, mfu: float | None = None, data_wait: float | None = None
    ) -> None:
        """Shows `step` finished steps at `rate` steps per second; the last step is always shown."""
        now = self._clock()
        if now - self._last < self._every and step != self._total:
            return
        self._last = now
        self._show(line(self._label, step, self._total, rate, loss, mfu, data_wait))

    def say(self, text: str) -> None:
        """Prints a whole line without tearing the progress line."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._drawn = False
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leaves the last line standing."""
        if self._drawn:
            self._stream.write("\n")
            self._stream.flush()
            self._drawn = False

    def _show(self, text: str) -> None:
        if self._live:
            columns = shutil.get_terminal_size().columns
            self._stream.write("\r\x1b[K" + text[: columns - 1])
            self._drawn = True
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


class _Nowhere(io.TextIOBase):
    """A stream that shows nothing."""

    def write(self, text: str) -> int:
        return len(text)


def open_progress(total: int) -> Progress:
    """The line of a run; only process 0 shows it."""
    return Progress(total, stream=None if jax.process_index() == 0 else _Nowhere())


def line(
    label: str, step: int, total: int, rate: float, loss: float, mfu: float | None, data_wait: float | None
) -> str:
    """The text of the line; what is None is left out."""
    full = _WIDTH * step // max(total, 1)
    parts = [
        f"{label} {step:>{len(str(total))}}/{total} |{'#' * full:<{_WIDTH}}|",
        f"{rate:.3g} steps/s" if rate >= 1 or rate <= 0 else f"{1 / rate:.3g} s/step",
        f"eta {duration((total - step) / rate) if rate > 0 else '?'}",
        f"loss {loss:.4g}",
    ]
    if mfu is not None:
        parts.append(f"mfu {mfu:.1%}")
    if data_wait is not None:
        parts.append(f"data wait {data_wait:.1%}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """`42s`, `3:05`, `1:02:03` or `2d 3:04:05`."""
    whole = max(0, round(seconds))
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    if days:
        return f"{days}d {hours}:{minutes:02}:{secs:02}"
    if hours:
        return f"{hours}:{minutes:02}:{secs:02}"
    return f"{minutes}:{secs:02}" if minutes else f"{secs}s"
