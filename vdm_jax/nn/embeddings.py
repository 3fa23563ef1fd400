"""Numbers, labels and positions as vectors."""

import math
from collections.abc import Sequence

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
        self.out = Linear(dim, dim, axes=("condition", "embed_out"), init=_NORMAL, rngs=rngs)
        self.null = param(rngs, _NORMAL, (dim,), ("embed",)) if nullable else None

    def __call__(self, x: Array, dtype: jnp.dtype = jnp.float32) -> Array:
        y = self.out(jax.nn.silu(self.hidden(sinusoidal(x, self.frequencies).astype(dtype))))
        return y if self.null is None else jnp.where((x == -1)[..., None], self.null[...].astype(dtype), y)


class VectorEmbedding(nnx.Module):
    """Linear - SiLU - Linear: `[..., in_dim] -> [..., dim]` through `hidden` channels, by default `dim`."""

    def __init__(self, in_dim: int, dim: int, *, rngs: nnx.Rngs, hidden: int = 0):
        hidden = hidden or dim
        self.hidden = Linear(in_dim, hidden, axes=("frequencies", "embed"), init=_NORMAL, rngs=rngs)
        self.out = Linear(hidden, dim, axes=("condition", "embed_out"), init=_NORMAL, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.out(jax.nn.silu(self.hidden(x)))


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
    table = sincos_table_at([np.arange(size) for size in sizes], [share] * len(sizes))
    return np.pad(table, [*[(0, 0)] * len(sizes), (0, dim - table.shape[-1])])


def frame_table(sizes: tuple[int, int], span: tuple[int, int], dim: int) -> np.ndarray:
    """Places in a frame of `sizes` (height, width) on a grid of `span` stretched over it (Latte 2401.03048).

    Returns:
      `[height * width, dim]` float32: half of the channels say where a token is across, half where up.
    """
    up, across = (np.arange(size) * (full / size) for size, full in zip(sizes, span))
    return sincos_table_at([across, up], (dim // 2,) * 2).swapaxes(0, 1).reshape(sizes[0] * sizes[1], dim)


def time_table(frames: int, dim: int) -> np.ndarray:
    """Places in time, `[frames, 1, dim]` float32; a picture by itself has none (Latte 2401.03048)."""
    return sincos_table_at([np.arange(frames)], [dim])[:, None] * np.float32(frames > 1)


def sincos_table_at(positions: Sequence[np.ndarray], dims: Sequence[int]) -> np.ndarray:
    """Sinusoids of a grid whose points need not be whole numbers.

    Args:
      positions: along each dim of the grid, one-dimensional.
      dims: channels of each, even: sines, then cosines.

    Returns:
      `[*points, sum(dims)]` float32.
    """
    sizes = [len(p) for p in positions]
    parts = []
    for axis, (points, share) in enumerate(zip(positions, dims, strict=True)):
        frequencies = 1.0 / 10_000 ** (np.arange(share // 2) / (share // 2))
        angles = np.asarray(points, np.float64)[:, None] * frequencies
        code = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
        shape = [size if a == axis else 1 for a, size in enumerate(sizes)]
        parts.append(np.broadcast_to(code.reshape(*shape, share), (*sizes, share)))
    return np.concatenate(parts, axis=-1)
