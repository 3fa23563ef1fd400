"""The page of `vdm inspect`: a shard set to look at, with playable clips, scores, captions and where all comes from."""

import json
import numbers
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.shards.latents import LatentRecord, LatentSpec
from data_pipelines.shards.manifest import Manifest
from data_pipelines.shards.reader import ClipSource
from data_pipelines.shards.schema import ClipRecord
from vdm_jax.cli.inspect_latents import as_picture
from vdm_jax.media.charts import histogram
from vdm_jax.media.embed import embed_mp4
from vdm_jax.media.grid import spread
from vdm_jax.media.page import Bar, Card, Charts, Clips, Page, Section, Table, clip_media

SHOWN = 24  # clips
READ, READ_BYTES = 2048, 256 << 20  # records whose labels and captions are counted, and what reading them may take
CHIPS = 8  # values under a clip
LONGEST = 60  # letters of a text among them; an embedding is nothing to look at
EMBEDDED_BYTES = 1_500_000  # an mp4 up to this size is shown as it is stored
LISTED = 500  # rows of a table; the manifest has them all


def set_page(path: Path, manifest: Manifest, sources: Mapping[str, ClipSource]) -> Page:
    """A page of one shard set.

    Args:
      path: where the set is.
      manifest: of the set.
      sources: split -> its clips.
    """
    shards = [shard for part in manifest.splits.values() for shard in part]
    clip = manifest.clip
    summary = {
        **{f"{split}_clips": manifest.records(split) for split in manifest.splits},
        "frames": clip.frames,
        "height x width": f"{clip.height} x {clip.width}",
        "codec": clip.dtype if isinstance(clip, LatentSpec) else clip.codec,
        "megabytes": round(sum(shard.bytes for shard in shards) / 1e6, 2),
        "files": len(shards),
        **({"dropped_sources": len(manifest.dropped)} if manifest.dropped else {}),
    }
    each = sum(shard.bytes for shard in shards) / sum(shard.records for shard in shards)
    read = max(1, min(READ, int(READ_BYTES / each)) // len(sources))
    records = [source.record(k) for source in sources.values() for k in spread(len(source), read)]
    sections = [
        _clips(manifest, sources),
        *_numbers(records),
        *_captions(records),
        *_origins(manifest),
        _settings(manifest),
    ]
    subtitle = f"{manifest.provenance.get('pipeline', 'unknown pipeline')} · {manifest.digest()}"
    return Page(path.absolute().name, subtitle, summary, sections)


def values_of(labels: str) -> dict[str, Any]:
    """The scores in the labels of a clip by name, `{"scores": {"a": 1}} -> {"a": 1}`, or else all plain values."""
    found = json.loads(labels)
    flat: dict[str, Any] = {}

    def collect(value: Any, name: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                collect(inner, f"{name}.{key}" if name else key)
        elif isinstance(value, numbers.Number) or (isinstance(value, str) and len(value) <= LONGEST):
            flat.setdefault(name, value)

    collect(found.get("scores") or {key: value for key, value in found.items() if key != "captions"}, "")
    return flat


def _clips(manifest: Manifest, sources: Mapping[str, ClipSource]) -> Section:
    cards = []
    for split, source in sources.items():
        for index in spread(len(source), max(1, SHOWN // len(sources))):
            cards.append(_card(split, index, source, manifest))
    shown = "three channels of the latents as colours" if isinstance(manifest.clip, LatentSpec) else ""
    return Section("Clips", [Clips(cards)], shown or "spread over all splits")


def _card(split: str, index: int, source: ClipSource, manifest: Manifest) -> Card:
    record, item = source.record(index), source[index]
    video = item["video"]
    if isinstance(manifest.clip, LatentSpec):
        media = clip_media(as_picture(video), record.fps)
    elif record.codec == "h264" and len(record.video) <= EMBEDDED_BYTES:
        media = embed_mp4(record.video, video[0])
    else:
        media = clip_media(video, record.fps)
    captions = json.loads(record.labels).get("captions") or []
    lines = [f"{100 * share:.3g} %  {text}" for text, share in captions if text != record.caption]
    lines.append(f"{split}[{index}]  {record.source} at {record.start:g} s, {record.fps:g} fps")
    values = sorted(values_of(record.labels).items(), key=lambda item: item[1] == 0)  # zeros say least
    return Card(media, record.caption, lines, dict(values[:CHIPS]))


def _numbers(records: Iterable[ClipRecord | LatentRecord]) -> list[Section]:
    """Histograms of every number in the labels."""
    columns: dict[str, list[float]] = {}
    words: dict[str, dict[str, int]] = {}
    total = 0
    for record in records:
        total += 1
        for name, value in values_of(record.labels).items():
            if isinstance(value, str):
                counts = words.setdefault(name, {})
                counts[value] = counts.get(value, 0) + 1
            elif np.isfinite(value):
                columns.setdefault(name, []).append(float(value))
    blocks: list[Any] = []
    differ = {name: values for name, values in columns.items() if len(set(values)) > 1}
    if differ:
        blocks.append(Charts([(name, histogram(values, width=4, height=1.9)) for name, values in differ.items()]))
    same = ", ".join(f"{name} {values[0]:g}" for name, values in columns.items() if name not in differ)
    few = {name: counts for name, counts in words.items() if 1 < len(counts) <= 32}
    for name, counts in few.items():
        rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        most = rows[0][1]
        blocks.append(Table((name, "clips"), [(word, Bar(f"{n:,}", n / most)) for word, n in rows], name, folded=True))
    text = [f"The same for all clips: {same}."] if same else []
    return [Section("Labels", blocks, f"of {total:,} clips", text)] if blocks or text else []


def _captions(records: list[ClipRecord | LatentRecord]) -> list[Section]:
    texts = [record.caption for record in records]
    captioned = [text for text in texts if text]
    if not captioned:
        return [Section("Captions", text=["No clip has a caption."])]
    several = sum(bool(json.loads(record.labels).get("captions")) for record in records)
    said = (
        f"{len(captioned):,} of {len(texts):,} clips have a caption, {several:,} have several; the most probable ones"
    )
    lengths = [len(text.split()) for text in captioned]
    chart = Charts([("words in a caption", histogram(lengths, width=4, height=1.9))])
    return [Section("Captions", [chart], text=[f"{said} are {len(set(captioned)):,} different texts."])]


def _origins(manifest: Manifest) -> list[Section]:
    blocks = []
    sources = manifest.provenance.get("sources", ())
    if sources:
        splits = list(manifest.splits)
        rows = [
            (source.get("name", ""), *((source.get("clips") or {}).get(split, 0) for split in splits))
            for source in sources[:LISTED]
        ]
        blocks.append(Table(("source", *splits), rows, f"{len(sources):,} sources", folded=True))
    if manifest.dropped:
        reasons = manifest.reasons()
        most = max(reasons.values())
        rows = [(reason, Bar(f"{count:,}", count / most)) for reason, count in reasons.items()]
        blocks.append(Table(("reason", "sources dropped"), rows))
        rows = [(dropped.file, dropped.reason, dropped.detail) for dropped in manifest.dropped[:LISTED]]
        title = f"{len(manifest.dropped):,} dropped sources"
        blocks.append(Table(("source", "reason", "detail"), rows, title, folded=True))
    return [Section("Sources", blocks)] if blocks else []


def _settings(manifest: Manifest) -> Section:
    def rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
        return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in found.items()]

    provenance = {name: value for name, value in manifest.provenance.items() if name != "sources"}
    files = [
        (shard.file, shard.records, round(shard.bytes / 1e6, 3), shard.sha256)
        for part in manifest.splits.values()
        for shard in part[:LISTED]
    ]
    blocks = (
        [Table(("setting", "value"), rows(manifest.settings), "Settings", folded=True)] if manifest.settings else []
    )
    blocks.append(Table(("", "value"), rows(provenance), "Provenance", folded=True))
    blocks.append(Table(("file", "clips", "MB", "SHA-256"), files, "Files and digests", folded=True))
    return Section("How it was made", blocks)
