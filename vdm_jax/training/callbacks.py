"""What happens beside the steps: when (schedules) and what (callbacks).

A schedule is a function of the step alone, never of a clock or of earlier calls, so that a resumed run evaluates
and samples at the very steps the uninterrupted one would.  A callback gets an `Event` and may take its time: the loop
keeps that time out of the step rate.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from vdm_jax.training.writers import MetricWriter


class Schedule(Protocol):
    """Whether something is due after `step` finished steps."""

    def __call__(self, step: int, last: bool) -> bool: ...


@dataclasses.dataclass(frozen=True)
class EveryN:
    """Every `n` steps, and after the last one unless `also_last` is False; `n=None` is never."""

    n: int | None
    also_last: bool = True

    def __post_init__(self):
        if self.n is not None and self.n < 1:
            raise ValueError(f"n: {self.n!r} is not a number of steps; allowed: 1 or more, or None for never")

    def __call__(self, step: int, last: bool) -> bool:
        return self.n is not None and (step % self.n == 0 or (last and self.also_last))


@dataclasses.dataclass(frozen=True)
class Once:
    """After one step and never again (e.g. a profile, or a first look at samples)."""

    step: int

    def __call__(self, step: int, last: bool) -> bool:
        return step == self.step


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """The `log` section of a config; all in steps, None is never.

    Attributes:
      every: metrics, averaged over these steps.
      eval_every: evaluation on held-out clips.
      sample_every: sample videos.
      wandb: project name, to send everything to Weights & Biases too.
    """

    every: int = 50
    eval_every: int | None = 1000
    sample_every: int | None = 1000
    wandb: str | None = None

    def __post_init__(self):
        for name in ("every", "eval_every", "sample_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value!r} is not a number of steps; allowed: 1 or more")


@dataclasses.dataclass(frozen=True)
class Event:
    """What a callback is told.

    Attributes:
      step: number of finished steps.
      state: the train state after it; the next step will take its buffers, so keep no reference to it.
      writer: where results go.
      last: True when no step follows.
    """

    step: int
    state: Any
    writer: MetricWriter
    last: bool


class Callback(Protocol):
    """Something that is done with the state every so often; an error it raises ends the run."""

    when: Schedule

    def __call__(self, event: Event) -> None: ...


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Writes the scalars that `measure(state)` returns, under `prefix/`.

    Attributes:
      when: the schedule.
      measure: train state -> `{name: scalar}`.
      prefix: first part of the metric names.
    """

    when: Schedule
    measure: Callable[[Any], Mapping[str, Any]]
    prefix: str = "eval"

    def __call__(self, event: Event) -> None:
        scalars = {f"{self.prefix}/{name}": float(value) for name, value in self.measure(event.state).items()}
        event.writer.write_scalars(event.step, scalars)


@dataclasses.dataclass(frozen=True)
class SampleVideos:
    """Writes the videos that `sample(state)` returns to the summaries and, through `save`, to files.

    Attributes:
      when: the schedule.
      sample: train state -> `{name: uint8 [B, T, H, W, 3]}`.
      fps: frames per second they are shown at.
      save: `save(step, name, videos)` keeps them as files; None keeps them in the summaries only.
    """

    when: Schedule
    sample: Callable[[Any], Mapping[str, np.ndarray]]
    fps: float = 8.0
    save: Callable[[int, str, np.ndarray], None] | None = None

    def __call__(self, event: Event) -> None:
        videos = {name: np.asarray(video) for name, video in self.sample(event.state).items()}
        event.writer.write_videos(event.step, {f"samples/{name}": v for name, v in videos.items()}, fps=self.fps)
        if self.save is not None:
            for name, video in videos.items():
                self.save(event.step, name, video)
