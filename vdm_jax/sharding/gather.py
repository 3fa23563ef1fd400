"""Weights cut over devices (FSDP), made whole where they are used.

    use:       cut over (fsdp, context)  -- gather over context -->  cut over fsdp  -- gather over fsdp -->  whole
    gradient:  summed by reduce-scatter over fsdp, then over context

Said here and not left to the compiler, for three reasons found in programs for TPUs: it gathers a weight once for each
matrix product that reads it; where a sum over the devices of two axes is asked for at once, it all-reduces (twice the
bytes, and on a whole v5p slice it does that for gathers too); and it all-reduces gradients that only one axis sums.
"""

import functools

import jax
from flax import nnx
from jax.sharding import PartitionSpec

from vdm_jax.sharding.context import current_mesh, partitioned
from vdm_jax.sharding.rules import weight_spec

Array = jax.Array
STORED_OVER = ("fsdp", "context")  # axes that cut weights to save memory; `tensor` cuts the work too, and stays


def gathered(module: nnx.Module) -> nnx.Module:
    """The same module with whole weights, but for the `tensor` axis.

    Args:
      module: a whole network, whose stacked layers are left as they are, or one layer inside the scan over them.

    Returns:
      The module itself where the mesh cuts no weights.
    """
    if not partitioned() or all(current_mesh().shape.get(axis, 1) == 1 for axis in STORED_OVER):
        return module
    graphdef, state = nnx.split(module)
    return nnx.merge(graphdef, jax.tree.map(_whole, state, is_leaf=lambda x: isinstance(x, nnx.Variable)))


def _whole(variable: nnx.Variable) -> nnx.Variable:
    names, value = variable.get_metadata().get("out_sharding"), variable.get_value()
    if names is None or (names[0] == "layers" and len(names) == value.ndim):
        return variable
    specs = _steps(weight_spec(value.shape, tuple(names)[-value.ndim :]))
    return variable if len(specs) == 1 else variable.replace(_gather(value, specs))


def _steps(spec: PartitionSpec) -> tuple[PartitionSpec, ...]:
    """From how a weight is stored to how it is used, one axis at a time, the innermost first."""
    specs = [spec]
    while True:
        narrower = PartitionSpec(*map(_without_innermost, specs[-1]))
        if narrower == specs[-1]:
            return tuple(specs)
        specs.append(narrower)


def _without_innermost(entry: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    axes = entry if isinstance(entry, tuple) else (entry,)
    if axes[-1] not in STORED_OVER:
        return entry
    return axes[:-1] if len(axes) > 2 else (axes[0] if len(axes) == 2 else None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gather(weight: Array, specs: tuple[PartitionSpec, ...]) -> Array:
    for spec in specs[1:]:
        weight = jax.lax.with_sharding_constraint(weight, spec)
    return weight


def _gather_fwd(weight, specs):
    return _gather(weight, specs), None


def _gather_bwd(specs, _, grad):
    for spec in specs[-2::-1]:
        grad = jax.lax.with_sharding_constraint(grad, spec)
    return (grad,)


_gather.defvjp(_gather_fwd, _gather_bwd)
