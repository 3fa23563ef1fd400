"""The loop: its order, its invariants, and that a run interrupted anywhere ends as if it had not been."""

import io
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import toy_run
from vdm_jax.errors import RunError
from vdm_jax.training import loop
from vdm_jax.training.callbacks import Evaluate, EveryN, Once
from vdm_jax.training.checkpoint import CheckpointConfig, Checkpointer, restore_weights
from vdm_jax.training.loop import Start, start_or_resume
from vdm_jax.training.metrics import LateMetrics
from vdm_jax.training.progress import Pace, Progress

STEPS = 14

# As this process was started: a shell's background job ignores Ctrl-C, say.
HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def losses(workdir) -> list[dict]:
    """The lines of metrics.jsonl without what a clock has measured."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in lines]


def saved_steps(workdir) -> list[int]:
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


def bits(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


class Signalling(toy_run.ToyData):
    """Sends this process a signal while it draws batch `at` (from 1)."""

    def __init__(self, at: int, number: int):
        super().__init__()
        self._at, self._number = at, number

    def __next__(self):
        if self._next + 1 == self._at:
            os.kill(os.getpid(), self._number)
        return super().__next__()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reference")
    return workdir, toy_run.run(workdir, STEPS)


@pytest.mark.parametrize("cut", [1, 4, 5, 6, 13])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_says_how_to_go_on_and_ends_bit_for_bit_the_same(tmp_path, uninterrupted, cut, number):
    said = io.StringIO()
    outcome = toy_run.run(
        tmp_path,
        STEPS,
        data=Signalling(cut, number),
        progress=Progress(STEPS, stream=said),
        how_to_go_on="type the same again",
    )
    name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[number]
    assert (outcome.step, outcome.stopped_by) == (cut, name)
    assert f"stopped by {name}: step {cut} is saved; to go on, type the same again" in said.getvalue()
    assert saved_steps(tmp_path)[-1] == cut
    finished = toy_run.run(tmp_path, STEPS)
    reference, expected = uninterrupted
    assert (finished.step, finished.stopped_by) == (STEPS, None)
    assert bits(finished.state) == bits(expected.state)
    assert losses(tmp_path) == losses(reference)


def test_the_signals_are_given_back(uninterrupted):
    assert {number: signal.getsignal(number) for number in HANDLERS} == HANDLERS


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    class Twice(Signalling):
        def __next__(self):
            batch = super().__next__()
            if self._next == self._at:
                os.kill(os.getpid(), self._number)
            return batch

    with pytest.raises(KeyboardInterrupt):
        toy_run.run(tmp_path, STEPS, data=Twice(3, signal.SIGINT))
    assert saved_steps(tmp_path) == []


def test_every_step_is_computed_once_and_the_end_is_saved(uninterrupted):
    workdir, outcome = uninterrupted
    assert int(outcome.state.step) == STEPS
    assert saved_steps(workdir) == [5, 10, STEPS]
    assert [line["step"] for line in losses(workdir)] == [3, 6, 9, 12, STEPS]


def test_the_saved_data_position_is_that_of_the_step(uninterrupted):
    workdir, _ = uninterrupted
    for step in saved_steps(workdir):
        meta = restore_weights(workdir / "checkpoints", step=step).meta
        assert meta.data == {"next_index": step}
        assert meta.process == {"kind": "toy"}
        assert meta.config["train"]["steps"] == STEPS


def test_a_finished_run_does_nothing_and_can_be_prolonged(tmp_path, uninterrupted):
    toy_run.run(tmp_path, 6)
    again = toy_run.run(tmp_path, 6, data=toy_run.ToyData(length=6))
    assert (again.step, again.stopped_by) == (6, None)
    longer = toy_run.run(tmp_path, STEPS)
    assert bits(longer.state) == bits(uninterrupted[1].state)


def test_the_order_of_things(tmp_path):
    events = []

    class Data(toy_run.ToyData):
        def __next__(self):
            events.append(("batch", self._next + 1))
            return super().__next__()

        def get_state(self):
            events.append(("save", self._next))
            return super().get_state()

    data = Data()

    def step(state, batch):
        events.append(("step", data._next))
        return toy_run.STEP(state, batch)

    toy_run.run(
        tmp_path,
        4,
        every=2,
        data=data,
        step=step,
        check=lambda number, values: events.append(("read", number)),
        callbacks=[Evaluate(EveryN(2), lambda state: events.append(("evaluate", int(state.step))) or {})],
    )
    assert events == [
        *[("batch", 1), ("step", 1), ("read", 1)],  # the first step is waited for, to know when compiling is over
        *[("batch", 2), ("step", 2), ("read", 2), ("evaluate", 2), ("save", 2)],
        *[("batch", 3), ("step", 3)],
        *[("batch", 4), ("step", 4), ("read", 3), ("read", 4), ("evaluate", 4), ("save", 4)],
    ]


def test_a_hidden_transfer_is_an_error(tmp_path):
    def step(state, batch):
        return toy_run.STEP(state, {"x": np.zeros((4, 8), np.float32)})

    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        toy_run.run(tmp_path, 3, step=step)


def test_callbacks_may_transfer(tmp_path):
    measure = Evaluate(Once(2), lambda state: {"sum": jnp.sum(state.params["backbone"]["w"] + np.ones(16))})
    toy_run.run(tmp_path, 3, callbacks=[measure])
    assert [line["step"] for line in losses(tmp_path) if "eval/sum" in line] == [2]


def test_the_guard_stops_the_run_before_anything_is_saved(tmp_path):
    def check(step, values):
        assert np.isfinite(values["loss"])
        if step == 10:
            raise RunError("too many skipped updates")

    with pytest.raises(RunError, match="too many skipped updates"):
        toy_run.run(tmp_path, STEPS, check=check)
    assert saved_steps(tmp_path) == [5]


def test_data_that_ends_is_said(tmp_path):
    with pytest.raises(ValueError, match="data: it ended after 3 batches; training data must repeat"):
        toy_run.run(tmp_path, STEPS, data=toy_run.ToyData(length=3))


def test_an_error_in_a_callback_keeps_what_was_saved(tmp_path, uninterrupted):
    def fail(state):
        raise RuntimeError("no GPU for the judge")

    with pytest.raises(RuntimeError, match="no GPU for the judge"):
        toy_run.run(tmp_path, STEPS, callbacks=[Evaluate(Once(7), fail)])
    assert saved_steps(tmp_path) == [5]
    assert bits(toy_run.run(tmp_path, STEPS).state) == bits(uninterrupted[1].state)


def test_a_damaged_newest_step_costs_only_the_way_from_the_one_before(tmp_path, uninterrupted, capfd):
    toy_run.run(tmp_path, 12)
    (tmp_path / "checkpoints/12/state/_METADATA").write_text("{")
    outcome = toy_run.run(tmp_path, STEPS)
    assert "DAMAGED CHECKPOINT: step 12" in capfd.readouterr().err
    reference, expected = uninterrupted
    assert bits(outcome.state) == bits(expected.state)
    assert losses(tmp_path) == losses(reference)


def test_the_log_holds_the_pace(tmp_path):
    toy_run.run(tmp_path, 6, log=2, flops_per_step=1e9)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        assert line["perf/steps_per_second"] > 0
        assert 0 <= line["perf/device_idle"] <= line["perf/data_wait"] < 1
        assert "perf/mfu" not in line  # nobody knows the peak of a CPU


@pytest.mark.parametrize(("busy", "idle"), [(True, 0.0), (False, 1.0)])
def test_a_wait_for_data_is_idle_time_unless_the_device_was_busy(tmp_path, monkeypatch, busy, idle):
    seconds = [0.0]  # time passes only while a batch is awaited

    class Slow(toy_run.ToyData):
        def __next__(self):
            seconds[0] += 1.0
            return super().__next__()

    monkeypatch.setattr(loop, "Pace", lambda: Pace(lambda: seconds[0]))
    monkeypatch.setattr(LateMetrics, "in_flight", lambda self: busy)
    toy_run.run(tmp_path, 6, data=Slow(), log=6, every=100)
    (line,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    figures = (line["perf/data_wait"], line["perf/device_idle"], line["perf/steps_per_second"])
    assert figures == pytest.approx((1.0, idle, 1.0))


def test_a_start_is_new_or_moves_the_data(tmp_path):
    data = toy_run.ToyData()
    with Checkpointer(tmp_path, CheckpointConfig()) as checkpointer:
        start = start_or_resume(checkpointer, toy_run.abstract(), toy_run.init, data)
        assert isinstance(start, Start)
        assert (start.step, data.get_state()) == (0, {"next_index": 0})
