"""Precision of the state and of the computation: masters, and a compute copy cast once per step.

Weights and moments are float32, or bfloat16 where memory is dearer than small updates (6 bytes a parameter for weights
and moments instead of 12; an update below 1/256 of its weight is lost).  Averages are float32 always.

Under `precision="bfloat16"` the step casts all parameters once at its top, pinned to the sharding of the masters: what
FSDP then gathers is the bfloat16 copy, half the bytes (checked in the partitioned program).  Gradients are reduced over
devices in bfloat16 too, and added up over microbatches in float32.  Layers compute in the dtype of what they are given,
objectives take the loss in float32.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax.errors import did_you_mean

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def check_precision(name: str, field: str = "precision") -> None:
    """Raises ValueError unless `name` is one of `PRECISIONS`."""
    if name not in PRECISIONS:
        raise ValueError(f"{field}: {did_you_mean(name, PRECISIONS)}")


def master_copy(params: Any, precision: str) -> Any:
    """Floating leaves in the dtype of the state."""
    dtype = PRECISIONS[precision]
    return jax.tree.map(lambda p: p.astype(dtype) if jnp.issubdtype(p.dtype, jnp.floating) else p, params)


def compute_copy(params: Any, shardings: Any, precision: str) -> Any:
    """Floating leaves in the compute dtype, sharded like the masters; the tree itself for float32."""
    dtype = PRECISIONS[precision]

    def cast(leaf: jax.Array, sharding: jax.sharding.NamedSharding) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype == dtype:
            return leaf
        return jax.lax.with_sharding_constraint(leaf.astype(dtype), sharding.spec)

    return jax.tree.map(cast, params, shardings)
