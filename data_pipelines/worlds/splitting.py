"""Holds back combinations of attributes, so that a model is asked for what it never saw, in words that it did see."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

Combination = TypeVar("Combination")


def divide(
    combinations: Sequence[Combination], share: float, seed: int
) -> tuple[tuple[Combination, ...], tuple[Combination, ...]]:
    """Divides combinations of attributes in two, of which the first has each single value at least once.

    Args:
      combinations: frozen dataclasses of one kind, each once.
      share: of the combinations to hold out, in [0, 1).
      seed: which ones.

    Returns:
      (training, held-out) combinations, both in the order given.

    Raises:
      ValueError: a share out of range, or so large that some single value would be missing in training.
    """
    if not 0 <= share < 1:
        raise ValueError(f"held_out: {share!r} is not within [0, 1)")
    wanted = round(share * len(combinations))
    left: dict[tuple[str, Any], int] = {}
    for value in itertools.chain.from_iterable(map(_values, combinations)):
        left[value] = left.get(value, 0) + 1
    held_out: set[Combination] = set()
    for i in np.random.default_rng([seed, 0x5EED]).permutation(len(combinations)):
        values = _values(combinations[i])
        if len(held_out) < wanted and all(left[v] > 1 for v in values):
            held_out.add(combinations[i])
            for v in values:
                left[v] -= 1
    if len(held_out) < wanted:
        names = ", ".join(field.name for field in dataclasses.fields(combinations[0]))
        raise ValueError(f"held_out: {share!r} leaves some value of {names} untaught")
    return tuple(c for c in combinations if c not in held_out), tuple(c for c in combinations if c in held_out)


def _values(combination: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(dataclasses.asdict(combination).items())
