"""From a decided table and encoded clips to a shard set."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.curation.captions import caption_labels, main_caption
from data_pipelines.curation.encode import Clip, Encoder, Job
from data_pipelines.curation.filters import Decision
from data_pipelines.curation.settings import CurateSettings, Recipe
from data_pipelines.curation.source import Source, Span
from data_pipelines.curation.table import ClipRow
from data_pipelines.shards.files import SHARD_BYTES
from data_pipelines.shards.manifest import ClipSpec, Dropped, Manifest
from data_pipelines.shards.schema import ClipRecord
from data_pipelines.shards.writer import open_writer
from vdm_jax import config as configs
from vdm_jax.errors import RunError

_LONG = 128  # characters


def jobs_of(decision: Decision, sources: Mapping[str, Source], crop_bars: bool = False) -> list[Job]:
    """The clips that are used, source by source, in order."""
    kept: dict[str, list[ClipRow]] = {}
    for row in decision.kept:
        kept.setdefault(row.source, []).append(row)
    jobs = []
    for name, rows in kept.items():
        clips = tuple(Clip(Span(row.start, row.end), _box(row) if crop_bars else ()) for row in rows)
        jobs.append(Job(sources[name], rows[0].digest, clips))
    return jobs


def write_set(
    out: Path,
    decision: Decision,
    jobs: Sequence[Job],
    recipe: Recipe,
    encoder: Encoder,
    dropped: Sequence[Dropped],
    notes: Mapping[str, Any],
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """Writes the clips that are used; nothing of a set that fails is left.

    Args:
      out: directory to make.
      decision: which clips, and in which split.
      jobs: of those clips; all of them are encoded.
      recipe, encoder: by which they were made.
      dropped: sources that gave nothing.
      notes: further facts for the manifest's provenance.
      overwrite: replace a set that is there.
      shard_bytes: size of a shard file, about.

    Raises:
      RunError: the disk is full, or fails otherwise.
    """
    asked = recipe.settings
    rates = {job.source.id: _rate(asked, decision, job) for job in jobs}
    spec = ClipSpec(asked.frames, asked.height, asked.width, asked.codec)
    with open_writer(out, spec, overwrite=overwrite, shard_bytes=shard_bytes) as writer:
        for row, data in _clips(decision, jobs, encoder):
            writer.add(_record(row, data, asked, rates[row.source]))
        resolved = {**configs.to_dict(asked), "hold_out": decision.hold_out, "stride": asked.stride or asked.frames}
        provenance = {
            "pipeline": "curation",
            "stages": [
                {"name": stage.name, "version": stage.version, "fingerprint": stage.fingerprint}
                for stage in recipe.stages()
            ],
            "sources": _sources(decision, jobs),
            "clips": {"found": len(decision.rows), "used": len(decision.kept), "refused": decision.reasons()},
            **notes,
        }
        return writer.finish(provenance, resolved, dropped)


def _clips(decision: Decision, jobs: Sequence[Job], encoder: Encoder) -> Iterator[tuple[ClipRow, bytes]]:
    rows = iter(decision.kept)
    for job in jobs:
        for clip, data in zip(job.clips, encoder.read(job), strict=True):
            row = next(rows)
            assert (row.source, Span(row.start, row.end)) == (job.source.id, clip.span), row.id
            yield row, data


def _record(row: ClipRow, data: bytes, asked: CurateSettings, rate: float) -> ClipRecord:
    scores = {name: value for name, value in row.scores.items() if not _is_long(value)}
    labels = {"clip": row.id, "end": row.end, "scores": scores, **caption_labels(row.captions)}
    return ClipRecord(
        video=data,
        codec=asked.codec,
        caption=main_caption(row.captions),
        fps=rate,
        frames=asked.frames,
        height=asked.height,
        width=asked.width,
        source=row.source,
        start=row.start,
        split=row.split,
        index=0,
        labels=json.dumps(labels, sort_keys=True, ensure_ascii=False, allow_nan=False),
    )


def _is_long(value: Any) -> bool:
    """Embeddings as text: the table of clips has them, and no reader of clips wants them."""
    return isinstance(value, str) and len(value) > _LONG


def _rate(asked: CurateSettings, decision: Decision, job: Job) -> float:
    if asked.fps:
        return asked.fps
    return float(next(row for row in decision.kept if row.source == job.source.id).facts["source_fps"])


def _sources(decision: Decision, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    by_source: dict[str, list[ClipRow]] = {}
    for row in decision.kept:
        by_source.setdefault(row.source, []).append(row)
    found = []
    for job in jobs:
        rows = by_source[job.source.id]
        counts = {split: sum(row.split == split for row in rows) for split in ("train", "val")}
        captioned = any(row.captions for row in rows)
        found.append({"name": job.source.id, "sha256": job.digest, "clips": counts, "captioned": captioned})
    return sorted(found, key=lambda source: source["name"])


def _box(row: ClipRow) -> tuple[int, int, int, int] | tuple[()]:
    """The picture inside black bars, as the scorer `bars` found it; () where there are none."""
    if not row.scores["bars"]:
        return ()
    try:
        left, top, right, bottom = map(int, str(row.scores["content"]).split(","))
    except (KeyError, ValueError):
        raise RunError(f"{row.id}: its score 'content' is {row.scores.get('content')!r}, which is no box") from None
    return top, bottom, left, right
