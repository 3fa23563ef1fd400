"""Writes a latent set shard by shard, so that hours of encoding survive whatever stops them.

    .NAME.encode/plan.json          what is being made; another plan is refused, not mixed in
                 done/SHARD.json    size and digest of each finished shard
                 set/               what becomes NAME: finished shards, null.safetensors, at the end the manifest

How many records a shard has follows from the plan, so which clips it holds does not depend on what was finished when.
A shard is written beside its name, counted, hashed and flushed to disk, and only then renamed and entered in `done`:
it is there whole, or it is made again.  Once all are, `set` is renamed.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines.shards import latents
from data_pipelines.shards import manifest as manifests
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
from data_pipelines.shards.latents import LatentRecord, LatentSpec
from data_pipelines.shards.manifest import Manifest, Shard
from vdm_jax import config as configs
from vdm_jax.errors import RunError

PLAN = "plan.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a latent set will be.

    Attributes:
      clip: shapes, conditions and encoders.
      records: split -> number of clips.
      provenance, settings: as in `Manifest`.
      shard_records: clips of each shard but the last.
    """

    clip: LatentSpec
    records: Mapping[str, int]
    provenance: Mapping[str, Any]
    settings: Mapping[str, Any]
    shard_records: int

    def parts(self) -> list["Part"]:
        """All shards, in order."""
        found = []
        for split in (split for split in SPLITS if self.records.get(split)):
            starts = range(0, self.records[split], self.shard_records)
            for i, start in enumerate(starts):
                stop = min(start + self.shard_records, self.records[split])
                found.append(Part(shard_name(split, i, len(starts)), split, start, stop))
        return found

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON gives it back."""
        return json.loads(json.dumps(configs.to_dict(self)))


@dataclasses.dataclass(frozen=True)
class Part:
    """One shard: clips `start` to `stop` of a split."""

    file: str
    split: str
    start: int
    stop: int


def plan_for(
    clip: LatentSpec, records: Mapping[str, int], provenance, settings, shard_bytes: int = SHARD_BYTES
) -> Plan:
    """A plan with shards of about `shard_bytes`.

    Raises:
      ValueError: no clips.
    """
    if not any(records.values()):
        raise ValueError("records: no clips to encode")
    return Plan(clip, dict(records), provenance, settings, max(1, shard_bytes // clip.decoded_bytes))


class LatentWriter:
    """Takes finished shards; use `open_latent_writer`.

    Attributes:
      plan: what is being made.
    """

    def __init__(self, folder: Path, out: Path, plan: Plan):
        self.plan = plan
        self._set, self._done, self._out = folder / "set", folder / "done", out

    def missing(self) -> list[Part]:
        """The shards that are not finished."""
        return [part for part in self.plan.parts() if not self._note(part).exists()]

    def write(self, part: Part, records: Iterable[LatentRecord]) -> None:
        """Writes a shard; what breaks off leaves nothing that counts.

        Args:
          part: one of `missing`.
          records: its clips, in order; their `index` is set.

        Raises:
          ValueError: a record that does not fit the set, or another number of them.
          RunError: the disk is full, or fails otherwise.
        """
        partial, path = self._set / f"{part.file}.part", self._set / part.file
        with writing(self._out):
            writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed")
        count = 0
        try:
            for index, record in zip(range(part.start, part.stop), records):
                data = self.plan.clip.serialize(dataclasses.replace(record, split=part.split, index=index))
                with writing(self._out):
                    writer.write(data)
                count += 1
        finally:
            with writing(self._out):
                writer.close()
        if count != part.stop - part.start:
            raise ValueError(f"records: {count} for a shard of {part.stop - part.start}")
        with writing(self._out):
            found = count_records(partial)
            if found != count:
                raise RunError(
                    f"cannot write {self._out}: {part.file} holds {found} records after {count} were written"
                )
            shard = Shard(part.file, count, partial.stat().st_size, sha256(partial))
            flush(partial)
            partial.rename(path)
            flush(self._set)
            _write_whole(self._note(part), configs.to_dict(shard))

    def finish(self) -> Manifest:
        """Writes the manifest of a set whose shards are all there; `open_latent_writer` then publishes it."""
        assert not self.missing(), "shards are missing"
        with writing(self._out):
            splits: dict[str, list[Shard]] = {}
            for part in self.plan.parts():
                splits.setdefault(part.split, []).append(Shard(**json.loads(self._note(part).read_text("utf-8"))))
            whole = {split: tuple(shards) for split, shards in splits.items()}
            manifest = Manifest(self.plan.clip, whole, self.plan.provenance, self.plan.settings)
            self.plan.clip.features().save_config(str(self._set))
            (self._set / "dataset_info.json").write_text(dataset_info(whole), "utf-8")
            (self._set / manifests.FILE_NAME).write_text(manifests.dump(manifest), "utf-8")
            for path in self._set.iterdir():
                flush(path)
            flush(self._set)
        return manifest

    def _note(self, part: Part) -> Path:
        return self._done / f"{part.file}.json"


def finished(out: Path, plan: Plan) -> Manifest | None:
    """The manifest of the set at `out` if it is what `plan` would make; what its writer left behind is cleared.

    Raises:
      RunError: the manifest is damaged.
    """
    out = out.absolute()
    if not (out / manifests.FILE_NAME).is_file():
        return None
    there = manifests.load(out)
    if not isinstance(there.clip, LatentSpec):
        return None
    records = {split: there.records(split) for split in there.splits}
    made = Plan(there.clip, records, there.provenance, there.settings, plan.shard_records)
    if _differences(made.as_json(), plan.as_json()):
        return None
    shutil.rmtree(_folder(out), ignore_errors=True)
    return there


@contextlib.contextmanager
def open_latent_writer(
    out: str | Path, plan: Plan, null: Mapping[str, np.ndarray] | None = None, *, overwrite: bool = False
) -> Iterator[LatentWriter]:
    """Opens a writer, which goes on with what an earlier one left; the set appears at `out` after `finish`.

    Args:
      out: directory to make.
      plan: of the whole set; its `clip.null` is set here.
      null: name -> condition of the empty prompt.
      overwrite: replace a set that is there, at the very end, and what another plan left unfinished, at once.

    Raises:
      ValueError: `out` exists, or holds what another plan left unfinished; `null` does not fit.
      RunError: another process writes there, or the disk fails.
    """
    out = Path(out).absolute()
    check_target(out, overwrite)
    content = latents.null_bytes(plan.clip, null) if null else b""
    folder = _folder(out)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        held = lock(folder, out)
    try:
        with writing(out):
            plan = _begin(folder, out, plan, content, overwrite)
        writer = LatentWriter(folder, out, plan)
        yield writer
        if (folder / "set" / manifests.FILE_NAME).exists():
            with writing(out):
                publish(folder / "set", out)
                shutil.rmtree(folder)
    finally:
        os.close(held)


def _folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.encode")


def _begin(folder: Path, out: Path, plan: Plan, null: bytes, overwrite: bool) -> Plan:
    """Goes on with the plan in `folder`, or starts this one."""
    left = folder / PLAN
    if left.exists():
        before = json.loads(left.read_text("utf-8"))
        if not (wrong := _differences(before, plan.as_json())):
            (folder / "set").mkdir(exist_ok=True)
            for partial in (folder / "set").glob("*.part"):
                partial.unlink()
            return dataclasses.replace(plan, clip=dataclasses.replace(plan.clip, null=before["clip"]["null"]))
        if not overwrite:
            raise ValueError(
                f"out: {folder} holds an unfinished set of another kind ({wrong[0]}); finish that one, remove it,"
                " or ask to overwrite it"
            )
    for there in folder.iterdir():
        shutil.rmtree(there) if there.is_dir() else there.unlink()
    for name in ("set", "done"):
        (folder / name).mkdir()
    if null:
        plan = dataclasses.replace(plan, clip=dataclasses.replace(plan.clip, null=hashlib.sha256(null).hexdigest()))
        (folder / "set" / latents.NULL_FILE).write_bytes(null)
        flush(folder / "set" / latents.NULL_FILE)
    _write_whole(left, plan.as_json())
    return plan


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two plans but for the null features, whose last digit may differ between machines."""
    old, new = ({**plan, "clip": {**plan["clip"], "null": ""}} for plan in (before, now))
    return configs.difference(old, new)


def _write_whole(path: Path, value: Any) -> None:
    """Writes JSON durably, beside its place first."""
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(json.dumps(value), "utf-8")
    flush(partial)
    partial.rename(path)
    flush(path.parent)
