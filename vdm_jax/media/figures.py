"""The figures a command measured or judged, as a table for people and as JSON for programs.

Every command that measures or judges takes `--json FILE` and writes a list of objects with exactly these keys:
name, value, unit, peer, ratio, n, spread, ok, command.  A sweep, a README and a CI gate can then read any of them.
"""

import argparse
import dataclasses
import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
      name: what was measured, e.g. `step_time`.
      value: the figure itself; a string where it is not a number (a shape, a version).
      unit: of `value` and `peer`, e.g. `s`; "" for counts and ratios.
      peer: the same figure of what it is compared with, measured in the same run.
      ratio: value / peer.
      n: how many measurements `value` stands for.
      spread: of those measurements, in `unit` (standard deviation, unless the name says otherwise).
      ok: whether it meets its bar; None where there is no bar.
      command: what to type to get it again; `figures_command()` of the running process unless given.
    """

    name: str
    value: float | int | str | bool | None
    unit: str = ""
    peer: float | None = None
    ratio: float | None = None
    n: int = 1
    spread: float | None = None
    ok: bool | None = None
    command: str = dataclasses.field(default_factory=lambda: figures_command())


def figures_command() -> str:
    """The command line of this process, as one would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the `--json FILE` that every judging command has."""
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE, as JSON")


def write_figures(path: str | os.PathLike, figures: Sequence[Figure]) -> None:
    """Writes figures as a JSON list, whole or not at all; a value that is not finite becomes null.

    Raises:
      ValueError: two figures of one name.
    """
    names = [figure.name for figure in figures]
    if len(set(names)) != len(names):
        raise ValueError(f"figures: the name {next(n for n in names if names.count(n) > 1)!r} is used twice")
    rows = [{k: _plain(v) for k, v in dataclasses.asdict(figure).items()} for figure in figures]
    path = Path(path)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n")
    os.replace(partial, path)


def figures_table(figures: Sequence[Figure]) -> str:
    """The same figures as aligned text; columns that nobody fills are left out."""
    columns = ("name", "value", "unit", "spread", "n", "peer", "ratio", "ok")
    rows = [[_text(getattr(figure, c)) for c in columns] for figure in figures]
    kept = [j for j in range(len(columns)) if any(row[j] not in ("", "1" if columns[j] == "n" else "") for row in rows)]
    table = [[columns[j] for j in kept], *([row[j] for j in kept] for row in rows)]
    widths = [max(len(row[j]) for row in table) for j in range(len(kept))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in table)


def _plain(value):
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value) -> str:
    value = value.item() if hasattr(value, "item") else value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
