"""A claim: measurements of each seed, and checks on them that were fixed before anything was measured.

    CLAIM = Claim(
        says="a time per frame gives image-to-video without training for it",
        measure=measure,                                      # Lab -> {"p02/neighbour": 0.8, ...}
        checks=(
            Check("zero_shot", "error of the neighbour frame against the scalar model's",
                  lambda m: m["p02/neighbour"] / m["p0/neighbour"], most=0.5, every_seed=True),
        ),
    )

`measure` trains and samples all arms of one seed, the method's and its baseline's, at equal compute.  A check is a
number made of these measurements and the bar that it has to meet: on average over the seeds, or in each of them.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vdm_jax.evaluation.claims.lab import Lab

Measured = Mapping[str, float]
STATES = REPRODUCED, FAILED, FEW_SEEDS = "reproduced", "failed", "too few seeds"
SEEDS = 3  # that a claim needs at least


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Attributes:
      name: short, for tables.
      what: the number in words.
      value: from the measurements of one seed.
      least, most: the bar; one of them or both.
      every_seed: it must hold in each seed, not only on average.
      counts: False is told and judged, but the claim stands without it (say why in the method's README).
    """

    name: str
    what: str
    value: Callable[[Measured], float]
    least: float | None = None
    most: float | None = None
    every_seed: bool = False
    counts: bool = True

    def __post_init__(self):
        if self.least is None and self.most is None:
            raise ValueError(f"checks.{self.name}: needs a bar, least or most")

    @property
    def bar(self) -> str:
        """The bar in words."""
        sides = [("at least", self.least), ("at most", self.most)]
        words = " and ".join(f"{side} {bar:g}" for side, bar in sides if bar is not None)
        return f"{words} in every seed" if self.every_seed else words

    def holds(self, value: float) -> bool:
        """Whether a number meets the bar; what is not finite never does."""
        above = self.least is None or value >= self.least
        below = self.most is None or value <= self.most
        return math.isfinite(value) and above and below


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a published method claims, at toy scale.

    Attributes:
      says: the claim in one sentence.
      measure: all arms of one seed; every seed returns the same names.
      checks: at least one that counts.
    """

    says: str
    measure: Callable[[Lab], Measured]
    checks: tuple[Check, ...]

    def __post_init__(self):
        names = [check.name for check in self.checks]
        if not any(check.counts for check in self.checks) or len(set(names)) < len(names):
            raise ValueError(f"checks: {names} must be different names, and at least one of them must count")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A check over all seeds.

    Attributes:
      check: which.
      values: of each seed.
      ok: whether it holds.
    """

    check: Check
    values: tuple[float, ...]
    ok: bool

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 for one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0


def judge(claim: Claim, measured: Sequence[Measured]) -> list[Verdict]:
    """Applies the checks to the measurements of each seed.

    Raises:
      ValueError: no seed, or seeds that measured different things.
    """
    if not measured or any(m.keys() != measured[0].keys() for m in measured):
        raise ValueError(f"measured: {len(measured)} seeds must be one or more, all with the same measurements")
    verdicts = []
    for check in claim.checks:
        values = tuple(float(check.value(m)) for m in measured)
        judged = values if check.every_seed else (float(np.mean(values)),)
        verdicts.append(Verdict(check, values, all(map(check.holds, judged))))
    return verdicts


def state_of(verdicts: Sequence[Verdict]) -> str:
    """One of `STATES`: `reproduced` if every check that counts holds, in enough seeds to tell it from luck."""
    if not all(verdict.ok for verdict in verdicts if verdict.check.counts):
        return FAILED
    return REPRODUCED if min(len(verdict.values) for verdict in verdicts) >= SEEDS else FEW_SEEDS
