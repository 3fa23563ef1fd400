"""Named layouts of attention's operands.

| layout         | what is attended                                                                    |
| -------------- | ----------------------------------------------------------------------------------- |
| BNHD,  BHND    | one sequence of N tokens an example                                                 |
| BGNHD, BGHND   | G sequences an example (frames in space attention, points of a frame in time)       |
| BTSHD, BHTSD   | one sequence an example: T frames of S tokens each, in that order                   |

Inside, all are `[B, G, H, T, S, D]`: a plain sequence has T = 1, and what is not there has size 1.  The dims stay
apart because a mesh cuts some of them (S of a sequence, or G): merging a cut dim with one in front of it would move
every token to another device.
"""

import jax
import jax.numpy as jnp

from vdm_jax.errors import did_you_mean

Array = jax.Array

LAYOUTS = ("BNHD", "BHND", "BGNHD", "BGHND", "BTSHD", "BHTSD")
DIMS = "BGHTSD"
GROUPS, HEADS, TOKENS = DIMS.index("G"), DIMS.index("H"), DIMS.index("S")


def check_layout(layout: str) -> None:
    """Raises ValueError unless `layout` is one of `LAYOUTS`."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout: {did_you_mean(layout, LAYOUTS)}")


def spread(x: Array, layout: str) -> Array:
    """An operand in a layout -> `[B, G, H, T, S, D]`."""
    if x.ndim != len(layout):
        raise ValueError(f"q, k, v: shape {x.shape} has {x.ndim} dims, the layout {layout} {len(layout)}")
    x = x.reshape(*x.shape, *[1] * (len(DIMS) - x.ndim))
    return x.transpose([_with_missing(layout).index(dim) for dim in DIMS])


def gather(x: Array, layout: str) -> Array:
    """`[B, G, H, T, S, D]` -> the layout, the inverse of `spread`."""
    x = x.transpose([DIMS.index(dim) for dim in _with_missing(layout)])
    return x.reshape(x.shape[: len(layout)])


def fold(x: Array, shared: bool = False) -> Array:
    """`[B, G, H, T, S, ...] -> [B * G, H, T * S, ...]`, what a kernel takes.

    Args:
      x: on one device.
      shared: whether all groups read the same keys; then these are the queries, and they become one sequence:
        `[B, H, G * T * S, ...]`.
    """
    b, g, h, t, s = x.shape[:5]
    if shared:
        return x.swapaxes(1, 2).reshape(b, h, g * t * s, *x.shape[5:])
    return x.reshape(b * g, h, t * s, *x.shape[5:])


def unfold(x: Array, like: tuple[int, ...], shared: bool = False) -> Array:
    """The inverse of `fold`, for a result whose leading dims are those of `like`: `[B, G, H, T, S, ...]`."""
    b, g, h, t, s = like[:5]
    if shared:
        return x.reshape(b, h, g, t, s, *x.shape[3:]).swapaxes(1, 2)
    return x.reshape(b, g, h, t, s, *x.shape[3:])


def resize(x: Array, dim: int, size: int) -> Array:
    """Cuts a dim off, or pads it with zeros (False), at its end."""
    if x.shape[dim] >= size:
        return x if x.shape[dim] == size else jax.lax.slice_in_dim(x, 0, size, axis=dim)
    return jnp.pad(x, [(0, size - n if axis == dim % x.ndim else 0) for axis, n in enumerate(x.shape)])


def _with_missing(layout: str) -> str:
    """The dims of a layout, and behind them those that it lacks."""
    names = layout.replace("N", "S")
    return names + "".join(dim for dim in DIMS if dim not in names)
