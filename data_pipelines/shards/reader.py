"""Reads a shard set, of pixels or of latents, by index, and says exactly what is damaged.

Opening compares the files with the manifest (present, size, number of records): a cut ArrayRecord file would
otherwise open as an empty one.  Each record carries a hash of its chunk that the library checks on every read, so a
flipped byte is an error of that record, never wrong pixels.  `verify` compares whole files by SHA-256.

What happens then is the `on_damage` policy.  `raise`: a `RunError` that names shard and record.  `substitute`: the
next intact record (by index, cyclically) takes its place, the damaged one is listed in `damaged` and logged; more than
`damage_budget` of them is an error after all.  Indices never shift, so order and exact resume are unaffected.
"""

import bisect
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from data_pipelines.shards import manifest as manifests
from data_pipelines.shards import rates
from data_pipelines.shards.files import count_records, sha256
from data_pipelines.shards.latents import LatentRecord, LatentSpec, read_null
from data_pipelines.shards.manifest import Manifest, Shard
from data_pipelines.shards.schema import ClipRecord
from vdm_jax.errors import RunError, did_you_mean

POLICIES = ("raise", "substitute")
Choose = Callable[[float, int], np.ndarray | None]
_LOG = logging.getLogger(__name__)


class ClipSource:
    """Random access to the decoded clips of one split; safe for threads, and can be pickled.

    `source[i]` is {"video": uint8 [T, H, W, 3], "caption": str, "fps": float, "index": int, "source": str,
    "start": float, "labels": JSON text}, and "fields": {name: array} if some were asked for; of a latent set, "video"
    is the latents [T, H, W, C] and "conditions" what is stored of each condition, both in the dtype in which they are.
    A substituted clip keeps its own `index`, which tells it apart.

    Attributes:
      manifest: of the set.
      split: which part of it this is.
      damaged: index -> what is wrong, for the records found damaged so far.
    """

    def __init__(
        self,
        directory: str | Path,
        split: str,
        *,
        fields: Sequence[str] = (),
        on_damage: str = "raise",
        damage_budget: int = 0,
    ):
        """Opens a split and compares its files with the manifest.

        Args:
          directory: the shard set.
          split: "train" or "val".
          fields: which of the arrays that a set of pixels stores beside them to read.
          on_damage: one of `POLICIES`.
          damage_budget: how many records `substitute` may replace.

        Raises:
          ValueError: no such set, split or field, an unknown policy, a negative budget.
          RunError: a shard is missing, or differs in size or number of records.
        """
        if on_damage not in POLICIES:
            raise ValueError(f"on_damage: {did_you_mean(on_damage, POLICIES)}")
        if damage_budget < 0:
            raise ValueError(f"damage_budget: {damage_budget!r} is negative")
        self.directory = Path(directory)
        self.manifest = manifests.load(directory)
        if fields and isinstance(self.manifest.clip, LatentSpec):
            raise ValueError(f"fields: {directory} is a set of latents, which has conditions in their place")
        clip = self.manifest.clip
        self._spec = clip if isinstance(clip, LatentSpec) else clip.only(fields)
        self.split = split
        self.damaged: dict[int, str] = {}
        self._records = self.manifest.records(split)
        self._shards = self.manifest.splits[split]
        for shard in self._shards:
            _check_shard(self.directory, shard)
        self._ends = list(itertools.accumulate(shard.records for shard in self._shards))
        self._on_damage, self._budget = on_damage, damage_budget
        self._readers: dict[str, ArrayRecordReader] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._records

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads and decodes a clip.

        Raises:
          IndexError: out of range.
          RunError: the record is damaged, under the policy `raise`; or the budget is spent.
        """
        return self._intact(index, self._clip)

    def window(self, index: int, choose: Choose, size: tuple[int, int] | None = None) -> dict[str, Any]:
        """Reads some frames of a clip, and decodes no more of it than they take.

        Args:
          index: of the clip.
          choose: (frames per second, frames of the clip) -> numbers of the frames to take, ascending; None where the
            clip does not do, and the next one is to take its place.
          size: height and width to which the pictures are resized.

        Returns:
          As `source[index]`, with these frames for "video", and their numbers as "numbers".

        Raises:
          IndexError, RunError: as `source[index]`.
        """
        return self._intact(index, lambda k: self._clip(k, choose, size))

    def _intact(self, index: int, read: Callable[[int], dict[str, Any] | None]) -> dict[str, Any]:
        """What `read` gives for a clip or, under the policy `substitute`, for the next one for which it does."""
        if not 0 <= index < self._records:
            raise IndexError(f"clip {index} of {self._records}")
        for k in itertools.chain(range(index, self._records), range(index)):
            if k in self.damaged:
                continue
            try:
                clip = read(k)
                if clip is not None:
                    return clip
                if self._on_damage == "raise":
                    raise RunError(f"{self.directory}: clip {k} of {self.split!r} is shorter or slower than it was")
            except RunError as error:
                if self._on_damage == "raise":
                    raise
                self._count(k, str(error))
        raise RunError(f"{self.directory}: no clip of split {self.split!r} is intact")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __repr__(self) -> str:
        return f"ClipSource({str(self.directory)!r}, {self.split!r}, records={self._records})"

    def record(self, index: int) -> ClipRecord | LatentRecord:
        """The record as stored, pixels still packed; no policy applies.

        Raises:
          RunError: it is damaged; names shard and record.
        """
        number = bisect.bisect_right(self._ends, index)
        shard = self._shards[number]
        within = index - (self._ends[number] - shard.records)
        try:
            data = self._reader(shard).read([within])[0]
        except (RuntimeError, IndexError, ValueError, OSError) as error:
            said = " ".join(str(error).split())
            raise RunError(f"{self.directory / shard.file}: record {within} is damaged ({said})") from None
        try:
            return self._spec.deserialize(data)
        except RunError as error:
            raise RunError(f"{self.directory / shard.file}: record {within} is damaged: {error}") from None

    def rates(self) -> np.ndarray:
        """Frames per second of each clip, float32 [N]; of a set that does not say them apart, all records are read.

        Raises:
          RunError: as `source[index]`.
        """
        found = rates.read(self.directory, self.split, self._shards)
        if found is not None:
            return found
        read = (self._intact(index, lambda k: {"fps": self.record(k).fps}) for index in range(len(self)))
        return np.array([clip["fps"] for clip in read], np.float32)

    def close(self) -> None:
        """Closes the files; a later read opens them again."""
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()

    def _clip(
        self, index: int, choose: Choose | None = None, size: tuple[int, int] | None = None
    ) -> dict[str, Any] | None:
        record = self.record(index)
        numbers = None if choose is None else choose(record.fps, self._spec.frames)
        if choose is not None and numbers is None:
            return None
        try:
            contents = self._spec.contents(record, numbers, size)
        except RunError as error:
            raise RunError(f"{self.directory}: clip {index} of {self.split!r} {error}") from None
        return {
            **contents,
            **({} if numbers is None else {"numbers": numbers}),
            "caption": record.caption,
            "fps": record.fps,
            "index": record.index,
            "source": record.source,
            "start": record.start,
            "labels": record.labels,
        }

    def _reader(self, shard: Shard) -> ArrayRecordReader:
        with self._lock:
            if shard.file not in self._readers:
                path = str(self.directory / shard.file)
                self._readers[shard.file] = ArrayRecordReader(path, options="readahead_buffer_size:0")
            return self._readers[shard.file]

    def _count(self, index: int, message: str) -> None:
        with self._lock:
            if index in self.damaged:
                return
            self.damaged[index] = message
            spent = len(self.damaged)
        if spent > self._budget:
            raise RunError(f"{spent} damaged clips, more than damage_budget={self._budget}; the last: {message}")
        _LOG.warning("damaged clip %d of %d allowed, the next one takes its place: %s", spent, self._budget, message)


def captions(directory: str | Path, split: str) -> list[str]:
    """All captions of a split in order of index; what a tokenizer is trained on.

    Raises:
      ValueError, RunError: as `ClipSource` with the policy `raise`.
    """
    source = ClipSource(directory, split)
    return [source.record(i).caption for i in range(len(source))]


def verify(directory: str | Path, progress: Callable[[int, int], None] | None = None) -> Manifest:
    """Compares every file of a set with the manifest, byte for byte by SHA-256.

    Args:
      directory: the shard set.
      progress: called with (files done, files) after each.

    Raises:
      ValueError: no such set.
      RunError: names every shard that differs, and the records in it that cannot be read.
    """
    directory = Path(directory)
    manifest = manifests.load(directory)
    shards = [(split, shard) for split, part in manifest.splits.items() for shard in part]
    wrong = []
    for done, (_, shard) in enumerate(shards, 1):
        try:
            _check_shard(directory, shard)
            if sha256(directory / shard.file) != shard.sha256:
                bad = _unreadable(directory / shard.file, shard.records)
                wrong.append(f"{directory / shard.file}: differs from its digest; unreadable records: {bad or 'none'}")
        except (RunError, OSError) as error:
            wrong.append(str(error))
        if progress is not None:
            progress(done, len(shards))
    if isinstance(manifest.clip, LatentSpec):
        try:
            read_null(directory, manifest.clip)
        except RunError as error:
            wrong.append(str(error))
    if wrong:
        raise RunError("; ".join(wrong))
    return manifest


def _check_shard(directory: Path, shard: Shard) -> None:
    path = directory / shard.file
    try:
        size = path.stat().st_size
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}, but the manifest lists this shard") from None
    if size != shard.bytes:
        raise RunError(f"{path}: has {size} bytes, the manifest says {shard.bytes}")
    found = count_records(path)
    if found != shard.records:
        raise RunError(f"{path}: gives {found} records, the manifest says {shard.records}; the file is damaged")


def _unreadable(path: Path, records: int) -> list[int]:
    reader = ArrayRecordReader(str(path), options="readahead_buffer_size:0")
    bad = []
    for i in range(records):
        try:
            reader.read(np.array([i]))
        except (RuntimeError, IndexError):
            bad.append(i)
    reader.close()
    return bad
