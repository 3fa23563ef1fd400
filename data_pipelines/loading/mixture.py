"""Which set each clip of a bucket comes from: exact shares, and any position without those before it.

Of q clips drawn with the shares w_0, w_1 ... (w_i = a_i / A, whole numbers) set 0 has given

    n_0(q) = floor((q a_0 + floor(A / 2)) / A),        and the others share the q - n_0(q) that remain alike,

so clip q is of set 0 where n_0(q + 1) > n_0(q), and it is clip n_0(q) of that set's own stream.  Shares are met to
within one clip at every position, and where they change, the counts go on.

Clips of one batch then trade places, in an order of (seed, bucket, batch): what depends on the row of an example, as
noise levels that are stratified over the batch, must not depend on the set.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np


@dataclasses.dataclass(frozen=True)
class Shares:
    """Shares of several sets from one batch of a bucket on.

    Attributes:
      batch: number, within the bucket, of the first batch that they hold for.
      weights: of each set, at least one above 0.
    """

    batch: int
    weights: tuple[Fraction, ...]


class Mixture:
    """Position of a clip in a bucket -> (set, position in that set's stream).

    Args:
      shares: ascending by `batch`, the first from batch 0 on.
      clips: in a batch.
      seed: of the bucket's order.
      shuffle: let the clips of a batch trade places.
    """

    def __init__(self, shares: Sequence[Shares], clips: int, seed: int, shuffle: bool):
        self._weights = [_whole(part.weights) for part in shares]
        self._first = [part.batch * clips for part in shares]
        self._clips, self._seed, self._shuffle = clips, seed, shuffle
        self._before = [(0,) * len(shares[0].weights)]
        for weights, first, following in zip(self._weights, self._first, self._first[1:]):
            given = _counts(weights, following - first)
            self._before.append(tuple(map(sum, zip(self._before[-1], given))))

    def __getitem__(self, position: int) -> tuple[int, int]:
        batch, row = divmod(position, self._clips)
        position = batch * self._clips + (int(self._rows(batch)[row]) if self._shuffle else row)
        stage = max(i for i, first in enumerate(self._first) if first <= position)
        within = position - self._first[stage]
        weights = self._weights[stage]
        now, then = _counts(weights, within), _counts(weights, within + 1)
        number = next(i for i, (a, b) in enumerate(zip(now, then)) if b > a)
        return number, self._before[stage][number] + now[number]

    def _rows(self, batch: int) -> np.ndarray:
        return _permutation(self._seed, batch, self._clips)


@functools.lru_cache(maxsize=64)
def _permutation(seed: int, batch: int, clips: int) -> np.ndarray:
    return np.random.default_rng((seed, batch)).permutation(clips)


def _whole(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """The same shares as whole numbers without a common divisor."""
    scale = math.lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * scale) for weight in weights]
    divisor = math.gcd(*whole)
    return tuple(number // divisor for number in whole)


def _counts(weights: Sequence[int], clips: int) -> tuple[int, ...]:
    """How many of the first `clips` clips each set has given."""
    total, counts = sum(weights), []
    for weight in weights:
        count = (clips * weight + total // 2) // total if total else 0
        counts.append(count)
        clips, total = clips - count, total - weight
    return tuple(counts)
