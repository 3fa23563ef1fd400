"""What a large job needs before any accelerator is booked; run it as `./tools/bench_scale`.

    ./tools/bench_scale                                     every section, an hour on two cores: 11 large compilations
    ./tools/bench_scale --only steps --case v5p:2x2x1       one of them
    ./tools/bench_scale --only attention chunked
    ./tools/bench_scale --quick                             tiny shapes: does everything run?

Everything is compiled for TPUs that are not there (the `tpu` extra, libtpu); nothing is executed and no time is
measured.  The table in `tools/scale.md` keeps the rows of earlier runs and replaces those that are measured again.
"""

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.options import Options
from bench.sections import check_names, finish, parser_of, say_section

from vdm_jax.cli.main import guarded
from vdm_jax.media.figures import Figure
from vdm_jax.planning.targets import use_cpu

SECTIONS = {
    "steps": ("bench.scale_steps", "the step of dit_14b: does it fit, bytes sent, predicted time; and the peer's work"),
    "attention": ("bench.scale_attention", "bytes sent by partitioned attention over the analytic minimum, 8 to 512"),
    "chunked": ("bench.scale_memory", "memory of the blockwise kernel, 4k to 128k tokens"),
}
TABLE = Path(__file__).with_name("scale.md")
HEAD = """# Scale, without the accelerators

Compiled by libtpu for TPUs that are not there, or counted in compiled programs; predicted times are rooflines at the
peaks of `vdm_jax/planning/chips.py`.  Not measured on a device: none was at hand.  Peer of `steps/peer`: MaxDiffusion's
Wan 2.1 14B step compiled with the same jax and libtpu; of `attention`: the analytic minimum.  `steps/peer` is compiled
for chips that may use no more memory than the bar's peak (`vdm plan --memory`), as the compiler's own account of a peak
has in it what lies on the host; `host` is bytes a device keeps there, and what moving them takes is in no time.

| figure | value | unit | peer | ratio | bar met | command |
|---|---|---|---|---|---|---|
"""


def main() -> int:
    """Parses, compiles, prints; returns 0, or 1 if a bar is not met."""
    parser = parser_of("./tools/bench_scale", "Memory, traffic and predicted time of large steps.", SECTIONS)
    parser.add_argument("--case", metavar="TEXT", default="", help="only the cases of `steps` with this in their name")
    args = parser.parse_args()
    return guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Measures the sections; returns the exit status."""
    check_names(args.only, SECTIONS)
    use_cpu()
    figures = []
    for name in args.only:
        say_section(name, SECTIONS)
        found = importlib.import_module(SECTIONS[name][0]).measure(Options(args.quick, case=args.case))
        if args.case and not found and name == "steps":
            raise ValueError(f"--case: no case of {name} has {args.case!r} in its name")
        again = f"./tools/bench_scale --only {name}"
        found = [f if f.command.startswith(again) else dataclasses.replace(f, command=again) for f in found]
        figures += found
        if not args.quick:
            write_table(TABLE, found)
    return finish(figures, args.json)


def write_table(path: Path, figures: Sequence[Figure]) -> None:
    """Puts figures into the Markdown table: in the place of a row of that name, or at the end."""
    rows = {}
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("| ") and not line.startswith("| figure"):
                rows[line.split("|")[1].strip()] = line
    for figure in figures:
        rows[figure.name] = _row(figure)
    path.write_text(HEAD + "\n".join(rows.values()) + "\n")


def _row(figure: Figure) -> str:
    met = {None: "", True: "yes", False: "**no**"}[figure.ok]
    cells = (figure.name, figure.value, figure.unit, figure.peer, figure.ratio, met, f"`{figure.command}`")
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value) -> str:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, bool) else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
