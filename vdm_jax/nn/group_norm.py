"""Group normalisation (1803.08494) of channels-last arrays; statistics are always float32."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.nn.linear import param

Array = jax.Array


def group_norm(x: Array, groups: int, dims: int, eps: float) -> Array:
    """Zero mean and unit variance of each group of channels, without learned scale.

    Args:
      x: `[..., *S, C]`.
      groups: of neighbouring channels.
      dims: how many dims S before the channels share the statistics: 2 for each frame of a clip, 3 for a whole clip.
      eps: added to the variance.
    """
    batch, sizes = x.shape[: x.ndim - dims - 1], x.shape[x.ndim - dims - 1 : -1]
    x32 = x.reshape(math.prod(batch), math.prod(sizes), groups, -1).astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, axis=(1, 3), keepdims=True)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=(1, 3), keepdims=True) + eps)
    return x32.astype(x.dtype).reshape(x.shape)


class GroupNorm(nnx.Module):
    """Group norm with learned scale and bias per channel; see `group_norm`."""

    def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs, dims: int = 2, eps: float = 1e-5):
        if channels % groups:
            raise ValueError(f"groups: {groups} must divide the {channels} channels")
        self.groups, self.dims, self.eps = groups, dims, eps
        self.scale = param(rngs, jax.nn.initializers.ones, (channels,), ("norm",))
        self.bias = param(rngs, jax.nn.initializers.zeros, (channels,), ("norm",))

    def __call__(self, x: Array) -> Array:
        y = group_norm(x, self.groups, self.dims, self.eps)
        return y * self.scale[...].astype(x.dtype) + self.bias[...].astype(x.dtype)
