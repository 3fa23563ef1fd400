"""The training loader: a Grain MapDataset from end to end, one number of state.

    0, 1, 2 ...  -- shuffle(seed, epoch) --  repeat  -- draw place, flip --  rows of this host  -- batch --  decode

Everything before the decoding is arithmetic on positions (`order.py`, `mixture.py`), so batch k is a function of
(seed, k) alone: resuming is setting k, the global batch and the order in it are the same for any number of hosts, and
each clip comes exactly once per epoch of its set (a batch may straddle two epochs; none is dropped or padded).  With
buckets each batch is of one of them, they take turns, and each goes through the clips in its own order.

Batches are decoded in a few read threads, with a few batches of read-ahead; Grain's defaults of 16 threads and 500
*batches* would fill the memory.  Where Python is the limit, processes do it (`workers.py`).
"""

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from data_pipelines.loading.clips import Batch, TokenizerFn
from data_pipelines.loading.plan import Opened, Plan, make_plan
from data_pipelines.loading.settings import DataConfig
from data_pipelines.loading.stored import Stored
from data_pipelines.loading.workers import Workers, packed
from vdm_jax.errors import RunError
from vdm_jax.types import Bucket

__all__ = ["DataConfig", "Loader", "LoaderState", "make_loader"]


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


class _Reading(Protocol):
    """Batches from some number on, read ahead."""

    def __next__(self) -> Batch: ...

    def close(self) -> None: ...


class _Threads:
    """Batches that read threads of this process make."""

    def __init__(self, order: grain.MapDataset, config: DataConfig, start: int):
        options = grain.ReadOptions(num_threads=config.read_threads, prefetch_buffer_size=config.prefetch_batches)
        self._iterator = iter(order.to_iter_dataset(options))
        if start:
            self._iterator.set_state({"next_index": start})

    def __next__(self) -> Batch:
        return next(self._iterator)

    def close(self) -> None:
        self._iterator.close()


class Loader(Iterator[Batch]):
    """An endless iterator of batches with exact resume; made by `make_loader`.

    Attributes:
      stored: what a latent set holds beside the latents; None for pixels.
      unusable: shard set -> index -> why, for the clips that fill no bucket.
      wait_seconds: time spent in `next` so far; what the loader cost the caller.
    """

    def __init__(self, plan: Plan, opened: Opened, start: int, stored: Stored | None = None):
        self.wait_seconds = 0.0
        self.stored = stored
        self.unusable = plan.unusable
        self._plan = plan
        self._opened = opened
        self._fingerprint = plan.fingerprint()
        self._elsewhere: dict[str, dict[int, str]] = {}  # damage that workers met
        self._packed = packed(plan) if plan.config.workers else b""
        self._next_index = start
        self._reading: _Reading | None = None  # from the first batch on: a loader may only be looked at, or moved

    def __next__(self) -> Batch:
        """The next batch of this host; see `BatchAssembler`.

        Raises:
          RunError: a clip is damaged (the policy decides), or workers keep being killed.
        """
        began = time.perf_counter()
        if self._reading is None:
            self._reading = self._begin()
        batch = next(self._reading)
        self.wait_seconds += time.perf_counter() - began
        self._next_index += 1
        return batch

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def examples(self) -> list[Batch]:
        """The first batch of each bucket, whatever comes next; the position stays as it is."""
        return [batches[0] for batches in self._opened.batches]

    @property
    def damaged(self) -> dict[str, dict[int, str]]:
        """Shard set -> index -> what is wrong, for the damaged clips met so far."""
        met = {shards: dict(source.damaged) for shards, source in self._opened.sources.items()}
        for shards, clips in self._elsewhere.items():
            met[shards] |= clips
        return {shards: clips for shards, clips in met.items() if clips}

    def get_state(self) -> LoaderState:
        """The state after the last batch handed out, whatever has been read ahead."""
        return LoaderState(self._next_index, dict(self._fingerprint))

    def set_state(self, state: LoaderState) -> None:
        """Goes to a state; the next batch is bit-equal to the one that followed when it was taken.

        Raises:
          ValueError: the state belongs to other data or settings; names what differs.
        """
        _check_fingerprint(state.fingerprint, self._fingerprint)
        if state.next_index != self._next_index:
            self._stop()
            self._next_index = state.next_index

    def close(self) -> None:
        """Stops the read threads or workers and closes the files."""
        self._stop()
        for source in self._opened.sources.values():
            source.close()

    def _begin(self) -> _Reading:
        config = self._plan.config
        if config.workers:
            return Workers(config, self._packed, self._next_index, self._elsewhere)
        return _Threads(self._opened.order, config, self._next_index)

    def _stop(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None


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
      ValueError: a size, rate or condition that a set does not have, more unusable clips than are allowed, a batch
        larger than the split, a state of other data, sets of different encoders.
      RunError: a shard is missing or damaged.
    """
    shuffle = config.shuffle if shuffle is None else shuffle
    plan, sources, stored = make_plan(config, split, buckets, seed, rows, tokenizer_fn, shuffle, conditions)
    if isinstance(start, LoaderState):
        _check_fingerprint(start.fingerprint, plan.fingerprint())
        start = start.next_index
    if start < 0:
        raise ValueError(f"start: {start!r} is negative")
    opened = (plan.without_cache() if config.workers else plan).open(sources)
    return Loader(plan, opened, start, stored)


def _check_fingerprint(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    ours = json.loads(json.dumps(ours))  # as they are in a checkpoint
    theirs = json.loads(json.dumps(dict(theirs)))
    keys = dict.fromkeys([*ours, *theirs])
    wrong = [f"{k}: {theirs.get(k)!r} -> {ours.get(k)!r}" for k in keys if theirs.get(k) != ours.get(k)]
    if wrong:
        raise ValueError(f"data: the saved position belongs to other data or settings ({'; '.join(wrong)})")
