"""The training loop.  Its order is fixed and is the whole of it:

    1. take the next batch and put it on the devices
    2. dispatch one step
    3. read the metrics of the step *before* it: guard, log, progress
    4. callbacks that are due: evaluation, sample videos
    5. checkpoint, if due
    6. stop after this step, if asked to

Between steps the host never waits for the step it has just dispatched, except where 4 and 5 are due; a transfer
guard turns every copy between host and device outside of 1, 3, 4 and 5 into an error.  Invariant: the data iterator
is only advanced in 1, so the iterator state saved in 5 is the one after exactly `step` batches, and a resumed run
sees the batch that the interrupted one would have seen.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax

from vdm_jax.training.callbacks import Callback, Event, Schedule
from vdm_jax.training.checkpoint import Checkpointer, StepMeta
from vdm_jax.training.flops import mfu
from vdm_jax.training.metrics import LateMetrics, Reading
from vdm_jax.training.preemption import StopSignals
from vdm_jax.training.progress import Pace, Progress
from vdm_jax.training.writers import MetricWriter


class DataIterator(Protocol):
    """Endless batches whose position is a small JSON dict (Grain's iterators are such)."""

    def __next__(self) -> Any: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a run begins: finished steps, the state after them, and the open metric window."""

    step: int
    state: Any
    window: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: finished steps, the last state, and what stopped it early (None: nothing did)."""

    step: int
    state: Any
    stopped_by: str | None = None


@dataclasses.dataclass(frozen=True)
class Loop:
    """The parts of a run.

    Attributes:
      steps: total number of steps, resumed ones included.
      step: `(state, batch) -> (state, metrics)`, jitted, donates the state; metrics: see `metrics.py`, with a `loss`.
      data: batches; already at the position of the start.
      place: puts a host batch on the devices; the one part of a step that may.
      checkpointer: where steps are saved, and how often.
      meta: what is saved beside the state; the loop fills in `data` and `window`.
      writer: where metrics go.
      progress: the line a person watches.
      log: when a window of metrics is written.
      callbacks: called in this order.
      check: `check(step, values)` for the metrics of every step; raises to stop the run (the guard).
      flops_per_step: model FLOPs of a step over all devices, for MFU; None if unknown.
      how_to_go_on: said when the run is stopped.
    """

    steps: int
    step: Callable[[Any, Any], tuple[Any, Mapping[str, Any]]]
    data: DataIterator
    place: Callable[[Any], Any]
    checkpointer: Checkpointer
    meta: StepMeta
    writer: MetricWriter
    progress: Progress
    log: Schedule
    callbacks: Sequence[Callback] = ()
    check: Callable[[int, Mapping[str, float]], None] | None = None
    flops_per_step: float | None = None
    how_to_go_on: str = "start the same command again"


def start_or_resume(checkpointer: Checkpointer, abstract: Any, init: Callable[[], Any], data: DataIterator) -> Start:
    """Restores the newest intact checkpoint and moves `data` to its position; begins with `init()` if there is none.

    Args:
      abstract: the state as `jax.ShapeDtypeStruct`s with shardings.

    Raises:
      ValueError, RunError: see `Checkpointer.restore`.
    """
    restored = checkpointer.restore(abstract)
    if restored is None:
        return Start(0, init())
    data.set_state(restored.meta.data)
    return Start(restored.step, restored.state, restored.meta.window)


def train(loop: Loop, start: Start) -> Outcome:
    """Trains from `start` to `loop.steps`, or until asked to stop; the last step is saved in either case.

    Raises:
      RunError: the disk or the guard gave up; checkpoints that were complete stay as they are.
      ValueError: the data ended.
    """
    state, step, saved = start.state, start.step, start.step
    watch = _Watch(loop, start)
    with contextlib.ExitStack() as stack:
        stack.callback(loop.progress.close)
        signals = stack.enter_context(StopSignals())
        stack.enter_context(jax.transfer_guard("disallow"))
        stopped_by = signals.requested(step)
        while step < loop.steps and stopped_by is None:
            with watch.waiting(), jax.transfer_guard_host_to_device("allow"):
                batch = loop.place(_next_batch(loop.data, step))
            state, metrics = loop.step(state, batch)
            step += 1
            last = step == loop.steps
            watch.push(step, metrics, close_window=loop.log(step, last))
            due = [callback for callback in loop.callbacks if callback.when(step, last)]
            if due:
                with watch.aside():
                    for callback in due:
                        callback(Event(step, state, loop.writer, last))
            stopped_by = signals.requested(step)
            if step % loop.checkpointer.config.every == 0 or last or stopped_by is not None:
                with watch.aside():
                    _save(loop, step, state, watch)
                saved = step
        loop.checkpointer.wait()
        if stopped_by is not None and step < loop.steps:
            at = f"step {saved} is saved" if saved else "no step was finished"
            loop.progress.say(f"stopped by {stopped_by}: {at}; to go on, {loop.how_to_go_on}")
    return Outcome(step, state, stopped_by if step < loop.steps else None)


def _next_batch(data: DataIterator, step: int) -> Any:
    try:
        return next(data)
    except StopIteration:
        raise ValueError(f"data: it ended after {step} batches; training data must repeat") from None


def _save(loop: Loop, step: int, state: Any, watch: "_Watch") -> None:
    loop.writer.flush()  # a checkpoint must not be ahead of the curves that lead to it
    meta = dataclasses.replace(loop.meta, data=loop.data.get_state(), window=watch.late.window_state())
    loop.checkpointer.save(step, state, meta)


class _Watch:
    """What the host sees of the steps: late metrics, time, and what it makes of them."""

    def __init__(self, loop: Loop, start: Start):
        self._loop = loop
        self._first = start.step + 1
        self._devices = jax.devices()
        self.late = LateMetrics(start.window)
        self.pace = Pace()

    @contextlib.contextmanager
    def waiting(self):
        """Accounts for the wait for a batch; the device idles in it if the step before is done when it ends."""
        begin = self.pace.now()
        yield
        seconds = self.pace.now() - begin
        self.pace.data_seconds += seconds
        if not self.late.in_flight():
            self.pace.idle_seconds += seconds

    @contextlib.contextmanager
    def aside(self):
        """For work beside the steps: catches up with the metrics, allows transfers, stops the step clock."""
        self._observe(self.late.flush())
        begin = self.pace.now()
        with jax.transfer_guard("allow"):
            yield
        self.pace.aside_seconds += self.pace.now() - begin

    def push(self, step: int, metrics: Mapping[str, Any], close_window: bool) -> None:
        self.pace.steps += 1
        self._observe(self.late.push(step, metrics, close_window))
        if step == self._first:  # the first step compiles: it is waited for and kept out of the rate
            self._observe(self.late.flush(), show=False)
            seconds = 1 / max(self.pace.figures(lap=False)["steps_per_second"], 1e-9)
            self._loop.progress.say(f"first step done: {seconds:.1f} s")
            self.pace.reset()

    def _observe(self, reading: Reading | None, show: bool = True) -> None:
        if reading is None:
            return
        if self._loop.check is not None:
            self._loop.check(reading.step, reading.values)
        if show:
            now = self._figures(lap=False)
            loss = reading.values["loss"]
            self._loop.progress.update(reading.step, now["steps_per_second"], loss, now.get("mfu"), now["data_wait"])
        if reading.window is not None:
            performance = {f"perf/{name}": value for name, value in self._figures(lap=True).items()}
            self._loop.writer.write_scalars(reading.step, reading.window | performance)
            self.pace.lap()

    def _figures(self, lap: bool) -> dict[str, float]:
        """The figures of the pace, and MFU where it is known."""
        figures = self.pace.figures(lap)
        seconds = 1 / max(figures["steps_per_second"], 1e-9)
        utilisation = mfu(self._loop.flops_per_step, seconds, len(self._devices), self._devices[0].device_kind)
        return figures if utilisation is None else figures | {"mfu": utilisation}
