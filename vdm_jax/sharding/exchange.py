"""Moves a mesh axis from one dim of an array to another by one all-to-all.

    [B, T / R, S, D]  ->  [B, T, S / R, D]

so that, of a factorised network, space blocks work on whole frames and time blocks on whole tubes ("dynamic" sequence
parallelism, arXiv 2403.10266).  Neither size has to divide: the dim that gets cut is padded on the device before the
exchange, the padding of the one that becomes whole is dropped behind it.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from vdm_jax.sharding.context import axis_size
from vdm_jax.sharding.rules import activation_spec

Array = jax.Array


def padded(size: int, axis: str) -> int:
    """The size of a dim that is cut over a mesh axis: the next multiple of the devices along it."""
    return -(-size // axis_size(axis)) * axis_size(axis)


def exchange(x: Array, axis: str, join: int, split: int, length: int) -> Array:
    """Re-partitions an array; the identity up to padding, for values and for gradients.

    Args:
      x: `[B, ...]`, dim `join` cut over `axis` and padded to `padded(length, axis)`, dim `split` whole.
      axis: of the current mesh.
      join: dim that becomes whole.
      split: dim that becomes cut.
      length: size of `join` without padding.

    Returns:
      The array with `length` in dim `join` and `padded(x.shape[split], axis)` in dim `split`, which is cut.
    """
    spec = activation_spec(x.shape, "batch", *[None] * (x.ndim - 1))
    return _exchange(_Move(axis, join, split, length, x.shape[split], spec[0]), x)


@dataclasses.dataclass(frozen=True)
class _Move:
    axis: str
    join: int
    split: int
    join_length: int
    split_length: int
    batch: str | tuple[str, ...] | None

    def reversed(self) -> "_Move":
        return dataclasses.replace(
            self,
            join=self.split,
            split=self.join,
            join_length=self.split_length,
            split_length=self.join_length,
        )

    def spec(self, ndim: int, cut: int) -> PartitionSpec:
        return PartitionSpec(self.batch, *(self.axis if dim == cut else None for dim in range(1, ndim)))

    def __call__(self, x: Array) -> Array:
        specs = self.spec(x.ndim, self.join), self.spec(x.ndim, self.split)
        return jax.shard_map(self._on_device, in_specs=specs[0], out_specs=specs[1], check_vma=False)(x)

    def _on_device(self, x: Array) -> Array:
        short = padded(self.split_length, self.axis) - self.split_length
        x = jnp.pad(x, [(0, short if dim == self.split else 0) for dim in range(x.ndim)])
        x = jax.lax.all_to_all(x, self.axis, self.split, self.join, tiled=True)
        return jax.lax.slice_in_dim(x, 0, self.join_length, axis=self.join)


# The derivative is the way back.  It is said here because JAX would sum gradients over the axes that a spec leaves out.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _exchange(move: _Move, x: Array) -> Array:
    return move(x)


def _exchange_fwd(move, x):
    return move(x), None


def _exchange_bwd(move, _, d_out):
    return (move.reversed()(d_out),)


_exchange.defvjp(_exchange_fwd, _exchange_bwd)
