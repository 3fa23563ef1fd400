"""Rotary positions over any number of axes (RoFormer 2104.09864; t, h, w shares as in the Wan models).

A head's D channels form D / 2 pairs; each axis owns some of the pairs and turns them by `position * frequency`:

    (a, b) -> (a cos - b sin, a sin + b cos).

Pairs are `(i, i + D / 2)`, so that a rotation is two slices and no strided access.  Models published with
neighbouring pairs `(2i, 2i + 1)` differ by a fixed permutation of the Q and K channels, which interop applies.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def axis_pairs(head_dim: int, axes: int) -> tuple[int, ...]:
    """Pairs of each axis: equal shares of a third (half, ...), the rest to the first axis (time)."""
    share = head_dim // (2 * axes)
    return (head_dim // 2 - share * (axes - 1), *([share] * (axes - 1)))


def rotary_table(sizes: tuple[int, ...], head_dim: int, theta: float = 10_000.0) -> np.ndarray:
    """Angles of every point of a grid.

    Args:
      sizes: points along each axis, `(T, H, W)`, `(H, W)` or `(T,)`.
      head_dim: channels of a head, even.
      theta: longest wavelength.

    Returns:
      `[prod(sizes), 2, head_dim / 2]` float32: cos and sin.
    """
    return rotary_table_at([np.arange(n) for n in sizes], axis_pairs(head_dim, len(sizes)), theta)


def rotary_table_at(positions: Sequence[np.ndarray], pairs: Sequence[int], theta: float = 10_000.0) -> np.ndarray:
    """Angles of a grid whose points need not be whole numbers.

    Args:
      positions: along each axis, one-dimensional.
      pairs: of each axis.
      theta: longest wavelength.

    Returns:
      `[points, 2, sum(pairs)]` float32: cos and sin.
    """
    grids = np.meshgrid(*(np.asarray(p, np.float64) for p in positions), indexing="ij")
    angles = []
    for grid, count in zip(grids, pairs, strict=True):
        frequencies = 1.0 / theta ** (np.arange(count) / count)
        angles.append(grid.reshape(-1, 1) * frequencies)
    angle = np.concatenate(angles, axis=1)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def rotate(x: Array, table: Array) -> Array:
    """Turns queries or keys: `x [..., N, D]`, `table [N, 2, D / 2]` -> `[..., N, D]`; dims before N broadcast."""
    cos, sin = table[..., 0, :].astype(x.dtype), table[..., 1, :].astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
