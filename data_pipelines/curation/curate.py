"""From footage to a shard set of clips.

    inputs -> captions -> examine every source -> table -> filters, splits -> encode what is used -> shards

What is measured lies in a working directory, under names that say what it depends on (`stage`, `records`), so a run
that was stopped goes on where it was, one with other filters decodes nothing but clips that are new, and one with
another setting works out what depends on that setting.  What is published follows from the inputs and settings alone:
not from how often, where or with how many workers it was worked on.

One bad file never stops the rest: it gives no clips at all, and the manifest lists it with its reason.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.curation.caption_files import (
    WORDS,
    CaptionTable,
    read_caption_table,
    source_captions,
    stray_sidecars,
)
from data_pipelines.curation.captions import Caption, blend
from data_pipelines.curation.clip_rows import Changed, ClipRows
from data_pipelines.curation.encode import Encoder
from data_pipelines.curation.examine import Examined, Examiner, Spent
from data_pipelines.curation.filters import Decision, Rule, check_columns, decide
from data_pipelines.curation.graph import Encode, Examine, Progress, Where, import_beam, run_each
from data_pipelines.curation.inputs.found import InputSettings
from data_pipelines.curation.inputs.opening import open_inputs
from data_pipelines.curation.records import Records
from data_pipelines.curation.scores.duplicates import COLUMNS as DUPLICATES
from data_pipelines.curation.scores.duplicates import score_corpus
from data_pipelines.curation.scores.opencv import import_opencv
from data_pipelines.curation.settings import Recipe
from data_pipelines.curation.source import Source
from data_pipelines.curation.table import ClipRow, write_table
from data_pipelines.curation.write import jobs_of, write_set
from data_pipelines.shards.files import check_target, lock, writing
from data_pipelines.shards.manifest import Dropped, Manifest
from vdm_jax.errors import RunError
from vdm_jax.media.video import VideoError

TABLE = "clips.parquet"
FACTS = ("container", "codec", "pixel_format", "color_range", "height", "width", "rotation", "variable_rate")
EXTRA = "input."  # before the names of columns that came with the input


@dataclasses.dataclass(frozen=True)
class Curated:
    """What a run gave.

    Attributes:
      manifest: of the set; None for a dry run.
      decision: every clip, and why it is used or not.
      dropped: sources that gave none, and entries of the inputs that are no sources.
      spent: CPU time of each step that was not done before.
      table: Parquet file of all clips.
      notes: captions without a video, sources without a caption, files that were left alone.
    """

    manifest: Manifest | None
    decision: Decision
    dropped: tuple[Dropped, ...]
    spent: Spent
    table: Path
    notes: Mapping[str, Any]


def work_folder(out: str | os.PathLike) -> Path:
    """Where the results of a run lie, unless told otherwise: `OUT.work` beside `OUT`."""
    out = Path(out).absolute()
    return out.with_name(f"{out.name}.work")


def curate(
    inputs: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    recipe: Recipe,
    progress: Mapping[str, Progress] | None = None,
    *,
    reading: InputSettings | None = None,
    where: Where | None = None,
    work: str | os.PathLike | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
) -> Curated:
    """Turns footage into a shard set.

    Args:
      inputs: folders, files, globs, tars, tables, URLs; see `inputs.opening`.
      out: directory to make.
      recipe: settings, scorers, captioner.
      progress: `examine` and `encode` -> called with (done, all, name) after each source.
      reading: how inputs are read.
      where: runner and threads.
      work: directory for what is measured; `work_folder(out)` unless given.
      dry_run: decide, but encode and write nothing.
      overwrite: replace a shard set that is at `out`.

    Raises:
      ValueError: no such input, nothing in it, a filter on an unknown column, or `out` exists.
      RunError: nothing is usable, filters keep nothing, too few sources to hold any out, a package is missing, or the
        disk fails; nothing is published then, and what is measured stays.
    """
    out = Path(out).absolute()
    if not dry_run:
        check_target(out, overwrite)
    found = open_inputs(inputs, reading)
    _check_filters(recipe, found.sources)
    word = recipe.settings.captions
    table = None if word in WORDS else read_caption_table(word, [source.id for source in found.sources])
    word = word if table is None else "beside"
    strays = (*(table.strangers if table else ()), *stray_sidecars(list(map(os.fspath, inputs)), found.sources, word))
    import_beam()
    import_opencv()
    folder = Path(work or work_folder(out)).absolute()
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = lock(folder, folder)
    try:
        records = Records(folder)
        records.clear_partial()
        run = _Run(", ".join(map(str, inputs)), recipe, records, where or Where(), dict(progress or {}))
        said, bad = _captions(found.sources, word, table)
        run.dropped += [*found.refused, *bad, *(table.refused if table else ())]
        sources = {source.id: source for source in found.sources if source.id in said}
        rows = run.examine(sources, said, table)
        decision = run.settle(rows, sources, len(found.sources), dry_run)
        notes = {"ignored": dict(found.ignored), "captions_without_source": list(strays)}
        notes["sources_without_caption"] = sum(not captions for captions in said.values())
        write_table(folder / TABLE, decision.rows, {"stages": [stage.folder for stage in recipe.stages()]})
        dropped = tuple(sorted(run.dropped, key=lambda d: d.file))
        manifest = None
        if not dry_run:
            manifest = write_set(out, decision, sources, recipe, run.encoder, dropped, notes, overwrite=overwrite)
        return Curated(manifest, decision, dropped, run.spent, folder / TABLE, notes)
    finally:
        os.close(held)


class _Run:
    """One run: what is dropped and spent on the way."""

    def __init__(self, inputs: str, recipe: Recipe, records: Records, where: Where, progress: dict[str, Progress]):
        self._inputs = inputs  # for messages
        self._recipe, self._records, self._where, self._progress = recipe, records, where, progress
        self._examiner = Examiner(recipe, records)
        self.encoder = Encoder(recipe.encode, recipe.settings.clip, records)
        self.dropped: list[Dropped] = []
        self.spent = Spent()

    def examine(
        self,
        sources: Mapping[str, Source],
        said: Mapping[str, tuple[Caption, ...]],
        table: CaptionTable | None,
    ) -> Sequence[ClipRow]:
        """Rows of all clips of the sources that are usable, in order."""
        lines = [source.to_json() for source in sources.values()]
        bad = self._each("examine", Examine(self._examiner), lines)
        rows = ClipRows(self._records.folder)
        for source in sorted(sources.values(), key=lambda source: source.id):
            if source.id in bad:
                continue
            known = self._examiner.read(source)
            if known is None:
                raise RunError(f"{source.id}: the run ended without a result for it; start again")
            try:
                rows.extend(list(_rows(source, known, said[source.id], table)))
            except VideoError as error:
                self.dropped.append(Dropped(source.id, error.reason, str(error)))
        return compared(rows, self._recipe)

    def settle(self, rows: Sequence[ClipRow], sources: Mapping[str, Source], count: int, dry_run: bool) -> Decision:
        """Decides, and encodes what is used; decides again without the sources that turn out to be damaged."""
        asked = self._recipe.settings
        while True:
            self._check_usable(rows, count)
            decision = decide(rows, asked.selection, count)
            if dry_run:
                return decision
            lines = [job.to_json() for job, _ in jobs_of(decision, sources, asked.crop_bars)]
            bad = self._each("encode", Encode(self.encoder, self._examiner), lines)
            if not bad:
                return decision
            rows = Changed(rows, [place for place, row in enumerate(rows) if row.source not in bad])

    def _check_usable(self, rows: Sequence[ClipRow], count: int) -> None:
        if rows:
            return
        dropped = sorted(self.dropped, key=lambda d: d.file)
        listed = "; ".join(f"{d.file}: {d.reason}" for d in dropped[:3])
        more = f" and {len(dropped) - 3} more" if len(dropped) > 3 else ""
        raise RunError(f"{self._inputs}: none of {count} sources is usable ({listed}{more})")

    def _each(self, name: str, work: Examine | Encode, lines: Sequence[str]) -> set[str]:
        """Runs a graph; returns the names of its dead letters."""
        spent, letters = run_each(work, lines, self._records, self._where, self._progress.get(name))
        self.dropped += letters
        for stage, (cpu, video) in spent.by_stage.items():
            self.spent.add(stage, cpu, video)
        return {letter.file for letter in letters}


def _check_filters(recipe: Recipe, sources: Sequence[Source]) -> None:
    rules: tuple[Rule, ...] = recipe.settings.selection.filters
    extra = {f"{EXTRA}{name}" for source in sources for name in source.extra} if rules else set()
    scores = {column.name for scorer in recipe.scorers for column in scorer.columns}
    if recipe.duplicates is not None:
        scores |= {column.name for column in DUPLICATES}
    check_columns(rules, {*scores, *extra, *FACTS, "source_fps", "source_seconds", "sound"})


def _captions(
    sources: Sequence[Source], word: str, table: CaptionTable | None
) -> tuple[dict[str, tuple[Caption, ...]], list[Dropped]]:
    """The captions of each source, and the sources whose captions are bad, or lack where they are required."""
    said, bad = {}, []
    for source in sources:
        try:
            said[source.id] = source_captions(source, word, table)
        except VideoError as error:
            bad.append(Dropped(source.id, error.reason, str(error)))
    return said, bad


def _rows(source: Source, known: Examined, said: tuple[Caption, ...], table: CaptionTable | None) -> Iterator[ClipRow]:
    facts = {name: getattr(known.facts, name) for name in FACTS}
    facts |= {"source_fps": known.facts.fps, "source_seconds": known.facts.duration, "sound": bool(known.facts.audio)}
    facts |= {f"{EXTRA}{name}": value for name, value in source.extra.items() if value is not None}
    for span, scores, captions in zip(known.spans, known.scores, known.captions, strict=True):
        row = ClipRow(source.id, span.start, span.end, known.digest, source.group, facts, scores)
        own = (table.of(row.id) if table else ()) or said
        parts = [(part, 1.0) for part in (own, captions) if part]
        yield dataclasses.replace(row, captions=blend(parts) if len(parts) > 1 else tuple(own or captions))


def compared(rows: Sequence[ClipRow], recipe: Recipe) -> Sequence[ClipRow]:
    """The rows with what only a look at all of them tells: which clips are near duplicates of others."""
    if recipe.duplicates is None:
        return rows
    found = score_corpus(rows)
    changed = lambda place, row: dataclasses.replace(row, scores={**row.scores, **found.scores(place)})  # noqa: E731
    return Changed(rows, range(len(rows)), changed)
