"""Group normalisation (1803.08494) of channels-last arrays; statistics are always float32.

    y = a x + (bias - a mean),    a = scale / sqrt(var + eps)

Sums go over positions first, which leaves a row of channels, and only that is grouped: a reduction over positions and
the few neighbouring channels of a group at once is ten times slower on a CPU.  `a` and the offset are rows as well, so
that the gradient, too, is two sums over positions and one pass.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.nn.folding import folds
from vdm_jax.nn.linear import param

Array = jax.Array


def group_norm(
    x: Array, groups: int, dims: int, eps: float, scale: Array | float = 1.0, bias: Array | float = 0.0
) -> Array:
    """Zero mean and unit variance of each group of channels, then scale and bias.

    Args:
      x: `[..., *S, C]`.
      groups: of neighbouring channels.
      dims: how many dims S before the channels share the statistics: 2 for each frame of a clip, 3 for a whole clip.
      eps: added to the variance.
      scale, bias: `[C]`.

    Returns:
      Like x, in its dtype.
    """
    batch, sizes = x.shape[: x.ndim - dims - 1], x.shape[x.ndim - dims - 1 : -1]
    x32 = x.astype(jnp.float32)
    if folds():  # and no leading dim of 1, see `nn.folding`
        lead = (math.prod(batch),) if math.prod(batch) > 1 else ()
        x32 = x32.reshape(*lead, math.prod(sizes), x.shape[-1])
        dims = 1
    over = tuple(range(x32.ndim - dims - 1, x32.ndim - 1))
    mean = _grouped(jnp.mean(x32, over, keepdims=True), groups)
    # Around a constant c, var = E (x - c)^2 - (mean - c)^2: the second term is zero, but carries the derivatives by the
    # mean, of every order, in a row of numbers instead of one more pass.
    constant = jax.lax.stop_gradient(mean)
    variance = _grouped(jnp.mean(jnp.square(x32 - constant), over, keepdims=True), groups)
    variance = variance - jnp.square(mean - constant)
    a = jax.lax.rsqrt(variance + eps) * jnp.asarray(scale, jnp.float32)
    y = a * x32 + (jnp.asarray(bias, jnp.float32) - a * mean)
    return y.astype(x.dtype).reshape(x.shape)


def _grouped(row: Array, groups: int) -> Array:
    """Each channel's number `[..., C]` replaced by the mean of its group."""
    parts = row.reshape(*row.shape[:-1], groups, -1)
    return jnp.broadcast_to(parts.mean(-1, keepdims=True), parts.shape).reshape(row.shape)


class GroupNorm(nnx.Module):
    """Group norm with learned scale and bias per channel; see `group_norm`."""

    def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs, dims: int = 2, eps: float = 1e-5):
        if channels % groups:
            raise ValueError(f"groups: {groups} must divide the {channels} channels")
        self.groups, self.dims, self.eps = groups, dims, eps
        self.scale = param(rngs, jax.nn.initializers.ones, (channels,), ("norm",))
        self.bias = param(rngs, jax.nn.initializers.zeros, (channels,), ("norm",))

    def __call__(self, x: Array) -> Array:
        return group_norm(x, self.groups, self.dims, self.eps, self.scale[...], self.bias[...])
