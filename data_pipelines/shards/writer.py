"""Writes a shard set: all of it or nothing.

Everything goes to `.NAME.part` beside the target.  Each ArrayRecord file (`group_size:1`: a record is read, and can
be damaged, alone) is closed, opened again, counted, hashed and flushed to disk; ArrayRecord itself takes a file whose
writer died for an empty one.  Then the directory is renamed.  An error, Ctrl-C or a full disk removes it; what a
killed process leaves is removed by the next writer, which knows from a lock on the directory that nobody is at work.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_pipelines.shards import manifest as manifests
from data_pipelines.shards import schema
from data_pipelines.shards.manifest import ClipSpec, Dropped, Manifest, Shard
from data_pipelines.shards.schema import ClipRecord
from vdm_jax.errors import RunError, did_you_mean

DATASET = "clips"  # the name under which tfds knows the set; part of its file names
SPLITS = ("train", "val")
SHARD_BYTES = 256 << 20


class ShardWriter:
    """Takes records and writes them; use `open_writer`."""

    def __init__(self, directory: Path, out: Path, clip: ClipSpec, shard_bytes: int):
        self._directory = directory
        self._out = out  # where the set will be, for messages
        self._clip = clip
        self._shard_bytes = shard_bytes
        self._writers: dict[str, ArrayRecordWriter] = {}
        self._open_bytes: dict[str, int] = {}
        self._lengths: dict[str, list[int]] = {}  # split -> records of each shard
        self._numbers: dict[str, int] = {}

    @property
    def counts(self) -> dict[str, int]:
        """Records written so far, per split."""
        return dict(self._numbers)

    def add(self, record: ClipRecord) -> None:
        """Appends a record to the split it names; its `index` is set to the running number there.

        Raises:
          ValueError: the split is unknown, or size or codec differ from the set's.
          RunError: the disk is full, or fails otherwise.
        """
        split = record.split
        if split not in SPLITS:
            raise ValueError(f"split: {did_you_mean(split, SPLITS)}")
        spec = ClipSpec(record.frames, record.height, record.width, record.codec)
        if spec != self._clip:
            raise ValueError(f"record: {spec} in a set of {self._clip}")
        number = self._numbers.get(split, 0)
        data = schema.serialize(dataclasses.replace(record, index=number))
        with _writing(self._out):
            if split not in self._writers:
                self._start(split)
            self._writers[split].write(data)
        self._numbers[split] = number + 1
        self._lengths[split][-1] += 1
        self._open_bytes[split] += len(data)
        if self._open_bytes[split] >= self._shard_bytes:
            self._close(split)

    def finish(
        self, provenance: Mapping[str, Any], settings: Mapping[str, Any], dropped: Sequence[Dropped] = ()
    ) -> Manifest:
        """Closes, names, checks and flushes all files and writes the manifest; `open_writer` then publishes the set.

        Raises:
          RunError: nothing was added, the disk fails, or a file read back differs from what was written.
        """
        if not self._numbers:
            raise RunError(f"{self._out}: no clip was written")
        for split in list(self._writers):
            self._close(split)
        with _writing(self._out):
            splits = {s: self._seal(s) for s in SPLITS if s in self._lengths}
            manifest = Manifest(self._clip, splits, dict(provenance), dict(settings), tuple(dropped))
            schema.features().save_config(str(self._directory))
            self._write_text("dataset_info.json", _dataset_info(splits))
            self._write_text(manifests.FILE_NAME, manifests.dump(manifest))
            for path in sorted(self._directory.iterdir()):
                _flush(path)
            _flush(self._directory)
        return manifest

    def close(self) -> None:
        """Closes what is open; the files may be incomplete."""
        for writer in self._writers.values():
            with contextlib.suppress(Exception):
                writer.close()
        self._writers.clear()

    def _start(self, split: str) -> None:
        lengths = self._lengths.setdefault(split, [])
        options = "group_size:1,zstd:1" if self._clip.codec == "raw" else "group_size:1,uncompressed"
        self._writers[split] = ArrayRecordWriter(str(self._open_path(split, len(lengths))), options)
        lengths.append(0)
        self._open_bytes[split] = 0

    def _close(self, split: str) -> None:
        with _writing(self._out):
            self._writers.pop(split).close()

    def _open_path(self, split: str, number: int) -> Path:
        return self._directory / f"{split}-{number}.part"

    def _seal(self, split: str) -> tuple[Shard, ...]:
        lengths = self._lengths[split]
        shards = []
        for i, records in enumerate(lengths):
            path = self._directory / f"{DATASET}-{split}.array_record-{i:05d}-of-{len(lengths):05d}"
            self._open_path(split, i).rename(path)
            found = count_records(path)
            if found != records:
                raise RunError(
                    f"cannot write {self._out}: {path.name} holds {found} records after {records} were written"
                )
            shards.append(Shard(path.name, records, path.stat().st_size, sha256(path)))
        return tuple(shards)

    def _write_text(self, name: str, text: str) -> None:
        (self._directory / name).write_text(text, "utf-8")


@contextlib.contextmanager
def open_writer(
    out: str | Path, clip: ClipSpec, *, overwrite: bool = False, shard_bytes: int = SHARD_BYTES
) -> Iterator[ShardWriter]:
    """Opens a writer for a new shard set; the set appears at `out` when the block ends after `finish`.

    Args:
      out: directory to make.
      clip: what all clips have in common.
      overwrite: replace a shard set that is there already, at the very end.
      shard_bytes: start a new file after so many bytes of records.

    Raises:
      ValueError: `out` exists (and `overwrite` is False, or it is no shard set), or the codec is unknown.
      RunError: another process writes there, or the disk fails.
    """
    out = Path(out).absolute()
    if clip.codec not in schema.CODECS:
        raise ValueError(f"codec: {did_you_mean(clip.codec, schema.CODECS)}")
    check_target(out, overwrite)
    part = out.with_name(f".{out.name}.part")
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = _take(part, out)
    writer = ShardWriter(part, out, clip, shard_bytes)
    try:
        yield writer
        with _writing(out):
            _publish(part, out)
    finally:
        writer.close()
        shutil.rmtree(part, ignore_errors=True)
        os.close(lock)


def check_target(out: str | Path, overwrite: bool) -> None:
    """Refuses a target that exists; worth calling before long work.

    Raises:
      ValueError: see `open_writer`.
    """
    out = Path(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / manifests.FILE_NAME).is_file():
        raise ValueError(f"out: {out} exists and is no shard set; choose another place")
    if not overwrite:
        raise ValueError(f"out: {out} exists already; choose another place, or ask to overwrite it")


def count_records(path: Path) -> int:
    """Number of records an ArrayRecord file gives; 0 for a damaged or cut one."""
    try:
        reader = ArrayRecordReader(str(path))
        records = reader.num_records() if reader.ok() else 0
        reader.close()
    except RuntimeError:
        return 0
    return records


def sha256(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turns what the disk and the ArrayRecord library raise into one line that names the place."""
    try:
        yield
    except RunError:
        raise
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from None
    except RuntimeError as error:  # the ArrayRecord library's own errors
        raise RunError(f"cannot write {out}: {' '.join(str(error).split())}") from None


def _take(part: Path, out: Path) -> int:
    """Makes an empty, locked working directory and returns the lock's descriptor."""
    part.mkdir(exist_ok=True)
    lock = os.open(part, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise RunError(f"{out}: another process is writing this shard set") from None
        raise
    for left_over in part.iterdir():
        left_over.unlink()
    return lock


def _publish(part: Path, out: Path) -> None:
    if not (part / manifests.FILE_NAME).exists():
        return  # the block ended without `finish`: nothing to publish
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if (out / manifests.FILE_NAME).exists():
        out.rename(old)
    part.rename(out)
    _flush(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _dataset_info(splits: Mapping[str, tuple[Shard, ...]]) -> str:
    """What `tfds.builder_from_directory` needs to know."""
    return json.dumps(
        {
            "fileFormat": "array_record",
            "moduleName": __name__,
            "name": DATASET,
            "splits": [
                {
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                    "name": split,
                    "numBytes": str(sum(shard.bytes for shard in shards)),
                    "shardLengths": [str(shard.records) for shard in shards],
                }
                for split, shards in splits.items()
            ],
            "version": "1.0.0",
        },
        indent=1,
    )
