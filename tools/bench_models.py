"""Published networks here and in diffusers, their speed and how they come in; run it as `./tools/bench_models`.

    ./tools/bench_models                       every network with one thread and with all
    ./tools/bench_models --only latte_s        one of them
    ./tools/bench_models --only import         importing and opening 1.4B parameters: seconds and peak memory
    ./tools/bench_models --quick               tiny shapes: does everything run?
    ./tools/bench_models --json figures.json   also writes the figures

Both sides have the same weights, float32, and take turns in one process; before anything is timed their outputs must
agree.  Each number of threads is a process of its own, pinned to as many CPUs: XLA takes what it may use.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import imports
from bench.networks import NETWORKS, measure
from bench.options import Options, say
from bench.sections import check_names, finish

from vdm_jax.cli.huge_pages import with_huge_pages
from vdm_jax.cli.main import guarded
from vdm_jax.errors import RunError
from vdm_jax.media.figures import Figure, add_json_argument, write_figures

IMPORT = "import"
SECTIONS = (*NETWORKS, IMPORT)


def main() -> int:
    """Parses, measures, prints; returns 0, or 1 if a bar is not met."""
    parser = argparse.ArgumentParser(
        prog="./tools/bench_models",
        description="Times forward and backward passes against diffusers.  Exit status 1: a bar is not met.",
        epilog=f"networks: {', '.join(NETWORKS)}; {IMPORT}: how weights come in, as whole processes",
    )
    parser.add_argument("--only", metavar="NAME", nargs="+", default=list(SECTIONS), help="these (all)")
    parser.add_argument("--threads", metavar="N", type=int, nargs="+", help="(1, and as many as there are CPUs)")
    parser.add_argument("--quick", action="store_true", help="tiny shapes; the figures mean nothing")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    add_json_argument(parser)
    args = parser.parse_args()
    return guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Measures; returns the exit status."""
    check_names(args.only, SECTIONS)
    if args.in_process:
        write_figures(args.json, measure(args.only, Options(args.quick)))
        return 0
    names = [name for name in args.only if name in NETWORKS]
    counts = (args.threads or sorted({1, Options().threads})) if names else ()
    figures = [figure for count in counts for figure in with_threads(count, names, args.quick)]
    if IMPORT in args.only:
        figures += imports.measure(Options(args.quick))
    return finish(figures, args.json)


def with_threads(count: int, names: Sequence[str], quick: bool) -> list[Figure]:
    """Measures on `count` CPUs, in a process of its own.

    Raises:
      ValueError: there are fewer.
      RunError: it failed; its own line was printed by it.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(cpus):
        raise ValueError(f"--threads: {count} must be 1 to {len(cpus)}, the CPUs there are")
    say(f"\n== {count} thread{'s' * (count > 1)}")
    again = f"./tools/bench_models --threads {count} --only {' '.join(names)}{' --quick' * quick}"
    environment = with_huge_pages(os.environ) | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(count)}
    with tempfile.TemporaryDirectory(prefix="bench_models_") as folder:
        path = Path(folder) / "figures.json"
        # torch.compile believes what an interrupted compile left in its shared cache
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "inductor")
        command = [sys.executable, __file__, "--in-process", "--only", *names, "--json", str(path)]
        pinned = ["taskset", "--cpu-list", ",".join(map(str, cpus[:count]))]
        status = subprocess.run([*pinned, *command, *["--quick"] * quick], env=environment, check=False).returncode
        if status:
            raise RunError(f"{count} threads: the measurement failed (exit status {status})")
        return [Figure(**row | {"command": again}) for row in json.loads(path.read_text())]


if __name__ == "__main__":
    sys.exit(main())
