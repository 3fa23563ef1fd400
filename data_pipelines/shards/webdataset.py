"""A shard set as WebDataset tars, for loaders that read those.

    train-000000.tar   KEY.mp4          the clip as it is stored (h264, h264_lossless), or
                       KEY.video.npy    its pixels, uint8 [T, H, W, 3] (raw)
                       KEY.latents.npy  of a set of latents, and KEY.NAME.npy for each condition or array
                       KEY.txt          the caption
                       KEY.json         size, rate, source, time, captions, labels
    dataset.json       counts and digests of the tars, the digest of the set, and what all its clips have in common

KEY is split and running number.  numpy has no bfloat16: such arrays are stored as their 16-bit words, and the JSON says
so.  Of conditions the rows that are stored are written (see `latents.Entry`; `dataset.json` has their full shapes).
Tars of the same set are the same bytes.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.shards.files import SHARD_BYTES, appearing, sha256
from data_pipelines.shards.latents import NULL_FILE, LatentRecord, LatentSpec
from data_pipelines.shards.rewrite import Excerpt, whole_set
from data_pipelines.shards.schema import ClipRecord, unpack_pixels
from vdm_jax import config as configs

INDEX = "dataset.json"
_BLOCK = 512  # a tar's unit: each member has one for its header, and fills its last

Members = dict[str, bytes]


def export_webdataset(
    directory: str | Path,
    out: str | Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Writes the tars, all or none.

    Args:
      directory: a shard set.
      out: directory to make.
      progress: called with (clips done, clips).
      shard_bytes: start a new tar rather than make one larger.

    Returns:
      What `dataset.json` says.

    Raises:
      ValueError: no such set, or `out` exists.
      RunError: the set is damaged, or the disk fails.
    """
    out = Path(out).absolute()
    if out.exists():
        raise ValueError(f"out: {out} exists already; choose another place")
    whole = whole_set(directory)
    total, done = sum(map(len, whole.ranges.values())), 0
    tars = []
    with appearing(out) as folder:
        for split in whole.ranges:
            for number, batch in enumerate(_batches(whole, split, shard_bytes)):
                path = folder / f"{split}-{number:06d}.tar"
                _write_tar(path, batch)
                tars.append({"file": path.name, "clips": len(batch), "sha256": sha256(path)})
                done += len(batch)
                if progress is not None:
                    progress(done, total)
        clip = configs.to_dict(whole.manifest.clip)
        index = {"digest": whole.manifest.digest(), "clips": total, "clip": clip, "tars": tars}
        if isinstance(whole.manifest.clip, LatentSpec) and whole.manifest.clip.null:
            (folder / NULL_FILE).write_bytes((whole.directory / NULL_FILE).read_bytes())
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", "utf-8")
    return index


def members(record: ClipRecord | LatentRecord) -> Members:
    """The files of one clip, by suffix."""
    labels = json.loads(record.labels)
    about = {"fps": record.fps, "source": record.source, "start": record.start}
    about |= {"split": record.split, "index": record.index}
    if captions := labels.pop("captions", None):
        about["captions"] = captions
    about["labels"] = labels
    if isinstance(record, LatentRecord):
        files, words = _arrays({"latents": record.latents, **record.conditions})
    else:
        about |= {"frames": record.frames, "height": record.height, "width": record.width, "codec": record.codec}
        files, words = _arrays(dict(record.fields))
        if record.codec == "raw":
            files["video.npy"] = _npy(unpack_pixels(record))
        else:
            files["mp4"] = record.video
    if words:
        about["stored_as_words"] = words
    text = json.dumps(about, sort_keys=True, ensure_ascii=False)
    return {**files, "txt": record.caption.encode(), "json": text.encode()}


def _arrays(arrays: dict[str, np.ndarray]) -> tuple[Members, dict[str, str]]:
    """The arrays as files, and the type of those that are stored as words."""
    words = {name: value.dtype.name for name, value in arrays.items() if value.dtype.kind == "V"}
    stored = {n: value.view(np.uint16) if n in words else value for n, value in arrays.items()}
    return {f"{name}.npy": _npy(value) for name, value in stored.items()}, words


def _npy(value: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _batches(whole: Excerpt, split: str, shard_bytes: int) -> Iterator[dict[str, Members]]:
    """Clips of one split, by key, in groups that each fill a tar."""
    batch: dict[str, Members] = {}
    size = 0
    for record in whole.records(split):
        found = members(record)
        needs = sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for data in found.values())
        if batch and size + needs > shard_bytes:
            yield batch
            batch, size = {}, 0
        batch[f"{split}-{record.index:08d}"] = found
        size += needs
    if batch:
        yield batch


def _write_tar(path: Path, batch: dict[str, Members]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, files in batch.items():
            for suffix, data in files.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")  # its owner and time are 0, its mode 0644
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
