"""What filters remove, as a page: counts, histograms with the threshold drawn, and pictures to judge it by.

For each filter there are two contact sheets: clips that it removes, from those just beyond the threshold to the
worst, and clips that it keeps, those nearest to the threshold.  If the two look alike, the threshold is not where it
should be.

Clips are gone through one after the other and not kept, for they may lie on disk; what is kept are their numbers.
"""

import functools
import hashlib
import heapq
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.curation.clip_rows import Changed
from data_pipelines.curation.filters import Decision, Effect, Filter, Rule
from data_pipelines.curation.scores.protocol import Column
from data_pipelines.curation.scores.sampling import SampleSettings, sample_spans
from data_pipelines.curation.source import Source, Span, local_path
from data_pipelines.curation.table import ClipRow
from data_pipelines.shards.manifest import Dropped
from vdm_jax.media.charts import histogram
from vdm_jax.media.grid import contact_sheet, spread
from vdm_jax.media.page import Bar, Charts, Page, Picture, Section, Table, write_page
from vdm_jax.media.video import VideoError

EXAMPLES = 8  # clips of a contact sheet
FRAMES = 6  # of each
SIDE = 96  # pixels, of the shorter one
LISTED = 500  # rows of a table; the table of clips has them all

Pictures = Callable[[Sequence[ClipRow]], Mapping[str, np.ndarray]]


def write_filter_report(
    path: str | os.PathLike,
    decision: Decision,
    pictures: Pictures,
    columns: Iterable[Column] = (),
    dropped: Sequence[Dropped] = (),
    title: str = "Curation",
) -> None:
    """Writes the page, whole or not at all.

    Args:
      path: the file.
      decision: what filters decided about every clip.
      pictures: clips -> by id, frames uint8 [T, h, w, 3] of those that can still be read; see `source_pictures`.
      columns: what the scores mean.
      dropped: sources that gave no clips at all.
      title: of the page.

    Raises:
      RunError: the place cannot be written.
    """
    write_page(path, filter_page(decision, pictures, columns, dropped, title))


def filter_page(
    decision: Decision, pictures: Pictures, columns: Iterable[Column], dropped: Sequence[Dropped], title: str
) -> Page:
    """The page; arguments as `write_filter_report`."""
    meanings = {column.name: column for column in columns}
    numbers = _numbers(decision.clips)
    kept = decision.kept
    summary = {
        "clips": len(decision.rows),
        "kept": len(kept),
        "kept_fraction": len(kept) / max(1, len(decision.rows)),
        "sources": len({row.source for row in decision.rows}),
        "kept_seconds": sum(row.seconds for row in kept),
        **({"sources_without_clips": len(dropped)} if dropped else {}),
    }
    sheets = _Sheets(decision, pictures)
    sections = [_overview(decision)]
    sections += [_of_rule(effect, numbers, meanings, sheets) for effect in decision.effects]
    sections.append(Section("What is kept", sheets.section_of(sheets.kept), "drawn at random"))
    sections += _others(decision, numbers, meanings)
    sections += _dropped(dropped)
    return Page(title, "What the filters remove, and what is left", summary, sections)


def source_pictures(sources: Iterable[Source], folder: str | os.PathLike | None = None) -> Pictures:
    """Reads the pictures of clips from their sources, each of which is decoded once.

    Args:
      sources: all that clips may come from.
      folder: for copies of sources that are no local files.
    """
    by_id = {source.id: source for source in sources}

    def read(rows: Sequence[ClipRow]) -> dict[str, np.ndarray]:
        groups: dict[str, list[ClipRow]] = {}
        for row in rows:
            if row.source in by_id:
                groups.setdefault(row.source, []).append(row)
        found: dict[str, np.ndarray] = {}
        for name, mine in groups.items():
            spans = {Span(row.start, row.end): row.id for row in mine}
            rate = FRAMES / min(span.duration for span in spans)
            looking = SampleSettings(SIDE, float(np.clip(rate, 0.25, 30)), head=0.0)
            try:
                with local_path(by_id[name], folder) as file:
                    found |= {spans[span]: sample.frames for span, sample in sample_spans(file, list(spans), looking)}
            except VideoError:
                continue  # it went away since it was scored; the page says of which clips it has no pictures
        return found

    return read


class _Sheets:
    """Which clips are shown where; all pictures are read at once, so that no source is decoded twice."""

    def __init__(self, decision: Decision, pictures: Pictures):
        self.removed: dict[Rule, list[ClipRow]] = {}
        self.near: dict[Rule, list[ClipRow]] = {}
        for effect in decision.effects:
            name, beyond = str(effect.rule), functools.partial(_beyond, effect.rule)
            gone = [place for place, why in enumerate(decision.refused) if name in why]
            order = np.argsort([beyond(row) for row in Changed(decision.clips, gone)], kind="stable")
            self.removed[effect.rule] = [decision.rows[gone[order[k]]] for k in spread(len(gone), EXAMPLES)]
            self.near[effect.rule] = heapq.nsmallest(EXAMPLES, decision.kept, key=beyond)
        digest = lambda row: hashlib.sha256(row.id.encode()).digest()  # noqa: E731
        self.kept = heapq.nsmallest(EXAMPLES, decision.kept, key=digest)
        shown = [row for rows in (*self.removed.values(), *self.near.values(), self.kept) for row in rows]
        self._frames = pictures(list({row.id: row for row in shown}.values()))

    def sheet(self, rows: Sequence[ClipRow], title: str, column: str = "") -> list[Picture]:
        """A contact sheet of the clips whose pictures there are; none if there are none."""
        rows = [row for row in rows if row.id in self._frames]
        if not rows:
            return []
        texts = [f"{_text(row.value(column))}  {row.id}" if column else row.id for row in rows]
        clips = [self._frames[row.id] for row in rows]
        wide = max(clip.shape[2] / clip.shape[1] for clip in clips) > 1.3
        sheet = contact_sheet(clips, texts, frames=FRAMES, height=64 if wide else 84, columns=2)
        return [Picture(sheet, title)]

    def section_of(self, rows: Sequence[ClipRow]) -> list[Picture]:
        """The same, without a title."""
        return self.sheet(rows, "")


def _beyond(rule: Rule, row: ClipRow) -> float:
    """How far the value of a clip is from the threshold, whichever side it is on; 0 where that says nothing."""
    value = row.value(rule.column)
    if not isinstance(rule, Filter) or value is None or isinstance(value, str):
        return 0.0
    return min(abs(value - rule.least), abs(value - rule.most))


def _numbers(rows: Sequence[ClipRow]) -> dict[str, np.ndarray]:
    """Every number that clips have, by column: float64 [clips], NaN where a clip has none."""
    found = {"seconds": np.full(len(rows), np.nan)}
    for place, row in enumerate(rows):
        found["seconds"][place] = row.seconds
        for name, value in (*row.facts.items(), *row.scores.items()):
            if not isinstance(value, str):
                if name not in found:
                    found[name] = np.full(len(rows), np.nan)
                found[name][place] = value
    return found


def _overview(decision: Decision) -> Section:
    total, left = len(decision.rows), len(decision.rows)
    rows: list[tuple[Any, ...]] = []
    for effect in decision.effects:
        left -= effect.removed
        rows.append((str(effect.rule), _bar(effect.alone, total), _bar(effect.removed, total), effect.missing, left))
    rules = {str(effect.rule) for effect in decision.effects}
    for reason, count in decision.reasons().items():
        if reason not in rules:
            left -= count
            rows.append((reason, None, _bar(count, total), 0, left))
    blocks: list[Any] = []
    if rows:
        blocks.append(Table(("filter", "removes alone", "removes in order", "not measured", "left"), rows))
    counts: dict[str, list[Any]] = {}
    for row in decision.kept:
        clips, sources, seconds, captioned = counts.setdefault(row.split, [0, set(), 0.0, 0])
        sources.add(row.source)
        counts[row.split] = [clips + 1, sources, seconds + row.seconds, captioned + bool(row.captions)]
    splits = [
        (split, clips, len(sources), round(seconds, 1), captioned)
        for split, (clips, sources, seconds, captioned) in sorted(counts.items())
    ]
    blocks.append(Table(("split", "clips", "sources", "seconds", "with a caption"), splits))
    how = "whole sources" if decision.hold_out == "source" else "the end of each source"
    held = f"; held out: {how}" if len(splits) > 1 else ""
    return Section("In short", blocks, f"of {total:,} clips{held}")


def _of_rule(
    effect: Effect, numbers: Mapping[str, np.ndarray], meanings: Mapping[str, Column], sheets: _Sheets
) -> Section:
    rule, blocks = effect.rule, []
    if isinstance(rule, Filter):
        _, chart = _chart(rule.column, numbers, rule.least, rule.most, meanings, width=11.0, height=2.2)
        blocks.append(Charts([("All clips", chart)], wide=True))
    count = len(sheets.removed[rule])
    if effect.alone:
        blocks += sheets.sheet(sheets.removed[rule], f"Removed: {count} of {effect.alone:,}", rule.column)
    blocks += sheets.sheet(sheets.near[rule], "Kept, nearest to the threshold", rule.column)
    meaning = meanings[rule.column].meaning if rule.column in meanings else ""
    missing = [f"Clips without a value: {effect.missing:,}."] if effect.missing else []
    return Section(str(rule), blocks, meaning, missing)


def _others(decision: Decision, numbers: Mapping[str, np.ndarray], meanings: Mapping[str, Column]) -> list[Section]:
    """Histograms of what is not filtered on, each with the limit that its scorer was calibrated to."""
    used = {effect.rule.column for effect in decision.effects}
    charts = []
    for name in sorted(numbers):
        if name in used or len(np.unique(numbers[name])) < 2:
            continue
        column = meanings.get(name)
        least, most = -np.inf, np.inf
        if column is not None and column.limit is not None and column.higher_is != "neither":
            least, most = (column.limit, np.inf) if column.higher_is == "better" else (-np.inf, column.limit)
        charts.append(_chart(name, numbers, least, most, meanings))
    text = [
        "Dashed lines are the limits that separate clean clips from defective ones where their scorer was calibrated."
    ]
    return [Section("What is not filtered on", [Charts(charts)], text=text)] if charts else []


def _chart(
    name: str,
    numbers: Mapping[str, np.ndarray],
    least: float,
    most: float,
    meanings: Mapping[str, Column],
    **size: float,
) -> tuple[str, str]:
    column = meanings.get(name)
    unit = f", {column.unit}" if column is not None and column.unit else ""
    values = numbers.get(name, np.empty(0))
    values = values[~np.isnan(values)]
    meaning = f": {column.meaning}" if column is not None else ""
    return f"{name}{meaning}", histogram(values, least=least, most=most, name=f"{name}{unit}", **size)


def _dropped(dropped: Sequence[Dropped]) -> list[Section]:
    if not dropped:
        return []
    counts: dict[str, int] = {}
    for entry in dropped:
        counts[entry.reason] = counts.get(entry.reason, 0) + 1
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    short = Table(("reason", "sources"), [(reason, _bar(count, rows[0][1])) for reason, count in rows])
    entries = [(entry.file, entry.reason, entry.detail) for entry in dropped[:LISTED]]
    listed = Table(("source", "reason", "detail"), entries, f"All {len(dropped):,}", folded=True)
    return [Section("Sources without clips", [short, listed])]


def _bar(count: int, total: int) -> Bar:
    return Bar(f"{count:,}", count / max(1, total))


def _text(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else f"{value:.4g}"
