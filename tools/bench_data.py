"""Speed and memory of loading, curating and rendering clips; run it as `./tools/bench_data`.

    ./tools/bench_data                                   every section
    ./tools/bench_data --only loader --case mp4_720      one of them, of one kind of clips
    ./tools/bench_data --quick                           tiny clips: does everything run?

Each section runs in a process of its own.  Everything is read from files that were just written, so from the page
cache: what a disk or a network adds is the same for all sides, and is not in these figures.
"""

import argparse
import importlib
import os
import sys

from bench.options import Options
from bench.sections import check_names, finish, in_process, parser_of, say_section

from vdm_jax.cli.huge_pages import with_huge_pages
from vdm_jax.cli.main import guarded
from vdm_jax.media.figures import write_figures

SECTIONS = {
    "loader": (
        "bench.data_loader",
        "clips a second against PyTorch's DataLoader and WebDataset",
    ),
    "reading": (
        "bench.data_reading",
        "latents against the page cache, or 1 GB/s a core; at least 0.8 of the lower",
    ),
    "memory": ("bench.data_memory", "memory of the loader over an epoch; flat"),
    "worlds": ("bench.data_worlds", "clips a second on one core; sprites at least 200"),
    "curation": ("bench.data_curation", "hours of video a core-hour, each stage; the cheap ones at least 20"),
    "long": ("bench.data_long", "memory of curation: a source of two hours against one of five minutes"),
    "table": ("bench.data_table", "memory of what curation knows of a million clips; at most 1 GB"),
}


def main() -> int:
    """Parses, measures, prints; returns 0, or 1 if a bar is not met."""
    parser = parser_of("./tools/bench_data", "Measures loading, curation and worlds.", SECTIONS)
    parser.add_argument("--case", metavar="TEXT", default="", help="only what has this in its name")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    return guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Measures the sections; returns the exit status."""
    check_names(args.only, SECTIONS)
    if args.in_process:
        options = Options(args.quick, case=args.case)
        write_figures(args.json, importlib.import_module(SECTIONS[args.only[0]][0]).measure(options))
        return 0
    figures = []
    environment = with_huge_pages(os.environ) | {"JAX_PLATFORMS": "cpu"}  # for all sides, as `vdm` has it
    for name in args.only:
        say_section(name, SECTIONS)
        more = [*(["--case", args.case] if args.case else []), *["--quick"] * args.quick]
        again = " ".join(["./tools/bench_data --only", name, *more])
        figures += in_process(__file__, name, again, more, environment)
    return finish(figures, args.json)


if __name__ == "__main__":
    sys.exit(main())
