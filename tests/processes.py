"""Real processes on this machine: one command several times, joined through one coordinator."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Group:
    """The processes of one run; `[index]` is the process."""

    def __init__(self, processes: Sequence[subprocess.Popen], folder: Path):
        self._processes, self._folder = processes, folder

    def __getitem__(self, index: int) -> subprocess.Popen:
        return self._processes[index]

    def __len__(self) -> int:
        return len(self._processes)

    def said(self, index: int) -> str:
        """What a process has written so far, errors included."""
        return (self._folder / f"{index}.log").read_text(errors="replace")

    def wait_until(self, condition, seconds: float = 120) -> None:
        """Waits for a condition while all processes are alive."""
        deadline = time.monotonic() + seconds
        while not condition():
            dead = [i for i, process in enumerate(self._processes) if process.poll() is not None]
            assert not dead, f"process {dead[0]} ended:\n{self.said(dead[0])[-3000:]}"
            assert time.monotonic() < deadline, "\n".join(self.said(i)[-3000:] for i in range(len(self)))
            time.sleep(0.05)

    def wait(self, seconds: float = 180) -> list[int]:
        """The exit statuses, once all have ended."""
        deadline = time.monotonic() + seconds
        return [process.wait(max(0.1, deadline - time.monotonic())) for process in self._processes]

    def finish(self) -> None:
        """Waits for all to end well."""
        status = self.wait()
        assert status == [0] * len(self), "\n".join(self.said(i)[-3000:] for i in range(len(self)))


@contextlib.contextmanager
def together(words: Sequence[str], count: int, folder: Path, devices: int = 1, **environ: str) -> Iterator[Group]:
    """Runs `python WORDS` in `count` processes with `devices` fake devices each; kills what is left at the end.

    Args:
      words: of the command line.
      count: processes; one is not joined to anything.
      folder: where what they write goes; made if absent.
      devices: of each.
      environ: further variables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])
    shared = {**os.environ, "XLA_FLAGS": flags, **environ}
    if count > 1:
        shared |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(count)}
    processes = []
    try:
        for index in range(count):
            own = {"JAX_PROCESS_ID": str(index)} if count > 1 else {}
            with (folder / f"{index}.log").open("w") as log:
                options = {"stdout": log, "stderr": subprocess.STDOUT, "cwd": ROOT, "env": {**shared, **own}}
                processes.append(subprocess.Popen([sys.executable, *map(str, words)], **options))
        yield Group(processes, folder)
    finally:
        for process in processes:
            process.kill()
            process.wait()
