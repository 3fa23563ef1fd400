"""Which clips make which batch: arithmetic on positions, so that any batch can be asked for without those before it.

    position p of a set's      clip shuffle(seed, epoch p // N)[p mod N] of the N that fill the bucket; what else is
      stream in a bucket         drawn for it (place, flip, crop, caption) from (seed, p)
    position of a bucket       a set and a position in its stream (`mixture.py`); with one set, that position
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

from data_pipelines.loading.mixture import Mixture
from vdm_jax.types import Bucket

_STRIDE = 0x9E3779B9  # odd: between the seeds of buckets, which would otherwise draw the same clips side by side
_SET_STRIDE = 0x85EBCA6B  # odd: between the seeds of sets


@dataclasses.dataclass(frozen=True)
class Picks:
    """Which clips make a batch; each field is [B K], or [B K, 2].

    Attributes:
      index: int64, position in the split.
      place: float64 in [0, 1), where between its earliest and its latest start a clip is cut.
      flip: bool, mirror left and right.
      part: int64, which of the bucket's sets.
      crop: float64 [B K, 2] in [0, 1), how far down and right a picture is cut.
      caption: float64 in [0, 1), decides between several captions.
    """

    index: np.ndarray
    place: np.ndarray
    flip: np.ndarray
    part: np.ndarray | None = None
    crop: np.ndarray | None = None
    caption: np.ndarray | None = None

    def __post_init__(self):
        count = len(self.index)
        for name, otherwise in (
            ("part", np.zeros(count, np.int64)),
            ("crop", np.full((count, 2), 0.5)),
            ("caption", np.zeros(count)),
        ):
            if getattr(self, name) is None:
                object.__setattr__(self, name, otherwise)


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How clips are drawn; see `DataConfig`.

    Attributes:
      shuffle, random_start, flip: as there.
      random_crop: `crop` is `random`.
    """

    shuffle: bool
    random_start: bool = False
    flip: bool = False
    random_crop: bool = False


def bucket_picks(
    bucket: Bucket,
    number: int,
    streams: Sequence[np.ndarray],
    seed: int,
    rows: np.ndarray,
    drawing: Drawing,
    mixture: Mixture | None = None,
) -> grain.MapDataset:
    """The endless batches of one bucket as `Picks`, batch n at position n.

    Args:
      bucket: its shape.
      number: of the bucket in its run; each has an order of its own.
      streams: of each set, the positions of the clips that fill the bucket.
      seed: of the run.
      rows: positions within the global batch that this host loads.
      drawing: order, places, flips and crops.
      mixture: of the sets; None for one set.
    """
    clips = []
    for part, usable in enumerate(streams):
        own = (seed + number * _STRIDE + part * _SET_STRIDE) % 2**32
        indices = grain.MapDataset.range(len(usable)).seed(own)
        if drawing.shuffle:
            indices = indices.shuffle()
        clips.append(indices.repeat().random_map(functools.partial(_draw, drawing, part, usable)))
    count = len(bucket.clips)
    mine = _Rows((rows[:, None] * count + np.arange(count)).ravel(), bucket.batch * count, mixture)
    return grain.MapDataset.select_from_datasets(clips, mine).batch(len(rows) * count, batch_fn=_stack)


def _draw(drawing: Drawing, part: int, usable: np.ndarray, number: int, rng: np.random.Generator) -> tuple:
    """One row of `Picks`."""
    place, mirror = rng.random(), bool(rng.integers(2))
    down, right, caption = rng.random(3)
    return (
        int(usable[number]),
        place if drawing.random_start else 0.0,
        drawing.flip and mirror,
        part,
        (down, right) if drawing.random_crop else (0.5, 0.5),
        caption,
    )


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

    def before(self, step: int, bucket: int) -> int:
        """Batches of a bucket in the first `step` steps."""
        number, turn = divmod(step, len(self._round))
        return number * int(self._weights[bucket]) + int((self._order(number)[:turn] == bucket).sum())

    def _order(self, number: int) -> np.ndarray:
        return _shuffled(self._seed, number, tuple(self._round)) if self._shuffle else self._round


@functools.lru_cache(maxsize=64)
def _shuffled(seed: int, number: int, turns: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng((seed, number)).permutation(turns)


class _Rows(grain.transforms.DatasetSelectionMap):
    """Some rows of each batch of consecutive positions, j -> row j mod r of batch j // r, each of the set it is due."""

    def __init__(self, rows: np.ndarray, batch: int, mixture: Mixture | None):
        self._rows, self._batch, self._mixture = rows.tolist(), batch, mixture

    def __len__(self) -> int:
        return sys.maxsize // self._batch * len(self._rows)

    def __getitem__(self, position: int) -> tuple[int, int]:
        number, row = divmod(int(position), len(self._rows))
        position = number * self._batch + self._rows[row]
        return (0, position) if self._mixture is None else self._mixture[position]


def _stack(picks: list[tuple]) -> Picks:
    index, place, flip, part, crop, caption = zip(*picks)
    return Picks(
        np.array(index, np.int64),
        np.array(place, np.float64),
        np.array(flip, bool),
        np.array(part, np.int64),
        np.array(crop, np.float64),
        np.array(caption, np.float64),
    )
