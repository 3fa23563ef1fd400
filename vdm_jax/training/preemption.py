"""Being asked to stop: Ctrl-C and SIGTERM end a run after the step under way, with a checkpoint.

In one process a signal sets a flag that the loop looks at between steps; a second one interrupts at once.  With
several processes they must all stop after the *same* step: there SIGTERM belongs to JAX's preemption service, which
spreads the notice and agrees on a step, and Ctrl-C is handed on to it.
"""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class StopSignals:
    """Catches the signals while it is entered; outside the main thread, which gets none, it catches nothing."""

    def __init__(self):
        self._received: str | None = None
        self._previous: dict[int, object] = {}
        self._several = jax.process_count() > 1

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind, error, traceback):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self, step: int) -> str | None:
        """What asked to stop, or None.  All processes call this with the same steps and get the same answer."""
        if self._several:
            return "a preemption notice" if multihost_utils.reached_preemption_sync_point(step) else None
        return self._received

    def _receive(self, number: int, frame) -> None:
        if self._received is not None:
            raise KeyboardInterrupt
        self._received = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        if self._several:
            signal.raise_signal(signal.SIGTERM)
