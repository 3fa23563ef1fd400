"""Numbers, labels and positions as vectors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vdm_jax.nn.linear import Linear, param

Array = jax.Array
_NORMAL = jax.nn.initializers.normal(0.02)


def sinusoidal(x: Array, dim: int, max_period: float = 10_000.0) -> Array:
    """`[...] -> [..., dim]` float32: cos and sin of x at `dim / 2` geometrically spaced frequencies (1706.03762)."""
    half = dim // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = x.astype(jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class ScalarEmbedding(nnx.Module):
    """A number to a vector: sinusoids, then Linear - SiLU - Linear.  `[...] -> [..., dim]`.

    With `nullable`, the value -1 (unconditional) gives a learned vector of its own.
    """

    def __init__(self, dim: int, *, rngs: nnx.Rngs, frequencies: int = 256, nullable: bool = False):
        self.frequencies = frequencies
        self.hidden = Linear(frequencies, dim, axes=("frequencies", "embed"), init=_NORMAL, rngs=rngs)
        self.out = Linear(dim, dim, axes=("embed", "embed_out"), init=_NORMAL, rngs=rngs)
        self.null = param(rngs, _NORMAL, (dim,), ("embed",)) if nullable else None

    def __call__(self, x: Array, dtype: jnp.dtype = jnp.float32) -> Array:
        y = self.out(jax.nn.silu(self.hidden(sinusoidal(x, self.frequencies).astype(dtype))))
        return y if self.null is None else jnp.where((x == -1)[..., None], self.null[...].astype(dtype), y)


class LabelEmbedding(nnx.Module):
    """Class labels `[B] int -> [B, dim]`; -1 (unconditional) is the last row of the table."""

    def __init__(self, classes: int, dim: int, *, rngs: nnx.Rngs):
        self.classes = classes
        self.table = param(rngs, _NORMAL, (classes + 1, dim), ("vocab", "embed"))

    def __call__(self, labels: Array, dtype: jnp.dtype = jnp.float32) -> Array:
        rows = jnp.where(labels < 0, self.classes, labels)
        return jnp.take(self.table[...].astype(dtype), rows, axis=0)


def sincos_table(sizes: tuple[int, ...], dim: int) -> np.ndarray:
    """Fixed sinusoidal table of a grid, `[*sizes, dim]` float32; `dim` is shared evenly by the grid's dims."""
    share = dim // len(sizes) // 2 * 2
    table = np.zeros((*sizes, dim), np.float32)
    frequencies = 1.0 / 10_000 ** (np.arange(share // 2) / (share // 2))
    for axis, size in enumerate(sizes):
        angles = np.arange(size)[:, None] * frequencies
        code = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
        shape = [size if a == axis else 1 for a in range(len(sizes))]
        table[..., axis * share : (axis + 1) * share] = code.reshape(*shape, share)
    return table
