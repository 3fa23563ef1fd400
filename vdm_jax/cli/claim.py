"""`vdm claim`: measures the claim of a published method at toy scale, a process for each seed.

Seeds share the machine: as many run at once as there are CPUs, each on its own, for small networks gain little from a
second one.  Compiled programs are kept in the cache, so the seeds after the first ones compile nothing.  What it finds
goes into the method's `results.json`, and from there into `experiments/RESULTS.md`, the table of all methods.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.evaluation.claims import BUDGETS, Claim, Lab
from vdm_jax.evaluation.claims.claim import FAILED
from vdm_jax.evaluation.claims.methods import Method, find_experiments, load, named, read_methods
from vdm_jax.evaluation.claims.results import Outcome, figures, write_results, write_summary
from vdm_jax.media.figures import Figure, add_json_argument, figures_table, write_figures

EXAMPLE = """
vdm claim --bases
vdm claim freenoise
vdm claim fvdm --seeds 3 --budget full
vdm claim --all
"""
BASES = "bases.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("method", metavar="SLUG", nargs="?", help="which method, see vdm methods")
    parser.add_argument("--all", action="store_true", help="every method that is built")
    parser.add_argument("--bases", action="store_true", help="train the base models that claims start from, and stop")
    parser.add_argument("--seeds", metavar="N", type=int, default=3, help="seeds 0 to N - 1 (%(default)s)")
    parser.add_argument("--budget", default="fast", help=f"{' or '.join(BUDGETS)} (%(default)s)")
    parser.add_argument("--jobs", metavar="N", type=int, help="seeds at once (one a CPU)")
    parser.add_argument("--cache", metavar="DIR", type=Path, help="of base models and programs (~/.cache/vdm_jax)")
    parser.add_argument("--experiments", metavar="DIR", type=Path, help="directory of methods (that of the checkout)")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs claims; returns the exit status, 1 if one fails."""
    if args.seeds < 1 or (args.jobs is not None and args.jobs < 1):
        raise ValueError(f"--seeds: {args.seeds} and --jobs: {args.jobs} must be 1 or more")
    if args.budget not in BUDGETS:
        raise ValueError(f"--budget: {did_you_mean(args.budget, BUDGETS)}")
    if sum((args.method is not None, args.all, args.bases)) != 1:
        raise ValueError("claim: name one method (see vdm methods), or --all, or --bases")
    experiments = find_experiments(args.experiments)
    cache = args.cache or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vdm_jax"
    if args.bases:
        return train_bases(experiments, cache)
    methods = read_methods(experiments)
    chosen = [m for m in methods.values() if m.started] if args.all else [named(methods, args.method)]
    found: list[Figure] = []
    failed = False
    for method in chosen:
        try:
            outcome = run_claim(method, range(args.seeds), args.budget, cache, args.jobs)
        except RunError as error:
            if not args.all:
                raise
            print(f"{error}; its old results stay", file=sys.stderr)
            failed = True
            continue
        write_results(method, outcome)
        write_summary(experiments, list(methods.values()))
        found += figures(method.slug, outcome)
        failed |= outcome.state == FAILED
        print(f"{method.slug}: {outcome.claim.says}")
        print(figures_table(figures(method.slug, outcome)))
        print(f"{method.slug}: {outcome.state}, {args.budget}, {args.seeds} seeds")
    if args.json:
        write_figures(args.json, found)
    return 1 if failed else 0


def train_bases(experiments: Path, cache: Path) -> int:
    """Trains the base models that the cache lacks."""
    for base in load(experiments / "bases" / BASES).BASES:
        begin = time.perf_counter()
        Lab(0, "fast", cache / "bases").base(base)
        print(f"{base.name}: {base.path(cache / 'bases')} ({time.perf_counter() - begin:.0f} s)")
    return 0


def run_claim(method: Method, seeds: Sequence[int], budget: str, cache: Path, jobs: int | None) -> Outcome:
    """Measures all seeds of a claim.

    Raises:
      RunError: a seed failed; the last line that it printed.
    """
    claim: Claim = method.claim()
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    jobs = min(jobs or len(cpus), len(seeds))
    waiting, running, measured, seconds = list(seeds), {}, {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    seed = waiting.pop(0)
                    place = next(j for j in range(jobs) if j not in {p for p, _, _ in running.values()})
                    own = cpus[place::jobs] or [cpus[place % len(cpus)]]
                    out = Path(scratch) / f"{seed}.json"
                    running[seed] = (place, _start(method, seed, budget, cache, own, out, seed == seeds[0]), out)
                for seed, (_, process, out) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[seed]
                    if process.returncode or not out.exists():
                        raise RunError(f"{method.slug}: seed {seed} failed; its message is above")
                    content = json.loads(out.read_text())
                    measured[seed], seconds[seed] = content["measured"], content["seconds"]
                time.sleep(0.2)
        finally:
            for _, process, _ in running.values():
                process.terminate()
                process.wait()
    return Outcome(claim, budget, dict(sorted(measured.items())), dict(sorted(seconds.items())))


def _start(
    method: Method, seed: int, budget: str, cache: Path, cpus: Sequence[int], out: Path, shows: bool
) -> subprocess.Popen:
    """The process of one seed."""
    pictures = method.folder if shows else ""
    words = [method.folder, seed, budget, cache, out, ",".join(map(str, cpus)), pictures]
    return subprocess.Popen([sys.executable, "-m", "vdm_jax.cli.claim_seed", *map(str, words)])
