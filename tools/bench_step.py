"""Speed and memory of a training step; run it as `./tools/bench_step`.

    ./tools/bench_step                         every section, some 25 minutes on two quiet cores
    ./tools/bench_step --only torch            one of them
    ./tools/bench_step --quick                 tiny shapes: does everything run?
    ./tools/bench_step --json figures.json     also writes the figures

Each section runs in a process of its own, so that no memory, thread or compiled program of one is felt by another.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence

from bench.options import Options, say
from bench.sections import check_names, finish, in_process, parser_of, say_section

from vdm_jax.cli.huge_pages import available, with_huge_pages, without_huge_pages
from vdm_jax.cli.main import guarded
from vdm_jax.media.figures import Figure, write_figures

SECTIONS = {
    "torch": ("bench.against_torch", "train step against PyTorch, eager and compiled; at most as long as either"),
    "overhead": ("bench.overhead", "Python time of a step call; under 3 ms"),
    "compile": ("bench.compile_time", "compile time of dit_14b at depth 40 and 80; growth under 20 %"),
    "loader": ("bench.loader", "device idle while dit_tiny trains from shards; under 2 %"),
    "memory": ("bench.memory", "peak memory of a step, per config and remat policy"),
}
HUGE_PAGES = {"off": (False,), "on": (True,), "both": (False, True)}


def main() -> int:
    """Parses, measures, prints; returns 0, or 1 if a bar is not met."""
    parser = parser_of("./tools/bench_step", "Measures speed and memory of a training step.", SECTIONS)
    parser.add_argument(
        "--huge-pages", choices=HUGE_PAGES, default="on", help="for both sides of `torch` (on, as vdm has them)"
    )
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    return guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Measures the sections; returns the exit status."""
    check_names(args.only, SECTIONS)
    if args.in_process:
        options = Options(args.quick, huge_pages=args.huge_pages == "on")
        write_figures(args.json, importlib.import_module(SECTIONS[args.only[0]][0]).measure(options))
        return 0
    warn_of_other_work()
    figures = []
    for name in args.only:
        for huge_pages in settings(name, args.huge_pages):
            figures += measure(name, args.quick, huge_pages)
    return finish(figures, args.json)


def warn_of_other_work() -> None:
    """Says so if the machine is busy: PyTorch's threads wait for each other and suffer more than XLA's."""
    load, cpus = os.getloadavg()[0], Options().threads
    if load > 0.3 * cpus:
        say(f"warning: load average {load:.1f} on {cpus} CPUs; times are those of a busy machine, and not to be quoted")


def settings(section: str, huge_pages: str) -> Sequence[bool]:
    """With or without huge pages; only `torch` is measured in both ways, and only where the kernel has them."""
    if section != "torch":
        return (False,)
    if huge_pages != "off" and not available():
        say("huge pages: this kernel gives none; measured without")
        return (False,)
    return HUGE_PAGES[huge_pages]


def measure(section: str, quick: bool, huge_pages: bool) -> list[Figure]:
    """Runs a section in a fresh process.

    Raises:
      RunError: it failed; its own line was printed by it.
    """
    again = f"./tools/bench_step --only {section}" + (" --huge-pages on" if huge_pages else "") + " --quick" * quick
    say_section(section, SECTIONS, " (huge pages)" if huge_pages else "")
    more = ["--huge-pages", "on" if huge_pages else "off", *["--quick"] * quick]
    return in_process(__file__, section, again, more, environment(os.environ, huge_pages))


def environment(outer: Mapping[str, str], huge_pages: bool) -> dict[str, str]:
    """The environment of a section: that of the caller, with glibc's huge pages switched on or off."""
    kept = with_huge_pages(outer) if huge_pages else without_huge_pages(outer)
    kept.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's alarms about long compilations would tear the tables
    return kept


if __name__ == "__main__":
    sys.exit(main())
