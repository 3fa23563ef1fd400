"""Wall-clock comparison: the peers take turns in one process, so that what else the machine does hits all alike.

A turn begins with a call that is not timed.  Training steps follow each other at once, but between two turns of one
peer the others work for seconds, in which a virtual machine takes freed memory back: the next call of a peer that
frees its buffers (XLA on a CPU) then takes up to twice as long (d 512, 8 layers: 2.5 s, after 4 s of sleep 4.7 s).
"""

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of each peer, one entry a round."""

    seconds: Mapping[str, tuple[float, ...]]

    @property
    def rounds(self) -> int:
        return len(next(iter(self.seconds.values())))

    def median(self, peer: str) -> float:
        """Median seconds of a peer."""
        return statistics.median(self.seconds[peer])

    def deviation(self, peer: str) -> float:
        """Standard deviation over the rounds, in seconds; 0 for one round."""
        return statistics.stdev(self.seconds[peer]) if self.rounds > 1 else 0.0

    def ratio(self, ours: str, theirs: str) -> tuple[float, float, float]:
        """(median, smallest, largest) over the rounds of ours / theirs; below 1, ours is faster."""
        ratios = [a / b for a, b in zip(self.seconds[ours], self.seconds[theirs], strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def alternate(
    peers: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Runs the peers in turns of two calls, the second timed; who begins changes from round to round.

    Args:
      peers: name -> a call that returns when its work is done.
      rounds: turns, that is measured calls, of each.
      warm_up: calls of each before that (the first ones compile).
      clock: seconds, monotonic.
    """
    names = list(peers)
    for name in names:
        for _ in range(warm_up):
            peers[name]()
    seconds = {name: [] for name in names}
    gc.collect()
    for round_ in range(rounds):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            peers[name]()
            begin = clock()
            peers[name]()
            seconds[name].append(clock() - begin)
    return Times({name: tuple(values) for name, values in seconds.items()})
