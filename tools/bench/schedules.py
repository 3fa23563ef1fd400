"""How many cycles libtpu's compiler schedules for a Pallas program on a TPU that need not be there.

A TPU core issues one bundle of instructions a cycle, in the order in which the compiler put them; what it cannot
know is how long data from HBM let themselves be waited for.  With `--xla_jf_dump_to` libtpu writes down the schedule
of every program: a table with a line per bundle, of how many slots of each unit are in use.  The grid of a Pallas
program is a loop around all of it, so the length of the table is the time of one step of the grid, plus the few
cycles of branches that are not taken at that step.
"""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

_TABLE = "pre-delay_hlo-static-per-bundle-utilization.txt"  # the later table folds idle bundles into delays


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Of one step of the grid.

    Attributes:
      cycles: bundles.
      busy: unit -> share of its slots in use.  MXU are the matrix units, VALU vectors, EUP exponentials, and
        VSTORE:SPILL registers written to memory for want of room.
    """

    cycles: int
    busy: dict[str, float]


@contextmanager
def dumps() -> Iterator[Path]:
    """A folder into which libtpu writes schedules; to be entered before anything loads libtpu, once a process."""
    folder = Path(tempfile.mkdtemp(prefix="tune_splash_"))
    before = os.environ.get("LIBTPU_INIT_ARGS", "")
    os.environ["LIBTPU_INIT_ARGS"] = f"{before} --xla_jf_dump_to={folder}".strip()
    try:
        yield folder
    finally:
        os.environ["LIBTPU_INIT_ARGS"] = before
        shutil.rmtree(folder, ignore_errors=True)


def schedule(folder: Path, name: str, compile_: Callable[[], object]) -> Schedule:
    """Compiles and reads what libtpu wrote.

    Args:
      folder: of `dumps`; emptied before and after.
      name: of the Pallas program.
      compile_: compiles a program that contains it once.

    Raises:
      jax.errors.JaxRuntimeError: the program does not fit into the chip's fast memory.
    """
    for path in folder.iterdir():
        path.unlink()
    try:
        compile_()
        tables = [path for path in folder.iterdir() if f"-{name}." in path.name and path.name.endswith(_TABLE)]
        assert len(tables) == 1, f"{len(tables)} schedules of {name}"
        return parse(tables[0].read_text())
    finally:
        for path in folder.iterdir():
            path.unlink()


def parse(text: str) -> Schedule:
    """Reads libtpu's table: the names of the units, their slots, and a line per bundle."""
    head, _, body = text.partition("== UTILIZATION:")
    names, slots = head.strip().splitlines()[-2:]
    rows = [list(map(int, line.split())) for line in body.strip().splitlines()]
    columns = zip((name.strip() for name in names.split(",")), map(int, slots.split()), zip(*rows))
    return Schedule(len(rows), {name: sum(used) / (slots * len(rows)) for name, slots, used in columns})


def out_of_fast_memory(error: jax.errors.JaxRuntimeError) -> bool:
    """Whether a compilation failed because its blocks are too large."""
    return "vmem" in str(error).lower()
