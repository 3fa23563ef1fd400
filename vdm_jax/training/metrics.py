"""Metrics of the train step: averaged on the device by `clu.metrics`, read by the host one step late.

The step returns a dict of scalars (or of `clu.metrics.Average`, for means over a varying count, such as the loss of
one band of noise levels).  Two things are made of it:

  * the values of *every* step, fetched when the next step is already in the device's queue.  The copy to the host
    starts as soon as the value exists, so reading it never leaves the device without work, and at most two steps
    are ever in flight, which bounds the memory of waiting batches;
  * the average over the window since the last log line, merged on the device.

A window that a checkpoint falls into is saved with it (`window_state`), so that a resumed run writes the very
lines the uninterrupted one would have written.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics

Average = clu_metrics.Average
Window = dict[str, Average]


@dataclasses.dataclass(frozen=True)
class Reading:
    """The metrics of one finished step, on the host.

    Attributes:
      step: number of the step, counted from 1.
      values: its own values.
      window: averages over all steps since the last window was closed, or None if this step closed none.
    """

    step: int
    values: dict[str, float]
    window: dict[str, float] | None = None


def as_averages(values: Mapping[str, Any]) -> Window:
    """Turns the metrics of one step into averages that can be merged; scalars count once.  Traceable."""
    return {
        name: value if isinstance(value, Average) else Average.from_model_output(jnp.asarray(value, jnp.float32))
        for name, value in values.items()
    }


def merge(a: Window, b: Window) -> Window:
    """Merges two windows; the average of the result is over all that went into either.  Traceable."""
    if a.keys() != b.keys():
        raise ValueError(f"metrics: a step returned {sorted(b)} after one that returned {sorted(a)}")
    return {name: a[name].merge(b[name]) for name in a}


def compute(window: Window) -> dict[str, jax.Array]:
    """Float32 averages of a window; NaN for one into which nothing went.  Traceable."""
    return {name: value.compute() for name, value in window.items()}


@jax.jit
def _first(values):
    window = as_averages(values)
    return window, compute(window)


@jax.jit
def _next(window, values):
    step = as_averages(values)
    window = merge(window, step)
    return window, compute(step)


_compute = jax.jit(compute)


class LateMetrics:
    """Gives out the metrics of a step once the step after it is in the device's queue.

    Args:
      window: `window_state` of the checkpoint the run goes on from; empty for none.
    """

    def __init__(self, window: Mapping[str, Any] | None = None):
        self._window: Window | None = None
        self._saved = dict(window or {})
        self._pending: tuple[int, dict[str, jax.Array], dict[str, jax.Array] | None] | None = None

    def push(self, step: int, values: Mapping[str, Any], close_window: bool = False) -> Reading | None:
        """Takes the metrics of a step that was just dispatched; returns the reading of the step before.

        Args:
          step: its number.
          values: scalars on the device, or `clu.metrics.Average`.
          close_window: this step ends a window.
        """
        before = self._pending
        if self._saved:  # now that there is a value, it is known where the sums belong: on one device or on a mesh
            self._window = _window_from_state(self._saved, jax.tree.leaves(dict(values))[0].sharding)
            self._saved = {}
        if self._window is None:
            self._window, own = _first(values)
        else:
            self._window, own = _next(self._window, values)
        closed = None
        if close_window:
            closed, self._window = _compute(self._window), None
        for array in jax.tree.leaves((own, closed)):
            array.copy_to_host_async()
        self._pending = (step, own, closed)
        return _read(before)

    def flush(self) -> Reading | None:
        """Waits for the last step and returns its reading; None if it was given out already."""
        before, self._pending = self._pending, None
        return _read(before)

    def in_flight(self) -> bool:
        """Whether the device still works on the last step that was pushed.  Never waits."""
        return self._pending is not None and not all(a.is_ready() for a in self._pending[1].values())

    def window_state(self) -> dict[str, list]:
        """The sums of the open window as JSON types, exact; call after `flush`."""
        if self._saved:
            return self._saved
        window = jax.device_get(self._window or {})
        return {name: [float(average.total), float(average.count)] for name, average in window.items()}


def _read(pending) -> Reading | None:
    if pending is None:
        return None
    step, own, closed = jax.device_get(pending)
    window = None if closed is None else {name: float(value) for name, value in closed.items()}
    return Reading(step, {name: float(value) for name, value in own.items()}, window)


def _window_from_state(state: Mapping[str, Any], sharding: jax.sharding.Sharding) -> Window:
    # float32 and int32 survive JSON's decimal floats exactly
    averages = {name: Average(total=np.float32(total), count=np.int32(count)) for name, (total, count) in state.items()}
    return jax.device_put(averages, sharding)
