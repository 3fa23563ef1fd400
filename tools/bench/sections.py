"""What every `tools/bench_*` of several sections does alike: choosing them, one in a process of its own, the end."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.options import say
from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.media.figures import Figure, add_json_argument, figures_table, write_figures

NOT_MET = 1
Sections = Mapping[str, tuple[str, str]]  # name -> module with `measure(options) -> figures`, and what it measures


def parser_of(tool: str, description: str, sections: Sections) -> argparse.ArgumentParser:
    """A parser with `--only`, `--quick` and `--json`; `tool` is how it is called."""
    parser = argparse.ArgumentParser(
        prog=tool,
        description=f"{description}  Exit status 1: a bar is not met.",
        epilog="sections:\n" + "\n".join(f"  {name:9} {text}" for name, (_, text) in sections.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="NAME", nargs="+", default=list(sections), help="these sections (all)")
    parser.add_argument("--quick", action="store_true", help="tiny shapes; the figures mean nothing")
    add_json_argument(parser)
    return parser


def check_names(only: Iterable[str], sections: Iterable[str]) -> None:
    """Raises ValueError for a section that is not there."""
    for name in only:
        if name not in sections:
            raise ValueError(f"--only: {did_you_mean(name, sections)}")


def in_process(
    file: str, section: str, again: str, more: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> list[Figure]:
    """Runs a section in a fresh process, which is told `--in-process`.

    Args:
      file: the tool.
      section: which.
      again: what to type to get its figures again.
      more: further words for it.
      environment: of it; None is that of the caller.

    Raises:
      RunError: it failed; its own line was printed by it.
    """
    with tempfile.TemporaryDirectory(prefix=f"{Path(file).stem}_") as folder:
        path = Path(folder) / "figures.json"
        command = [sys.executable, file, "--in-process", "--only", section, "--json", str(path), *more]
        status = subprocess.run(command, env=environment, check=False).returncode
        if status:
            raise RunError(f"{section}: the measurement failed (exit status {status})")
        return [Figure(**row | {"command": again}) for row in json.loads(path.read_text())]


def finish(figures: Sequence[Figure], path: Path | None) -> int:
    """Prints the figures, and which bars are met; writes them where asked; returns the exit status."""
    print(f"\n{figures_table(figures)}\n")
    for figure in figures:
        if figure.ok is not None:
            print(f"{'ok     ' if figure.ok else 'NOT MET'}  {_told(figure)}")
    if path:
        write_figures(path, figures)
    return NOT_MET if any(figure.ok is False for figure in figures) else 0


def _told(figure: Figure) -> str:
    if figure.ratio is not None:
        return f"{figure.name}: ratio {figure.ratio:.2f}"
    return f"{figure.name}: {figure.value:.3g} {figure.unit}".rstrip() if figure.value is not None else figure.name


def say_section(name: str, sections: Sections, note: str = "") -> None:
    """A headline."""
    say(f"\n== {name}{note}: {sections[name][1]}")
