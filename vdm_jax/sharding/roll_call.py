"""Processes that end together: when one of a run dies, the others say which and end, instead of waiting for it.

A collective waits for all of its members, and JAX itself ends the others only after a heartbeat of 100 seconds, with a
C++ message that names nobody.  Beside each process a small watcher (`watcher.py`) notices its end at once and tells the
watchers of the others.

    with joined():          # on every process
        ...                 # an exception here ends the other processes too, with its message

A machine that goes silent is given up after `SILENCE` seconds.
"""

import atexit
import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vdm_jax.sharding import watcher
from vdm_jax.sharding.multihost import start

BEAT, SILENCE = 5.0, 30.0  # seconds
_ROOM = 1024  # bytes that process 0 broadcasts
_STATUS = re.compile("[A-Z_]+: ")

_failed = False


@contextlib.contextmanager
def joined(environ: Mapping[str, str] = os.environ) -> Iterator[bool]:
    """Joins the processes of this run (`multihost.start`); while it is entered they live and die together.

    Yields:
      Whether there are several.

    Raises:
      ValueError, RunError: see `multihost.start`.
    """
    if not start(environ):
        yield False
        return
    roll_call = RollCall(environ)
    try:
        yield True
    except BaseException as error:
        roll_call.fail(error)
        raise
    roll_call.leave()


class RollCall:
    """The watcher of this process, and what it says.

    Args:
      environ: for the address of process 0.
    """

    def __init__(self, environ: Mapping[str, str]):
        index, name = jax.process_index(), f"pid {os.getpid()} on {socket.gethostname()}"
        self._lost = threading.Event()
        about_me = {"index": index, "count": jax.process_count(), "pid": os.getpid(), "name": name}
        about_me |= {"beat": BEAT, "limit": SILENCE}
        if index == 0:
            hub = {"hub_name": name, "token": secrets.token_hex(8)}
            self._start(about_me | hub)
            port = int(self._process.stdout.readline().split()[1])
            address = environ.get("JAX_COORDINATOR_ADDRESS") or f"{socket.gethostname()}:0"
            _broadcast(hub | {"host": address.rpartition(":")[0].strip("[]"), "port": port})
        else:
            self._start(about_me | (hub := _broadcast({})))
            answer = self._process.stdout.readline().strip()
            if answer != "joined":
                where, why = f"{hub['host']}:{hub['port']}", answer.removeprefix("alone ") or "its watcher ended"
                print(
                    f"multihost: process {index} of {jax.process_count()} cannot reach the watcher of process 0 at"
                    f" {where} ({why}); if a process dies, this one will only notice by JAX's own heartbeat",
                    file=sys.stderr,
                    flush=True,
                )
        threading.Thread(target=self._listen, daemon=True).start()

    def leave(self) -> None:
        """This process has ended well."""
        self._say("left")

    def fail(self, error: BaseException) -> None:
        """This process has ended with an error; tells the others, unless the error is that one of them is gone."""
        if _STATUS.match(str(error)):  # of XLA, under several exception types: a collective may have lost a member
            self._lost.wait(2 * watcher.LINGER)
        global _failed
        _failed = True
        atexit.register(depart, 1)
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        self._say(f"failed {first[:500]}")

    def _start(self, options: Mapping[str, Any]) -> None:
        command = [sys.executable, "-I", "-S", watcher.__file__, json.dumps(options)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, **pipes, start_new_session=True)

    def _listen(self) -> None:
        """Ends this process when its watcher has said why; it may hang in a collective that no exception reaches."""
        if self._process.stdout.readline().strip() == "lost" and not _failed:
            self._lost.set()
            os._exit(1)

    def _say(self, word: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(word.replace("\n", " ") + "\n")
            self._process.stdin.flush()


def depart(status: int) -> None:
    """Ends this process at once if its part of the run failed; JAX's own shutdown would wait for the others."""
    if _failed:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def wait_for_all(name: str) -> None:
    """A barrier: returns when all processes have come to it; at once when there is one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _broadcast(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message of process 0, on all."""
    text = json.dumps(message).encode()
    room = np.frombuffer(text.ljust(_ROOM), np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(room).tobytes())
