"""Worker processes that make batches, for where Python, and not the decoder, is the limit.

Worker w of n makes the batches start + w, start + w + n, ... and writes each into a pipe of its own; a thread here
reads the pipes in turn.  A worker that is ahead waits in its pipe, so in memory are at most one batch for each worker
and `prefetch_batches` here, and a worker keeps no cache.  As batch k is a function of the plan and k, the batches are
those of the read threads, and one that takes the place of a killed worker starts with the batch that is due.

A worker ends with its parent however that ends: it waits for the end of a pipe that only the parent holds, and looks
whose child it is.
"""

import logging
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from typing import Any

from data_pipelines.loading.clips import Batch
from data_pipelines.loading.plan import Plan
from data_pipelines.loading.settings import DataConfig
from vdm_jax.errors import RunError

_TRIES = 3  # workers in a row that may be killed over one batch
_LOOK_SECONDS = 2.0  # between two looks at whose child a worker is
_LOG = logging.getLogger(__name__)

Damage = dict[str, dict[int, str]]


def packed(plan: Plan) -> bytes:
    """A plan as it is sent to processes, each of which would keep all clips if it had a cache.

    Raises:
      ValueError: it cannot be sent, because of its tokenizer.
    """
    try:
        return pickle.dumps(plan.without_cache())
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"data.workers: {plan.config.workers}, but processes cannot be sent this: {error}") from None


class Workers:
    """Batches `start`, `start + 1` ... of a plan, made by `config.workers` processes.

    Args:
      config: section `data`.
      plan: of `packed`.
      start: number of the first one.
      damaged: set -> index -> what is wrong; what workers meet is put in here.
    """

    def __init__(self, config: DataConfig, plan: bytes, start: int, damaged: Damage):
        self._config, self._plan, self._damaged = config, plan, damaged
        self._start = self._next = start
        self._closing = threading.Event()
        self._error: Exception | None = None
        self._ready: queue.Queue[tuple[Batch, Damage] | Exception] = queue.Queue(config.prefetch_batches)
        count = config.workers
        self._workers = [_Worker(plan, number, start + number, count) for number in range(count)]
        self._collector = threading.Thread(target=self._collect, name="loader-collect", daemon=True)
        self._collector.start()

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
          RunError: a clip is damaged, or worker after worker is killed.
        """
        if self._error is None:
            item = self._ready.get()
            if isinstance(item, Exception):
                self._error = item
            else:
                batch, damage = item
                self._count(damage)
                return batch
        raise self._error

    def close(self) -> None:
        """Ends the processes."""
        self._closing.set()
        for worker in self._workers:
            worker.kill()
        self._collector.join()

    @property
    def pids(self) -> list[int]:
        """Of the processes at work."""
        return [worker.process.pid for worker in self._workers]

    def _collect(self) -> None:
        """Reads the pipes in turn until told to close, or until something is wrong."""
        while not self._closing.is_set():
            try:
                item = self._received((self._next - self._start) % len(self._workers))
            except Exception as error:  # whatever it is, the one who waits for the batch must hear of it
                item = error
            self._put(item)
            if isinstance(item, Exception):
                return
            self._next += 1

    def _received(self, slot: int) -> tuple[Batch, Damage] | Exception:
        """What a worker made of the batch that is due; another takes its place if it is killed."""
        for attempt in range(1, _TRIES + 1):
            worker = self._workers[slot]
            try:
                return worker.connection.recv()
            except (EOFError, OSError):
                if self._closing.is_set():
                    return RunError("loader: closed")
            said = f"{worker.ended()} at batch {self._next}"
            if not worker.killed:
                return RunError(f"loader: {said}")
            if attempt == _TRIES:
                return RunError(
                    f"loader: {said}, as were the {_TRIES - 1} before it; fewer data.workers need less memory"
                )
            _LOG.warning("loader: %s; another takes its place", said)
            self._workers[slot] = _Worker(self._plan, slot, self._next, len(self._workers))
        raise AssertionError

    def _put(self, item: tuple[Batch, Damage] | Exception) -> None:
        while not self._closing.is_set():
            try:
                return self._ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def _count(self, damage: Mapping[str, Mapping[int, str]]) -> None:
        """Adds up what single workers have met, and holds it against the budget."""
        for shards, clips in damage.items():
            met = self._damaged.setdefault(shards, {})
            met |= clips
            if len(met) > (budget := self._config.damage_budget):
                last = next(reversed(clips.values()))
                raise RunError(f"{len(met)} damaged clips, more than damage_budget={budget}; the last: {last}")


class _Worker:
    """One process: makes the batches first, first + stride, ..."""

    def __init__(self, plan: bytes, number: int, first: int, stride: int):
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks, and JAX forbids it
        self.number = number
        self.connection, theirs = context.Pipe(duplex=False)
        arguments = (plan, first, stride, theirs, os.getpid())
        self.process = context.Process(target=_serve, args=arguments, name=f"loader-{number}", daemon=True)
        self.process.start()
        theirs.close()  # or its end would not be seen here

    def kill(self) -> None:
        """Ends it, whatever it is doing; it holds nothing that would be lost."""
        self.process.kill()
        self.process.join()

    def ended(self) -> str:
        """`worker 1 (pid 123) was killed by SIGKILL`, once its pipe has ended."""
        self.process.join()
        code = self.process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return f"worker {self.number} (process {self.process.pid}) {how}"

    @property
    def killed(self) -> bool:
        """By a signal, as by the system for want of memory."""
        return self.process.exitcode < 0


def _serve(plan: bytes, first: int, stride: int, connection: Connection, parent: int) -> None:
    """The whole life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends this one
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    number = first
    try:
        opened = pickle.loads(plan).open()
        while True:
            batch = opened.order[number]
            damage = {shards: dict(source.damaged) for shards, source in opened.sources.items() if source.damaged}
            connection.send((batch, damage))
            number += stride
    except (RunError, ValueError) as error:
        connection.send(error)
    except BrokenPipeError:
        os._exit(0)  # nobody reads on
    except Exception as error:
        error.add_note(f"in a loader worker, at batch {number}:\n{traceback.format_exc()}")
        connection.send(error)


def _end_with(parent: int) -> None:
    """Ends this process when its parent has."""
    process: Any = multiprocessing.parent_process()
    while os.getppid() == parent and not wait([process.sentinel], _LOOK_SECONDS):
        pass
    os._exit(1)
