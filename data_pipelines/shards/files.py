"""Files of a shard set: names, digests, flushing, the lock on a working directory, and how a set appears.

ArrayRecord takes a file whose writer died for an empty one, so every file is counted before it is believed.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader

from data_pipelines.shards import manifest as manifests
from data_pipelines.shards.manifest import Shard
from vdm_jax.errors import RunError

DATASET = "clips"  # the name under which tfds knows the set; part of its file names
SPLITS = ("train", "val")
SHARD_BYTES = 256 << 20


def shard_name(split: str, number: int, count: int) -> str:
    """Name of one of `count` ArrayRecord files, as tfds expects it."""
    return f"{DATASET}-{split}.array_record-{number:05d}-of-{count:05d}"


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
def writing(out: Path) -> Iterator[None]:
    """Turns what the disk and the ArrayRecord library raise into one line that names the place."""
    try:
        yield
    except RunError:
        raise
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from None
    except RuntimeError as error:  # the ArrayRecord library's own errors
        raise RunError(f"cannot write {out}: {' '.join(str(error).split())}") from None


def lock(part: Path, out: Path) -> int:
    """Makes and locks a working directory and returns the lock's descriptor.

    Raises:
      RunError: another process works there.
    """
    part.mkdir(exist_ok=True)
    descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise RunError(f"{out}: another process is writing this shard set") from None
        raise
    return descriptor


@contextlib.contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A directory to fill, which gets the name `out` when the block ends; an error leaves nothing.

    Raises:
      ValueError: `out` exists already.
      RunError: another process writes there, or the disk fails.
    """
    if out.exists():
        raise ValueError(f"out: {out} exists already; choose another place")
    part = out.with_name(f".{out.name}.part")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        held = lock(part, out)
    try:
        with writing(out):
            for left_over in part.iterdir():
                shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
            yield part
            for path in part.iterdir():
                flush(path)
            flush(part)
            part.rename(out)
            flush(out.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(held)


def publish(part: Path, out: Path) -> None:
    """Gives a directory that holds a whole set its name; a set that is there already goes."""
    if not (part / manifests.FILE_NAME).exists():
        return  # the block ended without `finish`: nothing to publish
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if (out / manifests.FILE_NAME).exists():
        out.rename(old)
    part.rename(out)
    flush(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def flush(path: Path) -> None:
    """Makes a file or a directory's names durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def dataset_info(splits: Mapping[str, tuple[Shard, ...]]) -> str:
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
