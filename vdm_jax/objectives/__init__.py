"""Objectives: what training makes small.

An objective is a pure function

    (networks, batch, rng) -> (loss, metrics)

    networks   {name: nnx module}, already in the compute dtype
    batch      {key: [B, ...]} arrays
    rng        one key
    loss       float32 scalar: a mean over the examples of the batch
    metrics    {name: scalar}: means over the examples too

A plain function is enough.  What it draws then depends on how the batch is cut into microbatches; an objective that
also has the two methods of `Drawn` is free of that: everything random is drawn once for the whole batch, with the
batch as leading dim, and cut together with it.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
from flax import nnx

Batch = Mapping[str, Any]
Networks = Mapping[str, nnx.Module]


@runtime_checkable
class Drawn(Protocol):
    """An objective in two halves: what is random, and what is not."""

    def draw(self, batch: Batch, rng: jax.Array) -> Any:
        """Everything random of one step: a pytree whose leaves have the batch `[B, ...]` as leading dim."""

    def loss(self, networks: Networks, batch: Batch, draws: Any) -> tuple[jax.Array, dict[str, Any]]:
        """`(loss, metrics)` of any part of the batch with the same part of its draws."""
