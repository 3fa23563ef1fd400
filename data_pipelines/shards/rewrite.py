"""Shard sets made of shard sets: several as one, the first clips of one, one in parts, chosen clips.

    A + B  -> merge  -> one set       A's clips before B's, in each split
    A      -> head   -> the first clips of each split
    A      -> split  -> parts         contiguous in each split; all of them, or none
    A      -> subset -> those chosen

A clip keeps its split and its bytes; only its running number changes.  Every byte that is read is compared with its
digest first, sets of latents keep their conditions and the features of the empty prompt, and what was known of where
the clips come from goes into the new manifest.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.shards.files import SHARD_BYTES, SPLITS, appearing, check_target
from data_pipelines.shards.latent_writer import open_latent_writer, plan_for
from data_pipelines.shards.latents import LatentRecord, LatentSpec, read_null
from data_pipelines.shards.manifest import ClipSpec, Manifest
from data_pipelines.shards.reader import ClipSource, verify
from data_pipelines.shards.schema import ClipRecord
from data_pipelines.shards.writer import open_writer
from vdm_jax import config as configs

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """Some clips of a set: of each split those with certain numbers, ascending."""

    directory: Path
    manifest: Manifest
    ranges: Mapping[str, Sequence[int]]

    def records(self, split: str) -> Iterator[ClipRecord | LatentRecord]:
        """The clips of one split as they are stored."""
        if not self.ranges.get(split):
            return
        clip = self.manifest.clip
        arrays = () if isinstance(clip, LatentSpec) else tuple(clip.fields)
        source = ClipSource(self.directory, split, fields=arrays)
        for index in self.ranges[split]:
            yield source.record(index)
        source.close()


def merge(
    directories: Sequence[str | Path],
    out: str | Path,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """Several sets as one.

    Args:
      directories: the sets, two at least.
      out: directory to make.
      progress: called with (clips done, clips).
      overwrite: replace a set that is at `out`.
      shard_bytes: start a new file after so many bytes.

    Raises:
      ValueError: `out` exists, one set is given twice, their clips differ in kind, or a source that one of them trains
        on is held out in another.
      RunError: a set is damaged, or the disk fails.
    """
    check_target(out, overwrite)
    if len(directories) < 2:
        raise ValueError(f"shards: {len(directories)} set given; merging needs two at least")
    wholes = [whole_set(directory) for directory in directories]
    _check_mergeable(wholes)
    provenance = {"pipeline": "shards/merge", "sets": [_origin(whole) for whole in wholes]}
    return _write(wholes, out, provenance, {}, progress, shard_bytes)


def head(
    directory: str | Path,
    out: str | Path,
    clips: int,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """The first clips of each split, all where there are fewer; arguments and errors as `merge`."""
    check_target(out, overwrite)
    if clips < 1:
        raise ValueError(f"clips: {clips!r} is not at least 1")
    whole = whole_set(directory)
    part = dataclasses.replace(whole, ranges={s: found[:clips] for s, found in whole.ranges.items()})
    provenance = {"pipeline": "shards/head", "sets": [_origin(part)]}
    return _write([part], out, provenance, {"clips": clips}, progress, shard_bytes)


def split(
    directory: str | Path,
    out: str | Path,
    parts: int,
    progress: Progress | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> list[Manifest]:
    """One set in parts of equal size, each a set of its own: OUT/00000-of-00004 ...

    Args:
      directory: the set.
      out: directory to make; it appears when all parts are whole.
      parts: how many.
      progress: called with (clips done, clips).
      shard_bytes: start a new file after so many bytes.

    Raises:
      ValueError: `out` exists, or there are fewer training clips than parts.
      RunError: the set is damaged, or the disk fails.
    """
    out = Path(out).absolute()
    if out.exists():
        raise ValueError(f"out: {out} exists already; choose another place")
    whole = whole_set(directory)
    most = len(whole.ranges.get("train", ()))
    if not 1 <= parts <= most:
        raise ValueError(f"parts: {parts!r} is not within 1..{most}, the training clips of {directory}")
    total, done, manifests = sum(map(len, whole.ranges.values())), 0, []
    with appearing(out) as folder:
        for k in range(parts):
            ranges = {s: _share(found, k, parts) for s, found in whole.ranges.items()}
            part = dataclasses.replace(whole, ranges=ranges)
            provenance = {"pipeline": "shards/split", "sets": [_origin(part)]}
            step = (lambda n, _, before=done: progress(before + n, total)) if progress else None
            name = f"{k:05d}-of-{parts:05d}"
            manifests.append(_write([part], folder / name, provenance, {"part": k, "parts": parts}, step, shard_bytes))
            done += sum(map(len, ranges.values()))
    return manifests


def subset(
    directory: str | Path,
    out: str | Path,
    chosen: Mapping[str, Sequence[int]],
    settings: Mapping[str, Any],
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """Chosen clips of a set.

    Args:
      directory: the set.
      out: directory to make.
      chosen: split -> numbers of its clips, ascending; a split that is not named is left out.
      settings: how they were chosen, for the manifest.
      overwrite: replace a set that is at `out`.
      shard_bytes: start a new file after so many bytes.

    Raises:
      ValueError: `out` exists, or a split or number that there is not.
      RunError: the set is damaged, nothing is chosen, or the disk fails.
    """
    check_target(out, overwrite)
    whole = whole_set(directory)
    for name, numbers in chosen.items():
        there = whole.manifest.records(name)
        if list(numbers) != sorted(set(numbers)) or any(not 0 <= number < there for number in numbers):
            raise ValueError(f"chosen.{name}: not ascending numbers below {there}")
    part = dataclasses.replace(whole, ranges={name: tuple(numbers) for name, numbers in chosen.items()})
    provenance = {"pipeline": "shards/subset", "sets": [_origin(part)]}
    return _write([part], out, provenance, settings, None, shard_bytes)


def whole_set(directory: str | Path) -> Excerpt:
    """A set, every byte of which has been compared with its digest.

    Raises:
      ValueError: no such set.
      RunError: it is damaged; names every file that is.
    """
    manifest = verify(directory)
    return Excerpt(Path(directory), manifest, {name: range(manifest.records(name)) for name in manifest.splits})


def _share(found: Sequence[int], part: int, parts: int) -> Sequence[int]:
    return found[part * len(found) // parts : (part + 1) * len(found) // parts]


def _origin(part: Excerpt) -> dict[str, Any]:
    """What the new manifest says of a set that clips are taken from."""
    return {
        "digest": part.manifest.digest(),
        "clips": {name: _numbers(found) for name, found in part.ranges.items()},
        "provenance": dict(part.manifest.provenance),
        "settings": dict(part.manifest.settings),
    }


def _numbers(found: Sequence[int]) -> list[int] | int:
    """Start and stop of a range; of other numbers only how many there are."""
    return [found.start, found.stop] if isinstance(found, range) else len(found)


def _check_mergeable(sets: Sequence[Excerpt]) -> None:
    first, seen, splits = sets[0], {}, {}
    for part in sets:
        if wrong := configs.difference(configs.to_dict(first.manifest.clip), configs.to_dict(part.manifest.clip)):
            raise ValueError(f"shards: {part.directory} differs from {first.directory} in {wrong[0]}")
        digest = part.manifest.digest()
        if digest in seen:
            raise ValueError(f"shards: {part.directory} holds the same clips as {seen[digest]}")
        seen[digest] = part.directory
        for source in _sources(part.manifest.provenance):
            for name in (name for name, clips in source["clips"].items() if clips):
                other = splits.setdefault(source["sha256"], (name, part.directory))
                if other[0] != name:
                    raise ValueError(
                        f"shards: {source['name']} is in split {name!r} of {part.directory} and in {other[0]!r} of"
                        f" {other[1]}; what is held out must not be trained on"
                    )


def _sources(provenance: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every source file that a set says it comes from, also by way of other sets."""
    for source in provenance.get("sources", ()):
        if source.get("sha256") and isinstance(source.get("clips"), Mapping):
            yield source
    for origin in provenance.get("sets", ()):
        yield from _sources(origin["provenance"])


def _write(
    parts: Sequence[Excerpt],
    out: str | Path,
    provenance: Mapping[str, Any],
    settings: Mapping[str, Any],
    progress: Progress | None,
    shard_bytes: int,
) -> Manifest:
    """Writes the clips of all parts, in order, as a set at `out`."""
    clip = parts[0].manifest.clip
    counts = {name: sum(len(part.ranges.get(name, ())) for part in parts) for name in SPLITS}
    total, done = sum(counts.values()), 0

    def records(name: str) -> Iterator[ClipRecord | LatentRecord]:
        nonlocal done
        for part in parts:
            for record in part.records(name):
                yield record
                done += 1
                if progress is not None:
                    progress(done, total)

    dropped = [entry for part in parts for entry in part.manifest.dropped]
    if isinstance(clip, ClipSpec):
        with open_writer(out, clip, overwrite=True, shard_bytes=shard_bytes) as writer:
            for name in SPLITS:
                for record in records(name):
                    writer.add(record)
            return writer.finish(provenance, settings, dropped)
    null = {name: value[0] for name, value in read_null(parts[0].directory, clip).items()}
    plan = plan_for(clip, {name: count for name, count in counts.items() if count}, provenance, settings, shard_bytes)
    with open_latent_writer(out, plan, null, overwrite=True) as writer:
        for name in SPLITS:
            rest = (_with_all_rows(clip, record) for record in records(name))
            for part in (part for part in writer.plan.parts() if part.split == name):
                writer.write(part, itertools.islice(rest, part.stop - part.start))
        return writer.finish()


def _with_all_rows(clip: LatentSpec, record: LatentRecord) -> LatentRecord:
    """A record as its encoder gave it, with the rows that are not stored; the writer leaves them out again."""
    conditions = {}
    for name, entry in clip.conditions.items():
        rows = np.zeros((1, *entry.shape), record.conditions[name].dtype)
        entry.write_into(rows, record.conditions[name])
        conditions[name] = rows[0]
    return dataclasses.replace(record, conditions=conditions)
