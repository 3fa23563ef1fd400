"""Stopping: signals in one process (see also test_loop), and two processes that stop, save and resume as one."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vdm_jax.training.checkpoint import restore_weights
from vdm_jax.training.preemption import StopSignals

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_the_first_signal_asks_and_the_second_interrupts(number, name):
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.requested(1) is None
        os.kill(os.getpid(), number)
        assert stop.requested(2) == name
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_thread_that_gets_no_signals_catches_none():
    answers = []

    def run():
        with StopSignals() as stop:
            answers.append(stop.requested(1))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert answers == [None]


@contextlib.contextmanager
def two_processes(workdir, steps: int, pause: float):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    processes = []
    try:
        for index in range(2):
            arguments = [str(port), str(index), str(workdir), str(steps), str(pause)]
            command = [sys.executable, "-m", "tests.training.two_processes", *arguments]
            with (Path(workdir).parent / f"{index}.err").open("a") as errors:
                streams = {"stdout": subprocess.PIPE, "stderr": errors, "text": True}
                processes.append(subprocess.Popen(command, **streams, cwd=ROOT, env=environment))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def started_at(process: subprocess.Popen) -> int:
    """Waits until the process trains; Gloo talks on stdout too."""
    for line in process.stdout:
        if line.startswith("started at "):
            return int(line.split()[-1])
    pytest.fail(f"the process ended with {process.wait()} before it trained")


def answers(processes, folder) -> list[str]:
    """The last line of each process, once both have ended well."""
    texts = [process.communicate(timeout=240)[0] for process in processes]
    errors = [(folder / f"{index}.err").read_text()[-2000:] for index in range(2)]
    assert [process.returncode for process in processes] == [0, 0], errors
    return [text.splitlines()[-1] for text in texts]


def test_two_processes_stop_together_and_fall_back_together(tmp_path):
    workdir = tmp_path / "run"
    with two_processes(workdir, steps=400, pause=0.05) as processes:
        assert [started_at(process) for process in processes] == [0, 0]
        while not (workdir / "checkpoints/5").exists():
            assert all(process.poll() is None for process in processes)
        processes[1].send_signal(signal.SIGTERM)  # to one of them only
        first, second = answers(processes, tmp_path)
    assert first == second
    assert "by a preemption notice" in first
    stopped = int(first.split()[2])
    newest = restore_weights(workdir / "checkpoints")  # in this third process, on one device
    assert newest.step == stopped
    assert newest.meta.data == {"next_index": stopped}

    (file, *_) = (workdir / f"checkpoints/{stopped}/state/d").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    older = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if int(p.name) < stopped)
    with two_processes(workdir, steps=stopped + 2, pause=0.0) as processes:
        assert [started_at(process) for process in processes] == [older, older]
        first, second = answers(processes, tmp_path)
    assert first == second
    assert first.startswith(f"ended at {stopped + 2} by None")
    said = "".join((tmp_path / f"{index}.err").read_text() for index in range(2))
    assert said.count(f"DAMAGED CHECKPOINT: step {stopped}") == 1
    assert restore_weights(workdir / "checkpoints").step == stopped + 2
