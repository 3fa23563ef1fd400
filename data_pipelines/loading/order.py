"""Which clips make which batch: arithmetic on positions, so that any batch can be asked for without those before it.

    position p of a bucket     clip shuffle(seed, epoch p // N)[p mod N]; its place in time and its flip from (seed, p)
    batch n of a bucket        sequences n B ... (n + 1) B - 1, each of K positions (K > 1 where clips are packed)
    step k of a run            turn k mod W of round k // W: every bucket `weight` times, in an order of (seed, round)

A host that loads only some rows of each batch goes over the same positions and skips the others.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence

import grain
import numpy as np

from vdm_jax.types import Bucket

_STRIDE = 0x9E3779B9  # odd: between the seeds of buckets, which would otherwise draw the same clips side by side


@dataclasses.dataclass(frozen=True)
class Picks:
    """Which clips make a batch; each field is [B K].

    Attributes:
      index: int64, position in the split.
      place: float64 in [0, 1), where between its earliest and its latest start a clip is cut.
      flip: bool, mirror left and right.
    """

    index: np.ndarray
    place: np.ndarray
    flip: np.ndarray


def bucket_picks(
    bucket: Bucket,
    number: int,
    records: int,
    seed: int,
    rows: np.ndarray,
    *,
    shuffle: bool,
    random_start: bool,
    flip: bool,
) -> grain.MapDataset:
    """The endless batches of one bucket as `Picks`, batch n at position n.

    Args:
      bucket: its shape.
      number: of the bucket in its run; each has an order of its own.
      records: clips of the split.
      seed: of the run.
      rows: positions within the global batch that this host loads.
      shuffle, random_start, flip: see `DataConfig`.
    """
    indices = grain.MapDataset.range(records).seed((seed + number * _STRIDE) % 2**32)
    if shuffle:
        indices = indices.shuffle()

    def draw(index: int, rng: np.random.Generator) -> tuple[int, float, bool]:
        place, mirror = rng.random(), bool(rng.integers(2))
        return int(index), place if random_start else 0.0, flip and mirror

    if random_start or flip:
        clips = indices.repeat().random_map(draw)
    else:
        clips = indices.repeat().map(lambda index: (int(index), 0.0, False))
    count = len(bucket.clips)
    mine = _Rows((rows[:, None] * count + np.arange(count)).ravel(), bucket.batch * count)
    return grain.MapDataset.select_from_datasets([clips], mine).batch(len(rows) * count, batch_fn=_stack)


def in_turn(buckets: Sequence[Bucket], batches: Sequence[grain.MapDataset], seed: int, shuffle: bool):
    """The endless batches of a run: those of all buckets, each step of one bucket."""
    if len(buckets) == 1:
        return batches[0]
    return grain.MapDataset.select_from_datasets(list(batches), Turns(buckets, seed, shuffle))


class Turns(grain.transforms.DatasetSelectionMap):
    """Step k -> (bucket, number of the batch within that bucket)."""

    def __init__(self, buckets: Sequence[Bucket], seed: int, shuffle: bool):
        self._weights = np.array([bucket.weight for bucket in buckets])
        self._round = np.repeat(np.arange(len(buckets)), self._weights)
        self._seed, self._shuffle = seed % 2**32, shuffle

    def __len__(self) -> int:
        return sys.maxsize // int(self._weights.max())

    def __getitem__(self, step: int) -> tuple[int, int]:
        number, turn = divmod(int(step), len(self._round))
        order = self._order(number)
        bucket = int(order[turn])
        return bucket, number * int(self._weights[bucket]) + int((order[:turn] == bucket).sum())

    def _order(self, number: int) -> np.ndarray:
        return _shuffled(self._seed, number, tuple(self._round)) if self._shuffle else self._round


@functools.lru_cache(maxsize=64)
def _shuffled(seed: int, number: int, turns: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng((seed, number)).permutation(turns)


class _Rows(grain.transforms.DatasetSelectionMap):
    """Some rows of each batch of consecutive positions: j -> row j mod r of batch j // r."""

    def __init__(self, rows: np.ndarray, batch: int):
        self._rows, self._batch = rows.tolist(), batch

    def __len__(self) -> int:
        return sys.maxsize // self._batch * len(self._rows)

    def __getitem__(self, position: int) -> tuple[int, int]:
        number, row = divmod(int(position), len(self._rows))
        return 0, number * self._batch + self._rows[row]


def _stack(picks: list[tuple[int, float, bool]]) -> Picks:
    index, place, flip = zip(*picks)
    return Picks(np.array(index, np.int64), np.array(place, np.float64), np.array(flip, bool))
