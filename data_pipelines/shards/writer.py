"""Writes a shard set: all of it or nothing.

Everything goes to `.NAME.part` beside the target.  Each ArrayRecord file (`group_size:1`: a record is read, and can
be damaged, alone) is closed, opened again, counted, hashed and flushed to disk; ArrayRecord itself takes a file whose
writer died for an empty one.  Then the directory is renamed.  An error, Ctrl-C or a full disk removes it; what a
killed process leaves is removed by the next writer, which knows from a lock on the directory that nobody is at work.
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines.shards import manifest as manifests
from data_pipelines.shards import rates, schema
from data_pipelines.shards.files import (
    SHARD_BYTES,
    SPLITS,
    check_target,
    count_records,
    dataset_info,
    flush,
    lock,
    publish,
    sha256,
    shard_name,
    writing,
)
from data_pipelines.shards.manifest import ClipSpec, Dropped, Manifest, Shard
from data_pipelines.shards.schema import ClipRecord
from vdm_jax.errors import RunError, did_you_mean

# Raw pixels up to here are those of worlds, of which compression leaves little; larger ones are footage, which it
# hardly makes smaller, and a loader would spend more on undoing it than on all else.
COMPRESSED_BYTES = 1 << 20


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
        self._rates: dict[str, list[float]] = {}

    @property
    def counts(self) -> dict[str, int]:
        """Records written so far, per split."""
        return dict(self._numbers)

    def add(self, record: ClipRecord) -> None:
        """Appends a record to the split it names; its `index` is set to the running number there.

        Raises:
          ValueError: the split is unknown, or size, codec or arrays differ from the set's.
          RunError: the disk is full, or fails otherwise.
        """
        split = record.split
        if split not in SPLITS:
            raise ValueError(f"split: {did_you_mean(split, SPLITS)}")
        spec = ClipSpec(record.frames, record.height, record.width, record.codec, self._clip.fields)
        if spec != self._clip:
            raise ValueError(f"record: {spec} in a set of {self._clip}")
        number = self._numbers.get(split, 0)
        data = schema.serialize(dataclasses.replace(record, index=number), self._clip.fields)
        with writing(self._out):
            if split not in self._writers:
                self._start(split)
            self._writers[split].write(data)
        self._numbers[split] = number + 1
        self._rates.setdefault(split, []).append(record.fps)
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
        with writing(self._out):
            splits = {s: self._seal(s) for s in SPLITS if s in self._lengths}
            manifest = Manifest(self._clip, splits, dict(provenance), dict(settings), tuple(dropped))
            self._clip.features().save_config(str(self._directory))
            self._write_text("dataset_info.json", dataset_info(splits))
            self._write_text(manifests.FILE_NAME, manifests.dump(manifest))
            (self._directory / rates.FILE_NAME).write_bytes(rates.packed(self._rates, splits))
            for path in sorted(self._directory.iterdir()):
                flush(path)
            flush(self._directory)
        return manifest

    def close(self) -> None:
        """Closes what is open; the files may be incomplete."""
        for writer in self._writers.values():
            with contextlib.suppress(Exception):
                writer.close()
        self._writers.clear()

    def _start(self, split: str) -> None:
        lengths = self._lengths.setdefault(split, [])
        small = self._clip.codec == "raw" and self._clip.decoded_bytes <= COMPRESSED_BYTES
        compresses = small or self._clip.fields
        options = "group_size:1,zstd:1" if compresses else "group_size:1,uncompressed"
        self._writers[split] = ArrayRecordWriter(str(self._open_path(split, len(lengths))), options)
        lengths.append(0)
        self._open_bytes[split] = 0

    def _close(self, split: str) -> None:
        with writing(self._out):
            self._writers.pop(split).close()

    def _open_path(self, split: str, number: int) -> Path:
        return self._directory / f"{split}-{number}.part"

    def _seal(self, split: str) -> tuple[Shard, ...]:
        lengths = self._lengths[split]
        shards = []
        for i, records in enumerate(lengths):
            path = self._directory / shard_name(split, i, len(lengths))
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
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        held = lock(part, out)
        for left_over in part.iterdir():
            left_over.unlink()
    writer = ShardWriter(part, out, clip, shard_bytes)
    try:
        yield writer
        with writing(out):
            publish(part, out)
    finally:
        writer.close()
        shutil.rmtree(part, ignore_errors=True)
        os.close(held)
