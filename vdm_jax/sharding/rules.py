"""Logical-axis rules: from what a dim means to the mesh axes that split it.

Model code names dims (`embed`, `mlp`, `heads`, `frames` ...) and nothing else.  Two tables translate, because the
same name asks for two things: a parameter's `embed` dim is split to save memory (FSDP), an activation's `embed`
dim is whole, since its batch dim already uses those devices.

A rule is a wish.  A dim takes the axes of its rule that the mesh has, that no earlier dim of the same array took,
and that divide it; what does not divide stays whole (a bias of width 3 is not an error) and `undivided` lists it.
So `[batch, frames, height, width, embed]` gives the `context` axis to frames if they divide, else to height.
"""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vdm_jax.errors import did_you_mean
from vdm_jax.sharding.context import current_mesh, partitioned
from vdm_jax.sharding.mesh import AXES, BATCH_AXES

Table = Mapping[str, tuple[str, ...]]

# `context` devices hold parameter shards too: they are idle memory otherwise (MaxDiffusion does the same).
PARAMETER_AXES: Table = {
    "embed": ("fsdp", "context"),
    # Inputs of what reads a prompt or a time, the same on all context devices: each of them takes the gradient of its
    # part of the dim alone, and only fsdp has something to sum.
    "condition": ("context", "fsdp"),
    "embed_out": (),
    "rank": ("fsdp", "context"),  # of low-rank pairs, where the other dim of a matrix is not `embed`
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "head_dim": (),
    "vocab": ("tensor",),
    "patch": (),
    "text": (),
    "frequencies": (),
    "norm": (),
    "frames": (),
    "height": (),
    "width": (),
    "layers": (),
}

ACTIVATION_AXES: Table = {
    "batch": BATCH_AXES,
    "tokens": ("context",),
    "frames": ("context",),
    "height": ("context",),
    "width": ("context",),
    "text": (),
    "heads": ("tensor",),
    "all_heads": ("tensor", "context"),
    "head_dim": (),
    "mlp": ("tensor",),
    "embed": (),
    "layers": (),
}


@dataclasses.dataclass(frozen=True)
class LogicalRules:
    """One table for parameters, one for activations: logical axis -> mesh axes, outermost first."""

    parameters: Table = dataclasses.field(default_factory=lambda: PARAMETER_AXES)
    activations: Table = dataclasses.field(default_factory=lambda: ACTIVATION_AXES)


_rules: contextvars.ContextVar[LogicalRules | None] = contextvars.ContextVar("rules", default=None)


@contextlib.contextmanager
def activation_sharding(mesh: Mesh, rules: LogicalRules) -> Iterator[None]:
    """Makes `constrain` (and all that asks `sharding.context`) see this mesh and these rules.

    To be entered inside the traced function, where it becomes part of that program, whoever calls it.  The arguments of
    that function must be on the mesh already.  Its axes are Auto inside, also of a mesh that is Explicit outside
    (`jax.sharding.auto_axes` takes the function from one to the other).
    """
    token = _rules.set(rules)
    try:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh.update_axis_types(dict.fromkeys(AXES, AxisType.Auto))):
            yield
    finally:
        _rules.reset(token)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Tells the compiler how an activation is split; the identity where there is no mesh or only one device.

    Args:
      x: any array.
      names: one logical axis of the activation table for each dim, None for a dim that is free to stay whole.

    Raises:
      ValueError: a name the table lacks, or another number of names than dims.
    """
    return jax.lax.with_sharding_constraint(x, activation_spec(x.shape, *names)) if partitioned() else x


def activation_spec(shape: tuple[int, ...], *names: str | None) -> PartitionSpec:
    """How the current mesh and rules cut an activation; arguments and errors as in `constrain`."""
    rules = _rules.get() or LogicalRules()
    return _partition(shape, names, rules.activations, current_mesh())[0]


def weight_spec(shape: tuple[int, ...], names: tuple[str | None, ...]) -> PartitionSpec:
    """How a parameter lies on the current mesh."""
    rules = _rules.get() or LogicalRules()
    return _partition(shape, names, rules.parameters, current_mesh())[0]


def logical_axes(state: nnx.State) -> dict[str, Any]:
    """The logical names of every parameter, as a nested dict of tuples (or None where it has none).

    Args:
      state: of `nnx.split`, with the metadata of `nnx.with_partitioning` and of the layer stack.
    """

    def names(variable: nnx.Variable) -> tuple[str | None, ...] | None:
        axes = variable.get_metadata().get("out_sharding")
        return None if axes is None else tuple(axes)

    return unflatten_dict({path: names(variable) for path, variable in nnx.to_flat_state(state)})


def param_shardings(abstract: Mapping[str, Any], axes: Mapping[str, Any], mesh: Mesh, rules: LogicalRules) -> Any:
    """The `NamedSharding` of every parameter.

    Args:
      abstract: nested dict of arrays or `ShapeDtypeStruct`.
      axes: nested dict of the same paths, of names (`logical_axes`).
      mesh, rules: where to.

    Returns:
      A nested dict like `abstract`.

    Raises:
      ValueError: a parameter names an axis the table lacks, or has another number of names than dims.
    """
    specs = _specs(abstract, axes, mesh, rules)
    return unflatten_dict({path: NamedSharding(mesh, spec) for path, (spec, _) in specs.items()})


def undivided(abstract: Mapping[str, Any], axes: Mapping[str, Any], mesh: Mesh, rules: LogicalRules) -> list[str]:
    """Lines `blocks/mlp/kernel [2, 10, 3]: embed 10 does not divide by fsdp 4; left whole`."""
    specs = _specs(abstract, axes, mesh, rules)
    shapes = {path: list(leaf.shape) for path, leaf in flatten_dict(abstract).items()}
    return [
        f"{'/'.join(map(str, path))} {shapes[path]}: {note}; left whole"
        for path, (_, notes) in specs.items()
        for note in notes
    ]


def _specs(abstract, axes, mesh, rules) -> dict[tuple, tuple[PartitionSpec, list[str]]]:
    names, specs = flatten_dict(axes), {}
    for path, leaf in flatten_dict(abstract).items():
        try:
            specs[path] = _partition(leaf.shape, names[path] or (None,) * len(leaf.shape), rules.parameters, mesh)
        except ValueError as error:
            raise ValueError(f"{'/'.join(map(str, path))}: {error}") from None
    return specs


def _partition(shape, names, table: Table, mesh: Mesh) -> tuple[PartitionSpec, list[str]]:
    """The spec of one array, and a note for each mesh axis that did not divide the dim that asked for it."""
    if len(names) != len(shape):
        raise ValueError(f"{len(names)} logical axes {names} for shape {tuple(shape)}")
    spec, notes, taken = [], [], set()
    for size, name in zip(shape, names):
        if name is not None and name not in table:
            raise ValueError(f"logical axis: {did_you_mean(name, table)}")
        mine = []
        for axis in table[name] if name is not None else ():
            if axis in taken or mesh.shape.get(axis, 1) == 1:
                continue
            if size % (math.prod(mesh.shape[a] for a in mine) * mesh.shape[axis]):
                notes.append(f"{name} {size} does not divide by {axis} {mesh.shape[axis]}")
                continue
            mine.append(axis)
            taken.add(axis)
        spec.append(tuple(mine) if len(mine) > 1 else (mine[0] if mine else None))
    return PartitionSpec(*spec), notes
