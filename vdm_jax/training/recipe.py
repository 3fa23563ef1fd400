"""Recipes: what trains what, in which order.

A recipe is a list of stages; a stage is an ordered list of updates over the networks of the run; an update is an
objective, the parameters it trains, and their optimiser.  Within a step the updates run one after the other and
each sees the weights the one before it left (critic, then generator).

    plain(objective, optimizer, steps)                                     train everything
    Stage("motion", (Update("denoise", objective, optimizer, trains=("temporal",)),), steps=20_000)
    Stage("distill", (Update("critic", f, opt, trains=("critic",)),
                      Update("student", g, opt, trains=("student",), every=5)), steps=10_000)
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from vdm_jax.training.optimizer import OptimizerConfig

# `(networks, batch, rng) -> (loss, metrics)`; the exact contract is in `vdm_jax/objectives/__init__.py`.
Objective = Callable[[Mapping[str, nnx.Module], Mapping[str, jax.Array], jax.Array], tuple[jax.Array, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Update:
    """One way of changing weights.

    Attributes:
      name: its key in the optimiser state and before its metrics.
      objective: what it makes small.
      optimizer: how.
      trains: patterns of the parameters it changes (`path_filter`); all others keep their bits.
      every: it runs in steps divisible by this.
    """

    name: str
    objective: Objective
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    trains: tuple[str, ...] = ("*",)
    every: int = 1

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"every: {self.every!r} must be 1 or more")
        if not self.trains:
            raise ValueError("trains: an update must train something; allowed: patterns of parameter paths")


@dataclasses.dataclass(frozen=True)
class Stage:
    """Updates that run together for a number of steps."""

    name: str
    updates: tuple[Update, ...]
    steps: int

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps: {self.steps!r} must be 1 or more")
        names = [update.name for update in self.updates]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"updates: {names} must be one or more different names")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Stages in order; each starts from the weights the one before it left, with fresh optimisers."""

    stages: tuple[Stage, ...]

    def __post_init__(self):
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"stages: {names} must be one or more different names")

    def at(self, step: int) -> tuple[Stage, int]:
        """The stage that step belongs to and the step it began at; the last one holds after the end."""
        begin = 0
        for stage in self.stages[:-1]:
            if step < begin + stage.steps:
                return stage, begin
            begin += stage.steps
        return self.stages[-1], begin


def plain(objective: Objective, optimizer: OptimizerConfig, steps: int, trains: tuple[str, ...] = ("*",)) -> Recipe:
    """Ordinary training: one stage, one update."""
    return Recipe((Stage("train", (Update("train", objective, optimizer, trains),), steps),))
