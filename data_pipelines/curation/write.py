"""From a decided table and encoded clips to a shard set."""

import itertools
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


def jobs_of(
    decision: Decision, sources: Mapping[str, Source], crop_bars: bool = False
) -> Iterator[tuple[Job, list[ClipRow]]]:
    """The clips that are used, source by source, in order: what to encode, and their rows."""
    for name, found in itertools.groupby(decision.kept, key=lambda row: row.source):
        rows = list(found)
        clips = tuple(Clip(Span(row.start, row.end), _box(row) if crop_bars else ()) for row in rows)
        yield Job(sources[name], rows[0].digest, clips), rows


def write_set(
    out: Path,
    decision: Decision,
    sources: Mapping[str, Source],
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
      decision: which clips, and in which split; all of them are encoded.
      sources: where they come from, by id.
      recipe, encoder: by which they were made.
      dropped: sources that gave nothing.
      notes: further facts for the manifest's provenance.
      overwrite: replace a set that is there.
      shard_bytes: size of a shard file, about.

    Raises:
      RunError: the disk is full, or fails otherwise.
    """
    asked = recipe.settings
    spec = ClipSpec(asked.frames, asked.height, asked.width, asked.codec)
    told = []
    with open_writer(out, spec, overwrite=overwrite, shard_bytes=shard_bytes) as writer:
        for job, rows in jobs_of(decision, sources, asked.crop_bars):
            rate = asked.fps or float(rows[0].facts["source_fps"])
            for row, data in zip(rows, encoder.read(job), strict=True):
                writer.add(_record(row, data, asked, rate))
            told.append(_told(job, rows))
        resolved = {**configs.to_dict(asked), "hold_out": decision.hold_out, "stride": asked.stride or asked.frames}
        provenance = {
            "pipeline": "curation",
            "stages": [
                {"name": stage.name, "version": stage.version, "fingerprint": stage.fingerprint}
                for stage in recipe.stages()
            ],
            "sources": told,
            "clips": {"found": len(decision.rows), "used": len(decision.kept), "refused": decision.reasons()},
            **notes,
        }
        return writer.finish(provenance, resolved, dropped)


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


def _told(job: Job, rows: Sequence[ClipRow]) -> dict[str, Any]:
    """What the manifest says of a source."""
    counts = {split: sum(row.split == split for row in rows) for split in ("train", "val")}
    captioned = any(row.captions for row in rows)
    return {"name": job.source.id, "sha256": job.digest, "clips": counts, "captioned": captioned}


def _box(row: ClipRow) -> tuple[int, int, int, int] | tuple[()]:
    """The picture inside black bars, as the scorer `bars` found it; () where there are none."""
    if not row.scores["bars"]:
        return ()
    try:
        left, top, right, bottom = map(int, str(row.scores["content"]).split(","))
    except (KeyError, ValueError):
        raise RunError(f"{row.id}: its score 'content' is {row.scores.get('content')!r}, which is no box") from None
    return top, bottom, left, right
