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
class Target:
    """A network that follows another one: after each step, `target <- decay target + (1 - decay) of`.

    It has weights of its own (they may start elsewhere than those it follows), nothing trains them, and objectives read
    it like any network: the target of consistency distillation, a momentum encoder.

    Attributes:
      network: that follows.
      of: that is followed; both have the same parameters.
      decay: share that stays in each step.
    """

    network: str
    of: str
    decay: float = 0.95

    def __post_init__(self):
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay: {self.decay!r} must be in [0, 1)")
        if self.network == self.of:
            raise ValueError(f"of: {self.of!r} cannot follow itself")


@dataclasses.dataclass(frozen=True)
class Stage:
    """Updates that run together for a number of steps, and the networks that follow trained ones."""

    name: str
    updates: tuple[Update, ...]
    steps: int
    targets: tuple[Target, ...] = ()

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps: {self.steps!r} must be 1 or more")
        names = [update.name for update in self.updates]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"updates: {names} must be one or more different names")
        followers = [target.network for target in self.targets]
        if len(set(followers)) < len(followers):
            raise ValueError(f"targets: {followers} must be different networks")


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
