"""The training loader: a Grain MapDataset from end to end, one number of state.

    0, 1, 2 ...  -- shuffle(seed + epoch) --  repeat  -- draw start and flip --  [host :: hosts]  -- batch --  decode

Everything before the decoding is arithmetic on positions, so batch k is a function of (seed, k) alone: resuming is
setting k, the global batch (the union over the hosts) is the same for any number of hosts, and each clip comes exactly
once per epoch (a batch may straddle two epochs; none is dropped or padded).  Batches are decoded in a few read
threads, with a few batches of read-ahead; Grain's defaults of 16 threads and 500 *batches* would fill the memory.
There are no worker processes, hence none to outlive a killed trainer.
"""

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Any

import grain
import numpy as np

from data_pipelines.loading.clips import Batch, BatchAssembler, CachedClips, Picks, TokenizerFn
from data_pipelines.shards.reader import POLICIES, ClipSource
from vdm_jax.errors import RunError, did_you_mean

ORDER_VERSION = 1  # raise it when the order of the clips changes: old states are then refused, not misread


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The section `data` of a config.

    Attributes:
      shards: directory of a shard set.
      frames: frames per clip, at most what is stored.
      height, width: pixels; what is stored (curation resizes, loading does not).
      shuffle: a new order each epoch; False reads in stored order.
      random_start: take the frames from a random place in the stored clip instead of its start.
      flip: mirror half of the clips; wrong for captions that say left or right, hence off.
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
      records: clips in the split.
      wait_seconds: time spent in `next` so far; what the loader cost the caller.
    """

    def __init__(self, dataset: grain.IterDataset, source: ClipSource, fingerprint: Mapping[str, Any], start: int):
        self.records = len(source)
        self.wait_seconds = 0.0
        self._source = source
        self._fingerprint = dict(fingerprint)
        self._next_index = start
        self._iterator = iter(dataset)
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

    @property
    def damaged(self) -> dict[int, str]:
        """Index -> what is wrong, for the damaged clips met so far."""
        return dict(self._source.damaged)

    @property
    def epoch(self) -> float:
        """How often the data has been gone through, a fraction."""
        return self._next_index * self._fingerprint["batch_size"] / self.records

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
        self._source.close()


def make_loader(
    config: DataConfig,
    split: str,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    tokenizer_fn: TokenizerFn | None = None,
    shuffle: bool | None = None,
    start: int | LoaderState = 0,
) -> Loader:
    """Opens a split for training or evaluation; everything that can be wrong is found here, before anything starts.

    Args:
      config: section `data`.
      split: "train" or "val".
      batch_size: clips in a *global* batch; each host gets its even share.
      seed: of order, starts and flips.
      process_index: this host.
      process_count: number of hosts.
      tokenizer_fn: captions -> arrays [B, ...] that take the place of "caption" in the batch.
      shuffle: overrides `config.shuffle`.
      start: state, or number of the batch, to begin with.

    Raises:
      ValueError: a size that the set does not have, a batch larger than the split or that does not divide among the
        hosts, a state of other data.
      RunError: a shard is missing or damaged.
    """
    if process_count < 1 or not 0 <= process_index < process_count:
        raise ValueError(f"process_index: {process_index!r} is not within 0..{process_count - 1}")
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(f"batch_size: {batch_size!r} does not divide evenly among {process_count} hosts")
    source = ClipSource(config.shards, split, on_damage=config.on_damage, damage_budget=config.damage_budget)
    _check_sizes(config, source, batch_size)
    shuffle = config.shuffle if shuffle is None else shuffle
    fingerprint = _fingerprint(config, source, batch_size, seed, shuffle)
    if isinstance(start, LoaderState):
        _check_fingerprint(start.fingerprint, fingerprint)
        start = start.next_index
    if start < 0:
        raise ValueError(f"start: {start!r} is negative")
    fits = len(source) * source.manifest.clip.pixel_bytes <= config.cache_megabytes << 20
    assembler = BatchAssembler(CachedClips(source) if fits else source, config.frames, tokenizer_fn)
    picks = _picks(config, source, seed, shuffle)[process_index::process_count]
    dataset = picks.batch(batch_size // process_count, batch_fn=_stack).map(assembler)
    options = grain.ReadOptions(num_threads=config.read_threads, prefetch_buffer_size=config.prefetch_batches)
    return Loader(dataset.to_iter_dataset(options), source, fingerprint, start)


def _picks(config: DataConfig, source: ClipSource, seed: int, shuffle: bool) -> grain.MapDataset:
    """The endless global order: (index, start, flip) at every position."""
    indices = grain.MapDataset.range(len(source)).seed(seed % 2**32)
    if shuffle:
        indices = indices.shuffle()
    starts = source.manifest.clip.frames - config.frames + 1 if config.random_start else 1

    def draw(index: int, rng: np.random.Generator) -> tuple[int, int, bool]:
        return int(index), int(rng.integers(starts)), bool(config.flip and rng.integers(2))

    if starts > 1 or config.flip:
        return indices.repeat().random_map(draw)
    return indices.repeat().map(lambda index: (int(index), 0, False))


def _stack(picks: list[tuple[int, int, bool]]) -> Picks:
    index, start, flip = zip(*picks)
    return Picks(np.array(index, np.int64), np.array(start, np.int64), np.array(flip, bool))


def _check_sizes(config: DataConfig, source: ClipSource, batch_size: int) -> None:
    clip = source.manifest.clip
    for name in ("height", "width"):
        if getattr(config, name) != getattr(clip, name):
            stored = getattr(clip, name)
            raise ValueError(f"data.{name}: {getattr(config, name)}, but the clips of {config.shards} have {stored}")
    if config.frames > clip.frames:
        raise ValueError(f"data.frames: {config.frames}, but the clips of {config.shards} have {clip.frames}")
    if batch_size > len(source):
        raise ValueError(f"batch_size: {batch_size}, but split {source.split!r} has only {len(source)} clips")


def _fingerprint(config: DataConfig, source: ClipSource, batch_size: int, seed: int, shuffle: bool) -> dict[str, Any]:
    """All that decides what batch k is; not the number of hosts, and not where the files lie."""
    return {
        "manifest": source.manifest.digest(),
        "split": source.split,
        "seed": seed,
        "batch_size": batch_size,
        "shuffle": shuffle,
        "frames": config.frames,
        "random_start": config.random_start,
        "flip": config.flip,
        "order_version": ORDER_VERSION,
    }


def _check_fingerprint(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    wrong = [f"{k}: {theirs.get(k)!r} -> {ours.get(k)!r}" for k in ours if theirs.get(k) != ours[k]]
    if wrong:
        raise ValueError(f"data: the saved position belongs to other data or settings ({'; '.join(wrong)})")
