"""Rows of a table file, whatever its format: Parquet, CSV, TSV, JSONL.

A row is a dict by column name.  Bytes that are no UTF-8 are kept as surrogates, so that a reader can refuse the one row
that has them and keep the others.
"""

import csv
import io
import json
import os
from collections.abc import Iterator
from typing import Any

from data_pipelines.curation.source import open_url
from data_pipelines.shards.manifest import Dropped
from vdm_jax.errors import RunError

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet", ".tsv")
Row = dict[str, Any]


def read_rows(url: str, refused: list[Dropped]) -> tuple[list[str], Iterator[tuple[int, Row]]]:
    """The columns of a table and its rows, each with its number from 1 (the header is not counted).

    Args:
      url: a path or URL; its suffix says the format.
      refused: rows that cannot be read are added here, as the rows are drawn.

    Raises:
      RunError: the file cannot be read, or is no table.
    """
    suffix = os.path.splitext(url)[1].lower()
    assert suffix in TABLE_SUFFIXES, url
    try:
        if suffix == ".parquet":
            return _parquet(url)
        with open_url(url) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="").read()
    except OSError as error:
        raise RunError(f"{url}: {error.strerror or error}") from None
    if suffix == ".jsonl":
        return _json_lines(url, text, refused)
    return _separated(url, text, "\t" if suffix == ".tsv" else ",", refused)


def is_text(value: str) -> bool:
    """Whether a value was UTF-8: no byte had to be kept as a surrogate."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _parquet(url: str) -> tuple[list[str], Iterator[tuple[int, Row]]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise RunError(f"{url}: Parquet needs pyarrow: pip install 'vdm_jax[curate]'") from None
    try:
        file = parquet.ParquetFile(open_url(url))
    except pyarrow.ArrowException as error:
        raise RunError(f"{url}: not a Parquet file ({' '.join(str(error).split())})") from None

    def rows() -> Iterator[tuple[int, Row]]:
        number = 0
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row

    return list(file.schema_arrow.names), rows()


def _json_lines(url: str, text: str, refused: list[Dropped]) -> tuple[list[str], Iterator[tuple[int, Row]]]:
    rows: list[tuple[int, Row]] = []
    columns: dict[str, None] = {}
    for number, line in enumerate((line for line in text.split("\n") if line.strip()), 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError as error:
            refused.append(Dropped(f"{url}:{number}", "bad_row", f"row {number}: {error}"))
            continue
        rows.append((number, row))
        columns.update(dict.fromkeys(row))
    return list(columns), iter(rows)


def _separated(
    url: str, text: str, separator: str, refused: list[Dropped]
) -> tuple[list[str], Iterator[tuple[int, Row]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise RunError(f"{url}: its header is damaged ({error})") from None

    def rows() -> Iterator[tuple[int, Row]]:
        number = 0
        while True:
            number += 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                refused.append(Dropped(f"{url}:{number}", "bad_row", f"row {number}: {error}"))
                continue
            if not values:
                number -= 1
            elif len(values) != len(header):
                said = f"row {number}: {len(values)} values for {len(header)} columns"
                refused.append(Dropped(f"{url}:{number}", "bad_row", said))
            else:
                yield number, dict(zip(header, values))

    return header, rows()
