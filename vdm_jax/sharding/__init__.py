"""Where arrays live: mesh axes, logical-axis rules, multi-process start-up and batch placement."""

from vdm_jax.sharding.gather import gathered
from vdm_jax.sharding.mesh import AXES, MeshConfig, batch_shards, check_batch, check_heads, make_mesh, slice_count
from vdm_jax.sharding.multihost import batch_rows, batch_sharding, place_batch, replicated, start
from vdm_jax.sharding.roll_call import depart, joined, wait_for_all
from vdm_jax.sharding.rules import (
    LogicalRules,
    activation_sharding,
    constrain,
    logical_axes,
    param_shardings,
    undivided,
)

__all__ = [
    "AXES",
    "LogicalRules",
    "MeshConfig",
    "activation_sharding",
    "batch_rows",
    "batch_sharding",
    "batch_shards",
    "check_batch",
    "check_heads",
    "constrain",
    "depart",
    "gathered",
    "joined",
    "logical_axes",
    "make_mesh",
    "param_shardings",
    "place_batch",
    "replicated",
    "slice_count",
    "start",
    "undivided",
    "wait_for_all",
]
