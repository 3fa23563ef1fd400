"""The memory of a step by calculation: the most bytes of a traced program that are alive at once.

    peak = max over the equations, in their order, of the bytes of all results that a later equation still reads

Loops and calls add the peak of their body to what is alive around them; what a forward scan stacks for the backward
pass is alive until that has read it.  A compiler fuses and reorders, so this is an estimate; its use is to compare
meshes, remat policies and batches before any of them is compiled, and to plan for GPUs, which cannot be compiled for.

Shapes in a trace are global.  An array with the shape of a parameter lies as that parameter does; one with the shape
of one layer's share of a stack is gathered, but for `tensor`; all others are split over batch and tokens.
The update of the weights is left out: it works in place, one parameter after the other.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from vdm_jax.sharding import batch_shards
from vdm_jax.training.state import StatePlan

_PRODUCTS = ("dot_general", "conv_general_dilated", "pallas_call")


@dataclasses.dataclass(frozen=True)
class Live:
    """Peak bytes on one device, and what lies in host memory at that time."""

    device: float
    host: float


def peak_live(traced: ClosedJaxpr, plan: StatePlan, batch_growth: float = 1.0) -> Live:
    """The peak of a traced train step, its arguments not counted.

    Args:
      traced: the step.
      plan: layout of its state.
      batch_growth: how many times the traced batch the real one is.
    """
    walk = _Walk(_shares(plan), batch_shards(plan.mesh) * plan.mesh.shape["context"] / batch_growth)
    return Live(walk.peak(traced.jaxpr, outer=True), walk.host)


def _shares(plan: StatePlan) -> dict[tuple[int, ...], float]:
    """Shape -> into how many parts an array of that shape is split, for parameters and for layers of stacked ones."""
    shares: dict[tuple[int, ...], float] = {}
    tensor = plan.mesh.shape["tensor"]
    for leaf in jax.tree.leaves(plan.abstract.params):
        part = math.prod(leaf.sharding.shard_shape(leaf.shape))
        names = [axis for entry in leaf.sharding.spec for axis in (entry if isinstance(entry, tuple) else (entry,))]
        if leaf.ndim > 2:
            shares.setdefault(leaf.shape[1:], tensor if "tensor" in names else 1)
        shares[leaf.shape] = math.prod(leaf.shape) / part
    return shares


@dataclasses.dataclass
class _Walk:
    shares: Mapping[tuple[int, ...], float]
    tokens: float
    manual: int = 1
    host: float = 0.0

    def peak(self, jaxpr: Jaxpr, outer: bool = False) -> float:
        """Most bytes alive of what the equations of a jaxpr make."""
        eqns = jaxpr.eqns
        if outer:
            eqns = eqns[: 1 + max((i for i, e in enumerate(eqns) if _computes(e)), default=len(eqns))]
        last = {id(v): len(eqns) for v in jaxpr.outvars if not isinstance(v, Literal)}
        for place in range(len(eqns) - 1, -1, -1):
            for var in eqns[place].invars:
                last.setdefault(id(var), place)
        alive: dict[int, float] = {}
        now = most = 0.0
        for place, eqn in enumerate(eqns):
            for var in eqn.outvars:
                size = self._bytes(var.aval)
                if id(var) in last:
                    alive[id(var)] = size
                    now += size
            most = max(most, now + self._inside(eqn))
            for var in {id(v) for v in eqn.invars}:
                if last.get(var) == place:
                    now -= alive.pop(var, 0.0)
        return most

    def _inside(self, eqn: Any) -> float:
        """Peak of what an equation calls; its results are counted by the caller."""
        if eqn.primitive.name == "pallas_call":
            return 0.0
        before = self.manual
        if eqn.primitive.name == "shard_map":  # shapes inside are those of one device, along the manual axes
            axes = eqn.params.get("newly_manual_axes", eqn.params.get("manual_axes", ()))
            self.manual *= math.prod(eqn.params["mesh"].shape[a] for a in axes)
        peaks = [self.peak(inner) for inner in _called(eqn)]
        self.manual = before
        return max(peaks, default=0.0)

    def _bytes(self, aval: Any) -> float:
        shape, dtype = getattr(aval, "shape", None), getattr(aval, "dtype", None)
        if shape is None or dtype is None or not hasattr(dtype, "itemsize"):
            return 0.0
        share = self.shares.get(tuple(shape)) if self.manual == 1 else None
        size = math.prod(shape) * dtype.itemsize / (share or (self.tokens / self.manual))
        if "host" in str(getattr(aval, "memory_space", "")).lower():
            self.host = max(self.host, size)
            return 0.0
        return size


def _called(eqn: Any) -> list[Jaxpr]:
    found = []
    for value in eqn.params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(one, ClosedJaxpr):
                found.append(one.jaxpr)
            elif isinstance(one, Jaxpr):
                found.append(one)
    return found


def _computes(eqn: Any) -> bool:
    """Whether an equation or what it calls has a matrix product."""
    return eqn.primitive.name in _PRODUCTS or any(_computes(e) for inner in _called(eqn) for e in inner.eqns)
