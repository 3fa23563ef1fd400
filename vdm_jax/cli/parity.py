"""`vdm parity`: networks here against the published classes, at random weights; the one command that needs PyTorch."""

import argparse

from vdm_jax.errors import did_you_mean
from vdm_jax.interop.cases import CASES
from vdm_jax.interop.parity import FORWARD_BAR, GRADIENT_BAR, Case, Certificate, certify
from vdm_jax.media.figures import Figure, add_json_argument, write_figures

EXAMPLE = """
vdm parity
vdm parity WanTransformer3DModel --json parity.json
"""
COLUMNS = ("class", "network", "max abs", "relative", "d input", "d weights", "round trip", "dtype", "config", "ok")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("family", metavar="FAMILY", nargs="?", help="a published class; default all")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a certificate for every case; returns the exit status, 1 if one misses a bar."""
    found = [certify(case) for case in chosen(args.family)]
    rows = [COLUMNS, *(_row(certificate) for certificate in found)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print(f"bars: relative {FORWARD_BAR:g} forward, {GRADIENT_BAR:g} gradients; weights drawn again, none left at zero")
    if args.json:
        write_figures(args.json, [figure for certificate in found for figure in _figures(certificate)])
    return 0 if all(certificate.ok for certificate in found) else 1


def chosen(family: str | None) -> list[Case]:
    """The cases of a published class, or all.

    Raises:
      ValueError: no such class.
    """
    names = {case.family.published for case in CASES}
    if family is not None and family not in names:
        raise ValueError(f"FAMILY: {did_you_mean(family, names)}")
    return [case for case in CASES if family in (None, case.family.published)]


def _row(c: Certificate) -> tuple[str, ...]:
    errors = (f"{value:.1e}" for value in (c.forward_max, c.forward, c.input_gradient, c.parameter_gradient))
    same, ok = "same bits" if c.round_trip else "DIFFERS", "yes" if c.ok else "NO"
    return (c.published, c.case, *errors, same, c.dtype, c.config_hash, ok)


def _figures(c: Certificate) -> list[Figure]:
    name = f"{c.published}/{c.case}"
    gradient = {"input_gradient": c.input_gradient, "parameter_gradient": c.parameter_gradient}
    return [
        Figure(f"{name}/forward_max", c.forward_max),
        Figure(f"{name}/forward", c.forward, ok=c.forward <= FORWARD_BAR),
        *(Figure(f"{name}/{key}", value, ok=value <= GRADIENT_BAR) for key, value in gradient.items()),
        Figure(f"{name}/round_trip", c.round_trip, ok=c.round_trip),
        Figure(f"{name}/dtype", c.dtype),
        Figure(f"{name}/config", c.config_hash),
    ]
