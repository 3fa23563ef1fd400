"""Resume under real conditions: another process is killed, interrupted, or already at work."""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.training import toy_run
from vdm_jax.errors import RunError

ROOT = Path(__file__).parents[2]
STEPS = 60


@contextlib.contextmanager
def running(workdir, pause: float = 0.02):
    """The toy run in a process of its own."""
    command = [sys.executable, "-m", "tests.training.toy_run", str(workdir), str(STEPS), "--pause", str(pause)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_step(process: subprocess.Popen, step: int) -> None:
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("train") and int(line.split()[1].split("/")[0]) >= step:
            return
    pytest.fail(f"the run ended before step {step}:\n{''.join(seen)}")


def losses(workdir) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in lines]


def bits(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reference")
    return workdir, toy_run.run(workdir, STEPS)


@pytest.mark.parametrize("attempt", range(2))
def test_killed_at_a_random_moment_it_ends_bit_for_bit_the_same(tmp_path, uninterrupted, attempt):
    """The kill may hit a step, a save under way, a line being written: whatever it was, the run goes on from there."""
    at = int(np.random.default_rng().integers(1, STEPS - 10))
    with running(tmp_path) as process:
        wait_for_step(process, at)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / f"checkpoints/{STEPS}").exists()
    outcome = toy_run.run(tmp_path, STEPS)
    reference, expected = uninterrupted
    assert bits(outcome.state) == bits(expected.state), f"killed at step {at}"
    assert losses(tmp_path) == losses(reference), f"killed at step {at}"


def test_it_is_alone_and_ctrl_c_saves(tmp_path, uninterrupted):
    with running(tmp_path) as process:
        wait_for_step(process, 7)
        with pytest.raises(RunError, match=f"in use by process {process.pid} on"):
            toy_run.run(tmp_path, STEPS)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait() == 0
    assert "stopped by Ctrl-C: step " in said
    assert "Traceback" not in said
    step = int(said.partition("stopped by Ctrl-C: step ")[2].split()[0])
    assert (tmp_path / f"checkpoints/{step}").is_dir()
    outcome = toy_run.run(tmp_path, STEPS)
    reference, expected = uninterrupted
    assert bits(outcome.state) == bits(expected.state)
    assert losses(tmp_path) == losses(reference)
