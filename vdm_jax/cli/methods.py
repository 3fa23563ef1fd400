"""`vdm methods`: every published method, how far it is, and what it is made of."""

import argparse
from pathlib import Path

from vdm_jax.errors import did_you_mean
from vdm_jax.evaluation.claims.claim import FAILED, REPRODUCED
from vdm_jax.evaluation.claims.methods import STATES, find_experiments, named, read_methods
from vdm_jax.media.figures import Figure, add_json_argument, write_figures

EXAMPLE = """
vdm methods
vdm methods --state reproduced
vdm methods freenoise
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("method", metavar="SLUG", nargs="?", help="one method, with its pieces and its checks")
    parser.add_argument("--state", help=f"only those: {', '.join(STATES)}")
    parser.add_argument("--family", help="only that family")
    parser.add_argument("--experiments", metavar="DIR", type=Path, help="directory of methods (that of the checkout)")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the table, or one method; returns the exit status."""
    methods = read_methods(find_experiments(args.experiments))
    if args.state is not None and args.state not in STATES:
        raise ValueError(f"--state: {did_you_mean(args.state, STATES)}")
    families = {method.family for method in methods.values()}
    if args.family is not None and args.family not in families:
        raise ValueError(f"--family: {did_you_mean(args.family, families)}")
    if args.method is not None:
        chosen = [named(methods, args.method)]
        print("\n".join(_described(chosen[0])))
    else:
        chosen = [m for m in methods.values() if args.state in (None, m.state) and args.family in (None, m.family)]
        rows = [("method", "state", "family", "pieces")]
        rows += [(m.slug, m.state, m.family, ", ".join(m.pieces)) for m in chosen]
        widths = [max(map(len, column)) for column in zip(*rows)][:-1]
        for row in rows:
            print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]]).rstrip())
        counts = {state: sum(m.state == state for m in chosen) for state in STATES}
        print(", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none")
    if args.json:
        write_figures(args.json, [Figure(m.slug, m.state, ok=_ok(m.state)) for m in chosen])
    return 0


def _described(method) -> list[str]:
    lines = [f"{method.slug}: {method.title} ({method.paper})", f"family: {method.family}", f"state: {method.state}"]
    lines.append(f"pieces: {', '.join(method.pieces)}")
    results = method.results
    if results is not None:
        lines.append(f"claim: {results['says']} (budget {results['budget']}, {len(results['seeds'])} seeds)")
        for row in results["checks"]:
            word = "ok" if row["ok"] else "missed" if row["counts"] else "missed, does not count"
            values = ", ".join("not finite" if value is None else f"{value:.3g}" for value in row["values"])
            lines.append(f"  {row['what']}: {values} ({row['bar']}): {word}")
    return lines


def _ok(state: str) -> bool | None:
    return {REPRODUCED: True, FAILED: False}.get(state)
