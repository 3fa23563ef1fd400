"""Which clips are used: thresholds on scores, a cap per source, and what is held out.

    every row --filters--> kept --cap per source--> fewer --hold-out--> train and val

All of it is worked out from the table alone, so another threshold costs no decoding.  Every filter is asked about
every clip: a refused clip keeps all its reasons, and what a filter removes alone is known as well as what it removes
of the clips that those before it left.

Held-out clips never come from material that is trained on.  By `source`: whole sources are held out, drawn by a hash of
seed and id.  By `tail`, for one or a few long videos: the last part of each, and training clips that reach into it are
left out.  Sources of one group (stretches of a video, cameras of a scene) count as one source.  Where near duplicates
were looked for, training clips that repeat a held-out clip of another source are left out too.

Rows are gone through one after the other and not kept, for they may lie on disk (`clip_rows`).
"""

import collections
import dataclasses
import functools
import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from data_pipelines.curation.clip_rows import Changed
from data_pipelines.curation.table import ClipRow, in_order
from vdm_jax.errors import RunError, did_you_mean

HOLD_OUT = ("auto", "source", "tail")
AUTO_SOURCES = 5  # from so many sources on, `auto` holds out whole sources
CAPPED = "max_clips_per_source"
BORDER = "reaches into what is held out"
LEAK = "near duplicate of what is held out"
LEADER = "duplicate_of"  # the score that names the first clip of those that are alike; "" for that one itself
MISSING = "or missing"
_RULE = re.compile(r"\s*([A-Za-z_][\w./-]*)\s*(>=|<=|==|!=|>|<)\s*(\S.*?)\s*")


@dataclasses.dataclass(frozen=True)
class Filter:
    """Keeps clips whose value in a column is within a range.

    Attributes:
      column: a score, a fact of the file, or `seconds`.
      least, most: the range, both ends included.
      missing: whether a clip that has no such value is kept (a clip of one frame has no motion).
    """

    column: str
    least: float = -math.inf
    most: float = math.inf
    missing: bool = False

    def __post_init__(self):
        if math.isnan(self.least) or math.isnan(self.most) or self.least > self.most:
            raise ValueError(f"filter: {self.column} between {self.least:g} and {self.most:g} is no range")
        if self.least == -math.inf and self.most == math.inf:
            raise ValueError(f"filter: {self.column} has neither a least nor a most")

    def __str__(self) -> str:
        least, most = self.column + _bound(">", self.least, -math.inf), self.column + _bound("<", self.most, math.inf)
        rule = least if self.most == math.inf else most if self.least == -math.inf else f"{least} and {most}"
        rule = f"{self.column}=={_shortest(self.least)}" if self.least == self.most else rule
        return f"{rule} {MISSING}" if self.missing else rule

    def keeps(self, row: ClipRow) -> bool:
        """Whether a clip passes.

        Raises:
          ValueError: its value is text.
        """
        value = row.value(self.column)
        if value is None:
            return self.missing
        if isinstance(value, str):
            raise ValueError(f"filter: {self.column} holds text ({value!r}); use == or !=")
        return self.least <= value <= self.most


@dataclasses.dataclass(frozen=True)
class WordFilter:
    """Keeps clips whose value in a column of text is a certain word, or is not.

    Attributes:
      column: a score or a fact of the file.
      word: the text.
      equal: whether the value shall be that text, or shall not.
      missing: whether a clip that has no such value is kept.
    """

    column: str
    word: str
    equal: bool = True
    missing: bool = False

    def __str__(self) -> str:
        rule = f"{self.column}{'==' if self.equal else '!='}{self.word}"
        return f"{rule} {MISSING}" if self.missing else rule

    def keeps(self, row: ClipRow) -> bool:
        """Whether a clip passes.

        Raises:
          ValueError: its value is a number.
        """
        value = row.value(self.column)
        if value is None:
            return self.missing
        if not isinstance(value, str):
            raise ValueError(f"filter: {self.column} holds numbers ({value!r}), and {self.word!r} is none")
        return (value == self.word) == self.equal


Rule = Filter | WordFilter


def parse_filter(text: str) -> Rule:
    """`motion>=0.5`, `text_area < 0.07`, `codec!=mjpeg`, `motion>=0.5 or missing`.

    Raises:
      ValueError: it is no such rule.
    """
    rule, missing = text.strip(), False
    if rule.endswith(f" {MISSING}"):
        rule, missing = rule.removesuffix(MISSING), True
    found = _RULE.fullmatch(rule)
    if not found:
        raise ValueError(f"filter: {text!r} is no rule such as 'motion>=0.5', 'text_area<0.07' or 'codec!=mjpeg'")
    column, sign, word = found.groups()
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if math.isfinite(number) and sign != "!=":
        bounds = {
            ">=": (number, math.inf),
            "<=": (-math.inf, number),
            ">": (math.nextafter(number, math.inf), math.inf),
            "<": (-math.inf, math.nextafter(number, -math.inf)),
            "==": (number, number),
        }
        return Filter(column, *bounds[sign], missing)
    if sign not in ("==", "!="):
        raise ValueError(f"filter: {text!r} compares with {word!r}, which is no number")
    return WordFilter(column, word, sign == "==", missing)


@dataclasses.dataclass(frozen=True)
class Selection:
    """What is used of a table.

    Attributes:
      filters: all must keep a clip.
      max_clips_per_source: evenly spaced clips are taken from a source that gives more; 0 takes all.
      hold_out: how validation clips are chosen: `source`, `tail`, or `auto` (`source` from 5 sources on).
      val_fraction: share of the sources (`source`) or of each source's clips (`tail`); 0 makes no split `val`.
      seed: which sources are held out.
    """

    filters: tuple[Rule, ...] = ()
    max_clips_per_source: int = 0
    hold_out: str = "auto"
    val_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self):
        if self.max_clips_per_source < 0:
            raise ValueError(f"max_clips_per_source: {self.max_clips_per_source!r} is not at least 0")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction: {self.val_fraction!r} is not within [0, 1)")
        if self.hold_out not in HOLD_OUT:
            raise ValueError(f"hold_out: {did_you_mean(self.hold_out, HOLD_OUT)}")
        if len(set(self.filters)) != len(self.filters):
            twice = next(rule for rule in self.filters if self.filters.count(rule) > 1)
            raise ValueError(f"filter: {twice} is given twice")


@dataclasses.dataclass(frozen=True)
class Effect:
    """What one filter does to a table.

    Attributes:
      rule: the filter.
      alone: clips it would remove if there were no other.
      removed: clips it removes of those that the filters before it left.
      missing: clips that have no value in its column, whether they are kept or not.
    """

    rule: Rule
    alone: int
    removed: int
    missing: int


@dataclasses.dataclass(frozen=True)
class Decision:
    """What filters decided about every clip of a table.

    Attributes:
      clips: the table, in order of source and time.
      split, refused: of each clip, as in `ClipRow`.
      effects: what each filter did.
      hold_out: how validation clips were chosen.
    """

    clips: Sequence[ClipRow]
    split: Sequence[str]
    refused: Sequence[tuple[str, ...]]
    effects: tuple[Effect, ...]
    hold_out: str

    @property
    def rows(self) -> Sequence[ClipRow]:
        """The table with `split` and `refused` set; rows are made when they are looked at."""
        return Changed(self.clips, range(len(self.clips)), self._decided)

    @functools.cached_property
    def kept(self) -> Sequence[ClipRow]:
        """The clips that are used; rows are made when they are looked at."""
        places = np.array([place for place, why in enumerate(self.refused) if not why], np.int64)
        return Changed(self.clips, places, self._decided)

    def reasons(self) -> dict[str, int]:
        """Clips for each reason, the most frequent first; a clip counts for each of its reasons."""
        counts = collections.Counter(reason for why in self.refused for reason in why)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def _decided(self, place: int, row: ClipRow) -> ClipRow:
        return dataclasses.replace(row, split=self.split[place], refused=self.refused[place])


def check_columns(filters: Iterable[Rule], columns: Iterable[str]) -> None:
    """Refuses filters on columns that there are not; worth calling before anything is measured.

    Raises:
      ValueError: names the column, and the nearest that there is.
    """
    columns = {*columns, "seconds"}
    for rule in filters:
        if rule.column not in columns:
            raise ValueError(f"filter: {did_you_mean(rule.column, columns)}")


def decide(rows: Iterable[ClipRow], selection: Selection, sources: int = 0) -> Decision:
    """Decides for each clip whether it is used, and in which split.

    Args:
      rows: the table; what earlier decisions set is forgotten.
      selection: what to keep.
      sources: how many sources there are, those without clips included; 0 counts those of the table.

    Returns:
      The rows in order of source and time, and what each filter did.

    Raises:
      ValueError: a filter on a column that no row has, or on text as if it were numbers.
      RunError: a filter keeps nothing, or all together do, or nothing is left to train on.
    """
    rows = in_order(rows)
    check_columns(selection.filters, _columns(rows) if selection.filters else ())
    marks, effects = _filtered(rows, selection.filters)
    count = sources or len(set(marks.group))
    hold_out = selection.hold_out
    if hold_out == "auto":
        hold_out = "source" if count >= AUTO_SOURCES else "tail"
    _cap(marks, selection.max_clips_per_source)
    _hold_out(marks, dataclasses.replace(selection, hold_out=hold_out), count)
    _refuse_leaks(marks, rows)
    if rows and "train" not in marks.split:
        used = len({group for group, why in zip(marks.group, marks.refused) if not why})
        hint = "; use hold_out='tail' or val_fraction=0" if hold_out == "source" else ""
        raise RunError(f"filters: {used} usable source(s) leave no clip to train on{hint}")
    return Decision(rows, marks.split, marks.refused, effects, hold_out)


@dataclasses.dataclass
class _Marks:
    """What deciding needs of each clip, and what is decided so far: the same few words over and over."""

    group: list[str]
    start: np.ndarray
    end: np.ndarray
    split: list[str]
    refused: list[tuple[str, ...]]
    leader: list[str | None]

    def used(self) -> dict[str, list[int]]:
        """Group -> places of its clips that are not refused, in order of time."""
        found: dict[str, list[int]] = {}
        for k in np.lexsort((self.end, self.start)).tolist():
            if not self.refused[k]:
                found.setdefault(self.group[k], []).append(k)
        return found


def _columns(rows: Iterable[ClipRow]) -> set[str]:
    found: set[str] = set()
    for row in rows:
        found.update(row.facts, row.scores)
    return found


def _filtered(rows: Sequence[ClipRow], rules: Sequence[Rule]) -> tuple[_Marks, tuple[Effect, ...]]:
    """Asks every filter about every clip."""
    marks = _Marks([], np.zeros(len(rows)), np.zeros(len(rows)), [""] * len(rows), [], [])
    kept, missing = np.ones((len(rules), len(rows)), bool), [0] * len(rules)
    names = [str(rule) for rule in rules]
    once: dict[Any, Any] = {}  # equal texts become one object
    for k, row in enumerate(rows):
        for i, rule in enumerate(rules):
            kept[i, k] = rule.keeps(row)
            missing[i] += row.value(rule.column) is None
        why = tuple(name for i, name in enumerate(names) if not kept[i, k])
        marks.group.append(once.setdefault(row.group, row.group))
        marks.refused.append(once.setdefault(why, why))
        leader = row.value(LEADER)
        marks.leader.append(once.setdefault(leader, leader))
        marks.start[k], marks.end[k] = row.start, row.end
    effects, left = [], np.ones(len(rows), bool)
    for i, rule in enumerate(rules):
        effects.append(Effect(rule, int((~kept[i]).sum()), int((left & ~kept[i]).sum()), missing[i]))
        left &= kept[i]
    _check_kept(rows, effects, bool(left.any()))
    return marks, tuple(effects)


def _check_kept(rows: Sequence[ClipRow], effects: Sequence[Effect], any_left: bool) -> None:
    """Refuses filters that leave nothing, by name and with what the column holds."""
    for effect in effects:
        if effect.alone < len(rows):
            continue
        found = (row.value(effect.rule.column) for row in rows)
        there = [value for value in found if value is not None]
        held = f"{effect.rule.column} is from {min(there)} to {max(there)}" if there else "none has a value"
        raise RunError(f"filter {effect.rule}: keeps none of {len(rows)} clips; {held}")
    if rows and effects and not any_left:
        each = ", ".join(f"{effect.rule} removes {effect.removed}" for effect in effects)
        raise RunError(f"filters: together they keep none of {len(rows)} clips ({each})")


def _cap(marks: _Marks, limit: int) -> None:
    for places in marks.used().values() if limit else ():
        chosen = {places[i * len(places) // limit] for i in range(limit)} if len(places) > limit else set(places)
        for k in set(places) - chosen:
            marks.refused[k] = (CAPPED,)


def _hold_out(marks: _Marks, selection: Selection, count: int) -> None:
    groups = marks.used()
    held_out: set[str] = set()
    if selection.hold_out == "source" and selection.val_fraction:
        ordered = sorted(groups, key=lambda group: _draw(selection.seed, group))
        held_out = set(ordered[: max(1, round(selection.val_fraction * count))])
    for group, places in groups.items():
        tail = len(places) if group in held_out else 0
        if selection.hold_out == "tail" and selection.val_fraction and len(places) > 1:
            tail = max(1, round(selection.val_fraction * len(places)))
        border = marks.start[places[-tail]] if tail else math.inf
        for i, k in enumerate(places):
            if i >= len(places) - tail:
                marks.split[k] = "val"
            elif marks.end[k] <= border:
                marks.split[k] = "train"
            else:
                marks.refused[k] = (BORDER,)


def _refuse_leaks(marks: _Marks, rows: Sequence[ClipRow]) -> None:
    """Refuses training clips that are alike a held-out one of another group; neighbours in one video often are."""
    if not any(marks.leader):
        return
    held_out: dict[str, set[str]] = {}
    for k, row in enumerate(rows):
        if marks.split[k] == "val":
            held_out.setdefault(str(marks.leader[k] or row.id), set()).add(marks.group[k])
    for k, row in enumerate(rows):
        leader = str(marks.leader[k] or row.id)
        if marks.split[k] == "train" and held_out.get(leader, set()) - {marks.group[k]}:
            marks.split[k], marks.refused[k] = "", (LEAK,)


def _bound(sign: str, number: float, outwards: float) -> str:
    """`>=0.5` or `>0.5`, whichever is shorter: what begins just beyond a number was written without the `=`."""
    including, beyond = _shortest(number), _shortest(math.nextafter(number, outwards))
    return f"{sign}{beyond}" if len(beyond) < len(including) else f"{sign}={including}"


def _shortest(number: float) -> str:
    """The shortest text that gives the number back."""
    text = f"{number:.10g}"
    return text if float(text) == number else repr(float(number))


def _draw(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()
