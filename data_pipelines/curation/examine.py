"""All that is measured on one source: facts, cuts, clips, scores, captions of a model.

Each result is stored as soon as it is there (`Records`), under the digest of the file; what is stored is not worked
out again, and a source whose results are all there is not even opened.
"""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.curation.captions import Caption, ask
from data_pipelines.curation.cuts import Cut, find_cuts
from data_pipelines.curation.probe import Facts, probe
from data_pipelines.curation.records import Records
from data_pipelines.curation.scores.protocol import Sample
from data_pipelines.curation.scores.sampling import sample_spans
from data_pipelines.curation.settings import Recipe
from data_pipelines.curation.source import Source, Span, import_fsspec, local_path
from data_pipelines.curation.spans import clip_spans
from data_pipelines.curation.stage import Stage, fingerprint
from data_pipelines.shards.files import sha256
from vdm_jax import config as configs
from vdm_jax.errors import RunError
from vdm_jax.media.video import VideoError


@dataclasses.dataclass
class Spent:
    """CPU time of steps, and the seconds of video that they went through: name -> (CPU seconds, video seconds)."""

    by_stage: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def add(self, name: str, cpu: float, video: float) -> None:
        """Adds to a step."""
        before = self.by_stage.get(name, (0.0, 0.0))
        self.by_stage[name] = before[0] + cpu, before[1] + video


@dataclasses.dataclass(frozen=True)
class Examined:
    """What is known of a source.

    Attributes:
      digest: SHA-256 of its file.
      facts: of the file.
      spans: its clips, in order of time.
      scores: of each clip, all scorers together.
      captions: of each clip, by the captioner.
    """

    digest: str
    facts: Facts
    spans: tuple[Span, ...]
    scores: tuple[dict[str, float | str], ...]
    captions: tuple[tuple[Caption, ...], ...]


@contextlib.contextmanager
def named(source: Source, lazy: "LocalFile") -> Iterator[None]:
    """Errors in the block speak of the source, not of a copy of it; unforeseen ones count as the source's fault."""
    try:
        yield
    except VideoError as error:
        text = str(error) if lazy.path is None else str(error).replace(str(lazy.path), source.url)
        place = "" if source.url in text or source.id in text else f"{source.id}: "
        raise VideoError(error.reason, f"{place}{text}") from None
    except (RunError, MemoryError):
        raise
    except Exception as error:  # a library's own error: this source is unusable, the others are not
        said = " ".join(str(error).split())
        raise VideoError("failed", f"{source.id}: {type(error).__name__}: {said}") from error


class Examiner:
    """Examines sources, one call each; frozen but for the disk.

    Args:
      recipe: the steps.
      records: where results lie.
    """

    def __init__(self, recipe: Recipe, records: Records):
        self._recipe, self._records = recipe, records

    def examine(self, source: Source) -> Spent:
        """Works out whatever is not stored.

        Returns:
          What it took.

        Raises:
          VideoError: the source gives no clips, and why.
          RunError: the disk is full, or a package is missing.
        """
        spent = Spent()
        with LocalFile(source) as lazy, named(source, lazy):
            digest = self._digest(source, lazy, spent)
            self._work(source, digest, lazy, spent)
        return spent

    def read(self, source: Source) -> Examined | None:
        """What is stored of a source; None if anything lacks."""
        held = self._records.read(self._recipe.digest, source_key(source))
        facts = None if held is None else self._records.read(self._recipe.probe, held["digest"])
        cuts = None if facts is None else self._cuts(held["digest"])
        if cuts is None:
            return None
        facts, digest = configs.build(Facts, facts, "facts"), held["digest"]
        spans = clip_spans(cuts, facts, self._recipe.span_settings(facts), source.span)
        key = span_key(digest, source)
        columns = [self._records.read(self._recipe.score(scorer), key) for scorer in self._recipe.scorers]
        said = [[] for _ in spans]
        if self._recipe.captioner is not None:
            said = self._records.read(self._recipe.caption, key)
        if said is None or any(column is None for column in columns):
            return None
        scores = [{name: value for part in parts for name, value in part.items()} for parts in zip(*columns)]
        captions = tuple(tuple(Caption(*caption) for caption in clip) for clip in said)
        return Examined(digest, facts, tuple(spans), tuple(scores or ({} for _ in spans)), captions)

    def _digest(self, source: Source, lazy: "LocalFile", spent: Spent) -> str:
        """SHA-256 of the file; hashed again only if its size or time of change are others."""
        stamp = stamp_of(source)
        held = self._records.read(self._recipe.digest, source_key(source))
        if held is not None and stamp and held["stamp"] == stamp:
            return held["digest"]
        begin = time.thread_time()
        try:
            digest = sha256(lazy())
        except OSError as error:  # it went away, or its disk fails
            raise VideoError("unreadable", f"{source.url}: {error.strerror}") from None
        self._records.write(self._recipe.digest, source_key(source), {"digest": digest, "stamp": stamp})
        spent.add("digest", time.thread_time() - begin, 0.0)
        return digest

    def _work(self, source: Source, digest: str, lazy: "LocalFile", spent: Spent) -> None:
        recipe = self._recipe
        begin = time.thread_time()
        value = self._records.read(recipe.probe, digest)
        if value is None:
            value = configs.to_dict(probe(lazy()))
            self._records.write(recipe.probe, digest, value)
            spent.add(recipe.probe.name, time.thread_time() - begin, value["duration"])
        facts = configs.build(Facts, value, "facts")
        cuts = self._cuts(digest)
        if cuts is None:
            begin = time.thread_time()
            cuts = find_cuts(lazy(), recipe.cutting)
            self._records.write(recipe.cuts, digest, configs.to_dict(cuts))
            spent.add(recipe.cuts.name, time.thread_time() - begin, facts.duration)
        spans = clip_spans(cuts, facts, recipe.span_settings(facts), source.span)
        if not spans:
            raise _no_clips(source, recipe, facts, cuts)
        self._look(source, digest, facts, spans, lazy, spent)

    def _look(
        self, source: Source, digest: str, facts: Facts, spans: Sequence[Span], lazy: "LocalFile", spent: Spent
    ) -> None:
        """Scores and captions that are not stored, from one small decode of the file."""
        recipe, key = self._recipe, span_key(digest, source)
        tasks: list[tuple[Stage, Callable[[Sample], Any]]] = [(recipe.score(s), s.score) for s in recipe.scorers]
        if recipe.captioner is not None:
            tasks.append((recipe.caption, self._say))
        missing = [(stage, call, {}) for stage, call in tasks if self._records.read(stage, key) is None]
        if not missing:
            return
        begin = time.thread_time()
        for span, sample in sample_spans(lazy(), spans, recipe.looking, facts.keyframes):
            spent.add("sample", time.thread_time() - begin, span.duration)
            for stage, call, found in missing:
                begin = time.thread_time()
                found[span] = call(sample)
                spent.add(stage.name, time.thread_time() - begin, span.duration)
            begin = time.thread_time()
        for stage, _, found in missing:
            _check_finite(source, stage, found)
            self._records.write(stage, key, [found[span] for span in spans])

    def _say(self, sample: Sample) -> list[tuple]:
        return [dataclasses.astuple(caption) for caption in ask(self._recipe.captioner, sample)]

    def _cuts(self, digest: str) -> list[Cut] | None:
        if not self._recipe.settings.cuts:
            return []
        found = self._records.read(self._recipe.cuts, digest)
        return None if found is None else [Cut(**cut) for cut in found]


class LocalFile:
    """The local path of a source, which is copied when it is first asked for, if at all.

    Attributes:
      path: None until then.
    """

    def __init__(self, source: Source):
        self._source, self._stack = source, contextlib.ExitStack()
        self.path: Path | None = None

    def __enter__(self) -> "LocalFile":
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()

    def __call__(self) -> Path:
        if self.path is None:
            self.path = self._stack.enter_context(local_path(self._source))
        return self.path


def source_key(source: Source) -> str:
    """Names a place; what is stored there holds for as long as the place has the same stamp."""
    return fingerprint([source.url, source.offset, source.size])


def span_key(digest: str, source: Source) -> str:
    """Names a stretch of a file's bytes; the digest itself for all of it."""
    return digest if source.span is None else fingerprint([digest, *source.span.milliseconds])


def stamp_of(source: Source) -> str:
    """What changes when the file does, without reading it; "" where nobody says.

    Raises:
      VideoError: the file is `missing` or `unreadable`.
    """
    try:
        if "://" in source.url:
            system, path = import_fsspec(source.url).core.url_to_fs(source.url)
            return str(system.checksum(path))
        facts = os.stat(source.url)
    except FileNotFoundError:
        raise VideoError("missing", f"{source.url}: no such file") from None
    except NotImplementedError:
        return ""
    except OSError as error:
        raise VideoError("unreadable", f"{source.url}: {error.strerror or error}") from None
    return f"{facts.st_size}-{facts.st_mtime_ns}"


def _check_finite(source: Source, stage: Stage, values: Mapping[Span, Any]) -> None:
    for span, scores in values.items():
        for name, value in scores.items() if isinstance(scores, Mapping) else ():
            if isinstance(value, float) and not math.isfinite(value):
                place = f"{source.id} from {span.start} to {span.end} s"
                raise VideoError("bad_score", f"{place}: {stage.name} gives {name} = {value}")


def _no_clips(source: Source, recipe: Recipe, facts: Facts, cuts: Sequence[Cut]) -> VideoError:
    asked, rate = recipe.settings, recipe.settings.clip.rate(facts)
    clip = f"one clip of {asked.frames} frames at {rate:g} fps"
    whole = facts.duration if source.span is None else min(source.span.end, facts.duration) - source.span.start
    if whole < (asked.frames - 1) / rate or not (cuts or asked.keyframes):
        return VideoError("too_short", f"{source.url}: shorter than {clip}")
    return VideoError("no_long_shot", f"{source.url}: none of its {len(cuts) + 1} shots is as long as {clip}")
