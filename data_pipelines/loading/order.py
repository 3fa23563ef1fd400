"""Which clips make which batch: arithmetic on positions, so that any batch can be asked for without those before it.

    position p of a set's      clip shuffle(seed, epoch p // N)[p mod N] of the N that fill the bucket
      stream in a bucket
    position of a bucket       a set and a position in its stream (`mixture.py`); with one set, that position
    batch n of a bucket        sequences n B ... (n + 1) B - 1, each of K positions (K > 1 where clips are packed); what
                                 else is drawn for each row (place, flip, crop, caption) from (seed, n)
    step k of a run            turn k mod W of round k // W: every bucket `weight` times, in an order of (seed, round)

A host that loads only some rows of each batch goes over the same positions and skips the others.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence

import grain
import numpy as np
from grain.experimental import index_shuffle

from data_pipelines.loading.mixture import Mixture
from vdm_jax.types import Bucket

_STRIDE = 0x9E3779B9  # odd: between the seeds of buckets, which would otherwise draw the same clips side by side
_ROUNDS = 4  # of the Feistel network that permutes an epoch


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


class BucketPicks:
    """The endless batches of one bucket: `self[n]` is the `Picks` of batch n.

    Args:
      bucket: its shape.
      number: of the bucket in its run; each has an order of its own.
      streams: of each set, the positions of the clips that fill the bucket.
      seed: of the run.
      rows: positions within the global batch that this host loads.
      drawing: order, places, flips and crops.
      mixture: of the sets; None for one set.
    """

    def __init__(
        self,
        bucket: Bucket,
        number: int,
        streams: Sequence[np.ndarray],
        seed: int,
        rows: np.ndarray,
        drawing: Drawing,
        mixture: Mixture | None = None,
    ):
        clips = len(bucket.clips)
        self._clips = bucket.batch * clips
        self._mine = (np.asarray(rows)[:, None] * clips + np.arange(clips)).ravel()
        self._streams, self._drawing, self._mixture = streams, drawing, mixture
        self._seed = (seed + number * _STRIDE) % 2**32

    def __len__(self) -> int:
        return sys.maxsize // self._clips

    def __getitem__(self, batch: int) -> Picks:
        # One generator a batch, for all of its rows: making one for each clip would cost more than reading a latent.
        draws = np.random.default_rng((self._seed, int(batch))).random((self._clips, 5))[self._mine]
        place, mirror, caption, crop = draws[:, 0], draws[:, 1] < 0.5, draws[:, 2], draws[:, 3:]
        places = [self._place(int(position)) for position in int(batch) * self._clips + self._mine]
        index = [self._index(part, position) for part, position in places]
        none, drawing = np.zeros(len(place)), self._drawing
        return Picks(
            index=np.array(index, np.int64),
            place=place if drawing.random_start else none,
            flip=mirror & drawing.flip,
            part=np.array([part for part, _ in places], np.int64),
            crop=crop if drawing.random_crop else np.full_like(crop, 0.5),
            caption=caption,
        )

    def _place(self, position: int) -> tuple[int, int]:
        """The set that a position of the bucket is due, and the position in its stream."""
        return (0, position) if self._mixture is None else self._mixture[position]

    def _index(self, part: int, position: int) -> int:
        usable = self._streams[part]
        epoch, place = divmod(position, len(usable))
        if self._drawing.shuffle:
            place = index_shuffle(place, len(usable) - 1, _epoch_seed(self._seed, part, epoch), _ROUNDS)
        return int(usable[place])


@functools.lru_cache(maxsize=1024)
def _epoch_seed(seed: int, part: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, part, epoch)).generate_state(1)[0])


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
