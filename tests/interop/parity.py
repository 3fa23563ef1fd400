"""What the parity test of every family does: certificates at tiny size, full published configs in the abstract."""

import json
from pathlib import Path
from typing import Any

from vdm_jax.interop.families.family import Family
from vdm_jax.interop.parity import FORWARD_BAR, GRADIENT_BAR, Case, abstract_check, certify

FIXTURES = Path(__file__).parent / "published"


def published(name: str) -> dict[str, Any]:
    """A `config.json` as it was published."""
    return json.loads((FIXTURES / f"{name}.json").read_text())


def check_case(case: Case) -> None:
    """Forward, gradients and round trip of a tiny network."""
    found = certify(case)
    assert found.forward <= FORWARD_BAR, found
    assert max(found.input_gradient, found.parameter_gradient) <= GRADIENT_BAR, found
    assert found.round_trip, found


def check_published(family: Family, name: str) -> int:
    """Every key and shape of a full published config, mapped once; and its options come back out as they went in.

    Returns:
      The number of tensors.
    """
    options = published(name)
    again = family.published_config(family.config(options))
    differing = {key: (value, again[key]) for key, value in options.items() if key in again and again[key] != value}
    assert not differing, f"{name}: read and written: {differing}"
    return abstract_check(family, options)
