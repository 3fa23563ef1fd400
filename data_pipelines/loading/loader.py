"""The training loader: a Grain MapDataset from end to end, one number of state.

    0, 1, 2 ...  -- shuffle(seed, epoch) --  repeat  -- draw place and flip --  rows of this host  -- batch --  decode

Everything before the decoding is arithmetic on positions (`order.py`), so batch k is a function of (seed, k) alone:
resuming is setting k, the global batch and the order in it are the same for any number of hosts, and each clip comes
exactly once per epoch (a batch may straddle two epochs; none is dropped or padded).  With buckets each batch is of one
of them, they take turns, and each goes through the clips in its own order.

Batches are decoded in a few read threads, with a few batches of read-ahead; Grain's defaults of 16 threads and 500
*batches* would fill the memory.  There are no worker processes, hence none to outlive a killed trainer.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from data_pipelines.loading.clips import Batch, BatchAssembler, CachedClips, TokenizerFn, check_bucket
from data_pipelines.loading.order import bucket_picks, in_turn
from data_pipelines.loading.stored import Stored, stored_in
from data_pipelines.shards.reader import POLICIES, ClipSource
from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.types import PER_FRAME_KEYS, Bucket

ORDER_VERSION = 2  # raise it when the order of the clips changes: old states are then refused, not misread


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The section `data` of a config.

    Attributes:
      shards: directory of a shard set, of pixels or of latents.
      frames: frames per clip, at most what is stored; of latents, of the latent clip.
      height, width: pixels; what is stored, or both divided by the same whole number (means of the pixels).  Of
        latents, exactly what is stored, on the latent grid as the network sees it.
      buckets: all shapes of training batches, this one among them; empty is this one alone.
      shuffle: a new order each epoch; False reads in stored order.
      random_start: take the frames from a random place in the stored clip instead of its start; not of latents, whose
        first frame is unlike the others.
      flip: mirror half of the clips; wrong for captions that say left or right, hence off, and not of latents.
      cache_megabytes: keep decoded clips in memory if the whole split fits in so much; 0 never does.
      read_threads: threads that decode.
      prefetch_batches: batches decoded ahead.
      on_damage: `raise`, or `substitute` another clip for a damaged one.
      damage_budget: how many damaged clips `substitute` accepts.
    """

    shards: str
    frames: int
    height: int
    width: int
    buckets: tuple[Bucket, ...] = ()
    shuffle: bool = True
    random_start: bool = False
    flip: bool = False
    cache_megabytes: int = 512
    read_threads: int = 2
    prefetch_batches: int = 4
    on_damage: str = "raise"
    damage_budget: int = 0

    def __post_init__(self):
        positive = ("frames", "height", "width", "read_threads", "prefetch_batches")
        for name, least in (*((n, 1) for n in positive), ("cache_megabytes", 0), ("damage_budget", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not at least {least}")
        if self.on_damage not in POLICIES:
            raise ValueError(f"on_damage: {did_you_mean(self.on_damage, POLICIES)}")

    def bucket(self, batch_size: int) -> Bucket:
        """The shape of the run's own clips, `batch_size` of them."""
        return Bucket(self.frames, self.height, self.width, batch_size)


@dataclasses.dataclass(frozen=True)
class LoaderState:
    """Where a loader stands, and in which data; the same on every host and for any number of them.

    Attributes:
      next_index: global batches handed out so far, which is the number of the next one.
      fingerprint: everything that decides what batch k is.
    """

    next_index: int
    fingerprint: Mapping[str, Any]

    def to_json(self) -> str:
        return json.dumps({"next_index": self.next_index, "fingerprint": dict(self.fingerprint)}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "LoaderState":
        """Reads `to_json`.

        Raises:
          RunError: the text is damaged.
        """
        try:
            fields = json.loads(text)
            return LoaderState(int(fields["next_index"]), dict(fields["fingerprint"]))
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"loader state: damaged ({type(error).__name__}: {error})") from None


class Loader:
    """An endless iterator of batches with exact resume; made by `make_loader`.

    Attributes:
      stored: what a latent set holds beside the latents; None for pixels.
      wait_seconds: time spent in `next` so far; what the loader cost the caller.
    """

    def __init__(
        self,
        batches: Sequence[grain.MapDataset],
        order: grain.MapDataset,
        options: grain.ReadOptions,
        sources: Mapping[str, ClipSource],
        fingerprint: Mapping[str, Any],
        start: int,
        stored: Stored | None = None,
    ):
        self.wait_seconds = 0.0
        self.stored = stored
        self._batches = batches
        self._sources = sources
        self._fingerprint = dict(fingerprint)
        self._next_index = start
        self._iterator = iter(order.to_iter_dataset(options))
        if start:
            self._iterator.set_state({"next_index": start})

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        """The next batch of this host; see `BatchAssembler`.

        Raises:
          RunError: a clip is damaged (the policy decides).
        """
        began = time.perf_counter()
        batch = next(self._iterator)
        self.wait_seconds += time.perf_counter() - began
        self._next_index += 1
        return batch

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def examples(self) -> list[Batch]:
        """The first batch of each bucket, whatever comes next; the position stays as it is."""
        return [batches[0] for batches in self._batches]

    @property
    def damaged(self) -> dict[str, dict[int, str]]:
        """Shard set -> index -> what is wrong, for the damaged clips met so far."""
        return {shards: dict(source.damaged) for shards, source in self._sources.items() if source.damaged}

    def get_state(self) -> LoaderState:
        """The state after the last batch handed out, whatever has been read ahead."""
        return LoaderState(self._next_index, dict(self._fingerprint))

    def set_state(self, state: LoaderState) -> None:
        """Goes to a state; the next batch is bit-equal to the one that followed when it was taken.

        Raises:
          ValueError: the state belongs to other data or settings; names what differs.
        """
        _check_fingerprint(state.fingerprint, self._fingerprint)
        self._iterator.set_state({"next_index": state.next_index})
        self._next_index = state.next_index

    def close(self) -> None:
        """Stops the read threads and closes the files."""
        self._iterator.close()
        for source in self._sources.values():
            source.close()


def make_loader(
    config: DataConfig,
    split: str,
    buckets: Sequence[Bucket],
    seed: int,
    rows: Callable[[int], np.ndarray] = np.arange,
    tokenizer_fn: TokenizerFn | None = None,
    shuffle: bool | None = None,
    start: int | LoaderState = 0,
    conditions: Collection[str] | None = None,
) -> Loader:
    """Opens a split for training or evaluation; everything that can be wrong is found here, before anything starts.

    Args:
      config: section `data`.
      split: "train" or "val".
      buckets: shapes of the *global* batches, which take turns.
      seed: of order, turns, places and flips.
      rows: size of a global batch -> positions in it that this host loads (`sharding.batch_rows`); all by default.
      tokenizer_fn: captions -> arrays [B, ...] that take the place of "caption" in the batch.
      shuffle: overrides `config.shuffle`.
      start: state, or number of the batch, to begin with.
      conditions: of latent sets, the stored conditions that batches are to hold; None is all there are.

    Raises:
      ValueError: a size or a condition that a set does not have, a batch larger than the split, a state of other data,
        sets of different encoders.
      RunError: a shard is missing or damaged.
    """
    shuffle = config.shuffle if shuffle is None else shuffle
    named = [(bucket.shards or config.shards, bucket) for bucket in buckets]
    policy = {"on_damage": config.on_damage, "damage_budget": config.damage_budget}
    sources = {shards: ClipSource(shards, split, **policy) for shards in dict.fromkeys(name for name, _ in named)}
    for number, (shards, bucket) in enumerate(named):
        _check(bucket, sources[shards], shards, f"data.buckets[{number}]" if config.buckets else "data")
    stored = stored_in([shards for shards, _ in named])
    asked = _asked(stored, conditions, config, buckets)
    fingerprint = _fingerprint(config, named, sources, split, seed, shuffle)
    if isinstance(start, LoaderState):
        _check_fingerprint(start.fingerprint, fingerprint)
        start = start.next_index
    if start < 0:
        raise ValueError(f"start: {start!r} is negative")
    size = sum(len(source) * source.manifest.clip.decoded_bytes for source in sources.values())
    cached = size <= config.cache_megabytes << 20
    clips = {shards: CachedClips(source) if cached else source for shards, source in sources.items()}
    drawing = {"shuffle": shuffle, "random_start": config.random_start, "flip": config.flip}
    batches = [
        bucket_picks(bucket, number, len(sources[shards]), seed, rows(bucket.batch), **drawing).map(
            BatchAssembler(clips[shards], bucket, tokenizer_fn, asked)
        )
        for number, (shards, bucket) in enumerate(named)
    ]
    options = grain.ReadOptions(num_threads=config.read_threads, prefetch_buffer_size=config.prefetch_batches)
    return Loader(batches, in_turn(buckets, batches, seed, shuffle), options, sources, fingerprint, start, stored)


def _check(bucket: Bucket, source: ClipSource, shards: str, field: str) -> None:
    check_bucket(bucket, source.manifest.clip, shards, field)
    clips = bucket.batch * len(bucket.clips)
    if clips > len(source):
        name = "batch_size" if field == "data" else f"{field}.batch"
        raise ValueError(f"{name}: {clips}, but split {source.split!r} has only {len(source)} clips")


def _asked(
    stored: Stored | None, conditions: Collection[str] | None, config: DataConfig, buckets: Sequence[Bucket]
) -> tuple[str, ...]:
    """The conditions that batches hold; refuses what latents and their conditions cannot have done to them."""
    if stored is None:
        return ()
    for name, why in (("flip", "are not those of the mirrored clip"), ("random_start", "know where the clip starts")):
        if getattr(config, name):
            raise ValueError(f"data.{name}: True, but {config.shards} holds latents, which {why}; set it to False")
    held = stored.spec.conditions
    for name in conditions or ():
        if name not in held:
            raise ValueError(f"data.shards: {config.shards} holds no {name!r}; it has: {', '.join(held) or 'none'}")
    asked = tuple(name for name in held if conditions is None or name in conditions)
    for number, bucket in enumerate(buckets):
        if bucket.pack and (cut := sorted(PER_FRAME_KEYS.intersection(asked))):
            raise ValueError(f"data.buckets[{number}].pack: packed clips cannot have {cut[0]!r}")
    return asked


def _fingerprint(config: DataConfig, named, sources, split: str, seed: int, shuffle: bool) -> dict[str, Any]:
    """All that decides what batch k is; not the number of hosts, and not where the files lie."""
    return {
        "batches": [bucket.name for _, bucket in named],
        "weights": [bucket.weight for _, bucket in named],
        "manifests": [sources[shards].manifest.digest() for shards, _ in named],
        "split": split,
        "seed": seed,
        "shuffle": shuffle,
        "random_start": config.random_start,
        "flip": config.flip,
        "order_version": ORDER_VERSION,
    }


def _check_fingerprint(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    wrong = [f"{k}: {theirs.get(k)!r} -> {ours.get(k)!r}" for k in ours if theirs.get(k) != ours[k]]
    if wrong:
        raise ValueError(f"data: the saved position belongs to other data or settings ({'; '.join(wrong)})")
