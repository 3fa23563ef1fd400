"""Training steps on one GPU against PyTorch; run it as `./tools/bench_gpu`.

    ./tools/bench_gpu                          0.3 B and 1.4 B at 8k, 32k and 75k tokens
    ./tools/bench_gpu --cases 1.4b/32k         one of them
    ./tools/bench_gpu --cases toy              a toy model, on a CPU too: does everything run?

The sides take turns, each turn in a process of its own, so that neither holds memory while the other runs.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from bench.gpu_sides import CASES, TEXT, Case, Measured, dit_config  # noqa: E402

from vdm_jax.errors import RunError, did_you_mean  # noqa: E402
from vdm_jax.media.figures import Figure, add_json_argument, figures_table, write_figures  # noqa: E402

AT_MOST, LEAST_MFU = 0.8, 0.55
FAILED, USAGE, NOT_MET = 1, 2, 1


def main() -> int:
    """Parses, measures, prints; returns 0, or 1 if a bar is not met."""
    parser = argparse.ArgumentParser(
        prog="./tools/bench_gpu", description="Training steps on one GPU against PyTorch.  Exit 1: a bar is not met."
    )
    everything = [name for name in CASES if name != "toy"]
    parser.add_argument("--cases", metavar="NAME", nargs="+", default=everything, help=f"of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=8, help="steps timed in a turn (%(default)s)")
    parser.add_argument("--turns", type=int, default=2, help="of each side (%(default)s)")
    add_json_argument(parser)
    args = parser.parse_args()
    try:
        for name in args.cases:
            if name not in CASES:
                raise ValueError(f"--cases: {did_you_mean(name, CASES)}")
        figures = [figure for name in args.cases for figure in measure(CASES[name], args.rounds, args.turns)]
    except ValueError as error:
        print(error, file=sys.stderr)
        return USAGE
    except RunError as error:
        print(error, file=sys.stderr)
        return FAILED
    print(f"\n{figures_table(figures)}")
    if args.json:
        write_figures(args.json, figures)
    return NOT_MET if any(figure.ok is False for figure in figures) else 0


def measure(case: Case, rounds: int, turns: int) -> list[Figure]:
    """Step time and memory against PyTorch, and MFU against the measured peak of a matrix product."""
    peak = _side("peak", case, rounds)
    sides = {"ours": [], "theirs": []}
    for turn in range(turns):
        for side in ("ours", "theirs") if turn % 2 == 0 else ("theirs", "ours"):
            sides[side].append(Measured(**_side(side, case, rounds)))
    ours, theirs = (min(found, key=lambda m: m.seconds) for found in sides.values())
    print(f"{case.name}: ours ({ours.how}) {ours.seconds:.3f} s, theirs ({theirs.how}) {theirs.seconds:.3f} s")
    flops = 3 * dit_config(case).forward_flops(*case.clip, TEXT)
    mfu, ratio = flops / ours.seconds / peak, ours.seconds / theirs.seconds
    barred = case.name != "toy"
    figures = [
        Figure(f"gpu/{case.name}/step", ours.seconds, "s", theirs.seconds, ratio, rounds * turns, ours.deviation,
               ratio <= AT_MOST if barred else None),
        Figure(f"gpu/{case.name}/mfu", mfu, ok=mfu >= LEAST_MFU if case.name.endswith("32k") else None),
        Figure(f"gpu/{case.name}/matrix_peak", peak / 1e12, "TFLOP/s"),
    ]  # fmt: skip
    if ours.memory and theirs.memory:
        share = ours.memory / theirs.memory
        gib = 2**30
        figures.append(
            Figure(f"gpu/{case.name}/memory", ours.memory / gib, "GiB", theirs.memory / gib, share, ok=share <= 1)
        )
    return figures


def _side(side: str, case: Case, rounds: int):
    """Runs one turn.

    Raises:
      RunError: it failed; the last line it wrote says why.
    """
    # Allocated as needed: the peak counted is then what the step uses.
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, str(HERE / "bench" / "gpu_sides.py"), side, case.name, str(rounds)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise RunError(f"{case.name}, {side}: {lines[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
