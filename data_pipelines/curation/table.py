"""The table of clips: one row a clip with everything that is known of it, as Parquet.

Scores cost hours, decisions seconds: so what was measured is stored once, for clips that are refused as well, and
filters, splits and caps are worked out from the table again whenever a threshold changes.

    clip, source, group, digest    who it is: source id and span in ms, the source, what splits keep together, SHA-256
    start_ms, end_ms               where in the source
    fact.NAME, score.NAME          of the file and of the clip; null where something was not measured
    captions                       list of (text, probability, origin)
    split, refused                 what filters decided; empty before

Rows stand in order of source and time, so the same clips give the same bytes, whoever found them in what order.
"""

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.curation.captions import Caption
from vdm_jax.errors import RunError, did_you_mean

VERSION = 1
ROW_GROUP = 1 << 14  # rows that are held at once
_ABOUT = b"vdm_jax"
_PLAIN = {"clip": "id", "source": "source", "group": "group", "digest": "digest", "split": "split"}
_GROUPS = {"fact": "facts", "score": "scores"}

Value = int | float | str | bool


@dataclasses.dataclass(frozen=True)
class ClipRow:
    """What is known of one clip.

    Attributes:
      source: id of the source it comes from.
      start, end: seconds of the source, rounded to whole milliseconds.
      digest: SHA-256 of the source's file.
      group: what a split never divides, the video that several sources are stretches or cameras of; the source unless
        given.
      facts: what matters of the file: its size, rate, codec ...
      scores: what scorers measured; a score that a clip does not have is absent, never NaN.
      captions: what it shows, in one or several ways.
      split: "train" or "val"; "" before filters decided, and of refused clips.
      refused: every reason why the clip is not used; none if it is.
    """

    source: str
    start: float
    end: float
    digest: str = ""
    group: str = ""
    facts: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    scores: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    captions: tuple[Caption, ...] = ()
    split: str = ""
    refused: tuple[str, ...] = ()

    def __post_init__(self):
        if not 0 <= self.start < self.end < math.inf:
            raise ValueError(f"{self.source}: from {self.start!r} s to {self.end!r} s is no span")
        for name in ("start", "end"):
            object.__setattr__(self, name, milliseconds(getattr(self, name)) / 1000)
        if not self.group:
            object.__setattr__(self, "group", self.source)
        for name, value in (*self.facts.items(), *self.scores.items()):
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{self.id}: {name} is {value}; leave out what cannot be measured")

    @property
    def id(self) -> str:
        """Source id and span in milliseconds: `walks/a.mp4:1500-3500`."""
        return f"{self.source}:{milliseconds(self.start)}-{milliseconds(self.end)}"

    @property
    def seconds(self) -> float:
        """Length."""
        return round(self.end - self.start, 3)

    def value(self, column: str) -> Value | None:
        """A score, a fact, or `seconds`; None where the clip has none of that name."""
        if column == "seconds":
            return self.seconds
        return self.scores.get(column, self.facts.get(column))


def milliseconds(seconds: float) -> int:
    """The whole number of milliseconds nearest to a time."""
    return round(1000 * seconds)


def in_order(rows: Iterable[ClipRow]) -> Sequence[ClipRow]:
    """The rows in order of source and time; a sequence that is in order already is itself the answer."""
    rows = rows if isinstance(rows, Sequence) else list(rows)
    ordered = all(_order(a) <= _order(b) for a, b in itertools.pairwise(rows))
    return rows if ordered else sorted(rows, key=_order)


def write_table(path: str | os.PathLike, rows: Sequence[ClipRow], about: Mapping[str, Any] | None = None) -> None:
    """Writes rows as Parquet, whole or not at all; the same rows and pyarrow give the same bytes.

    Args:
      path: the file, replaced if it is there.
      rows: in any order; gone through several times, a group at a time if they are in order of source and time.
      about: JSON-able facts of the table as a whole: what its scores mean, versions, settings.

    Raises:
      ValueError: two rows of one clip, a score that is a number in one row and text in another, or a name that is
        both a fact and a score.
      RunError: pyarrow is not installed, or the file cannot be written.
    """
    pa, parquet = _arrow()
    rows = in_order(rows)
    for before, row in itertools.pairwise(rows):
        if before.id == row.id:
            raise ValueError(f"clips: two rows of {row.id}; the id of a source must be its own")
    note = json.dumps({"version": VERSION, "about": about or {}}, sort_keys=True, ensure_ascii=False)
    schema = _schema(pa, rows).with_metadata({_ABOUT: note.encode()})
    path = Path(path)
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
                stream = iter(rows)
                while group := list(itertools.islice(stream, ROW_GROUP)):
                    writer.write_table(_arrow_table(pa, group, schema))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None


def read_table(path: str | os.PathLike, columns: Sequence[str] | None = None) -> list[ClipRow]:
    """Reads rows back.

    Args:
      path: the file.
      columns: names of the facts and scores to read; None reads all.

    Raises:
      ValueError: no such file, it is no such table, or a column that it lacks.
      RunError: pyarrow is not installed, or the file is damaged.
    """
    file, _ = _opened(path)
    groups = {name: name.partition(".") for name in file.schema_arrow.names}
    held = {name: tail for name, (head, _, tail) in groups.items() if head in _GROUPS}
    if columns is not None:
        for column in columns:
            if column not in (*held.values(), "seconds"):
                raise ValueError(f"column: {did_you_mean(column, (*held.values(), 'seconds'))}")
        held = {name: tail for name, tail in held.items() if tail in columns}
    wanted = [name for name in file.schema_arrow.names if name in held or groups[name][0] not in _GROUPS]
    try:
        found = file.read(columns=wanted).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow.ArrowInvalid is a ValueError
        raise RunError(f"{path}: damaged ({' '.join(str(error).split())})") from None
    return [_row(values, held) for values in found]


def read_about(path: str | os.PathLike) -> dict[str, Any]:
    """What `write_table` was told of the table as a whole; errors as `read_table`."""
    return _opened(path)[1]


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise RunError("a table of clips needs pyarrow: pip install 'vdm_jax[curate]'") from None
    return pa, parquet


def _opened(path: str | os.PathLike) -> tuple[Any, dict[str, Any]]:
    """The Parquet file, and its `about`."""
    pa, parquet = _arrow()
    if not Path(path).is_file():
        raise ValueError(f"table: {path} is not a file")
    try:
        file = parquet.ParquetFile(path)
        note = (file.schema_arrow.metadata or {}).get(_ABOUT)
    except (pa.ArrowInvalid, OSError) as error:
        raise RunError(f"{path}: not a readable Parquet file ({' '.join(str(error).split())})") from None
    if note is None:
        raise ValueError(f"table: {path} is a Parquet file, but no table of clips")
    note = json.loads(note)
    if note["version"] != VERSION:
        raise RunError(f"{path}: has format {note['version']!r}, this code reads {VERSION}; make the table again")
    return file, note["about"]


def _schema(pa: Any, rows: Iterable[ClipRow]) -> Any:
    """Names and types of the columns: those of any row."""
    kinds: dict[str, dict[str, set[type]]] = {head: {} for head in _GROUPS}
    for row in rows:
        for head, field in _GROUPS.items():
            for name, value in getattr(row, field).items():
                kinds[head].setdefault(name, set()).add(type(value))
    if both := set(kinds["fact"]) & set(kinds["score"]):
        raise ValueError(f"column: {min(both)!r} is the name of a fact and of a score")
    caption = pa.struct([("text", pa.string()), ("probability", pa.float64()), ("origin", pa.string())])
    measured = [
        (f"{head}.{name}", _kind(pa, name, found)) for head in _GROUPS for name, found in sorted(kinds[head].items())
    ]
    columns = [(name, pa.string()) for name in _PLAIN]
    columns += [("start_ms", pa.int64()), ("end_ms", pa.int64()), *measured]
    return pa.schema([*columns, ("captions", pa.list_(caption)), ("refused", pa.list_(pa.string()))])


def _arrow_table(pa: Any, rows: Sequence[ClipRow], schema: Any) -> Any:
    """A few rows in the columns of a schema."""
    columns: dict[str, list] = {name: [getattr(row, field) for row in rows] for name, field in _PLAIN.items()}
    for name in ("start", "end"):
        columns[f"{name}_ms"] = [milliseconds(getattr(row, name)) for row in rows]
    for name in schema.names:
        head, _, tail = name.partition(".")
        if head in _GROUPS:
            columns[name] = [getattr(row, _GROUPS[head]).get(tail) for row in rows]
    columns["captions"] = [[dataclasses.asdict(caption) for caption in row.captions] for row in rows]
    columns["refused"] = [list(row.refused) for row in rows]
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def _kind(pa: Any, name: str, kinds: set[type]) -> Any:
    """The type of a column: its values agree, but for whole numbers among floats."""
    if kinds == {int, float}:
        return pa.float64()
    if len(kinds) > 1 or not kinds <= {int, float, str, bool}:
        raise ValueError(f"column {name!r}: holds values of {', '.join(sorted(kind.__name__ for kind in kinds))}")
    return {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}[next(iter(kinds))]


def _order(row: ClipRow) -> tuple[str, float, float]:
    return row.source, row.start, row.end


def _row(values: Mapping[str, Any], held: Mapping[str, str]) -> ClipRow:
    groups: dict[str, dict[str, Value]] = {field: {} for field in _GROUPS.values()}
    for column, name in held.items():
        if values[column] is not None:
            groups[_GROUPS[column.partition(".")[0]]][name] = values[column]
    return ClipRow(
        source=values["source"],
        start=values["start_ms"] / 1000,
        end=values["end_ms"] / 1000,
        digest=values["digest"],
        group=values["group"],
        captions=tuple(Caption(**caption) for caption in values["captions"]),
        split=values["split"],
        refused=tuple(values["refused"]),
        **groups,
    )
