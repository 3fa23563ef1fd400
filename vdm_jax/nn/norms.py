"""Normalisation and adaLN modulation; statistics are always float32."""

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.nn.folding import fold
from vdm_jax.nn.linear import param

Array = jax.Array


def layer_norm(x: Array, eps: float = 1e-6) -> Array:
    """Zero mean and unit variance over the last dim, without learned scale (adaLN brings its own)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)).astype(x.dtype)


def modulate(x: Array, shift: Array, scale: Array) -> Array:
    """adaLN (arXiv 2212.09748): `x (1 + scale) + shift`; shift and scale broadcast over the tokens of a frame."""
    return x * (1 + scale) + shift


class LayerNorm(nnx.Module):
    """Layer norm with learned scale and bias over the last dim."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs, eps: float = 1e-6):
        self.eps = eps
        self.scale = param(rngs, jax.nn.initializers.ones, (dim,), ("norm",))
        self.bias = param(rngs, jax.nn.initializers.zeros, (dim,), ("norm",))

    def __call__(self, x: Array) -> Array:
        return layer_norm(x, self.eps) * self.scale[...].astype(x.dtype) + self.bias[...].astype(x.dtype)


class RMSNorm(nnx.Module):
    """`x / rms(x) * scale` over the trailing dims of `shape` (`(head_dim,)`, or `(heads, head_dim)` for all heads)."""

    def __init__(self, shape: tuple[int, ...], *, rngs: nnx.Rngs, eps: float = 1e-6):
        self.eps = eps
        self.scale = param(rngs, jax.nn.initializers.ones, shape, ("norm",) * len(shape))

    def __call__(self, x: Array) -> Array:
        over = tuple(range(-self.scale[...].ndim, 0))
        x32 = fold(x, len(over)).astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=over, keepdims=True) + self.eps)
        return (x32.astype(x.dtype) * self.scale[...].astype(x.dtype)).reshape(x.shape)
