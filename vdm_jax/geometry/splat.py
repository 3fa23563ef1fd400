"""Forward splatting: every pixel takes its content to where the flow leads.

    sum      out(q) = sum_p w(p) b(q - p - flow(p)) v(p)            b: the bilinear tent, or the nearest pixel alone
    average  the same, divided by the sum of w b

`splat_nearest` keeps of what lands on a pixel the content with the smallest depth alone, as a camera does.
"""

import jax
import jax.numpy as jnp

from vdm_jax.errors import did_you_mean
from vdm_jax.types import Array

MODES = ("sum", "average")
FOOTPRINTS = ("bilinear", "nearest")


def splat(
    values: Array, flow: Array, weights: Array | None = None, mode: str = "average", footprint: str = "bilinear"
) -> tuple[Array, Array]:
    """Splats.

    Args:
      values: `[..., H, W, C]`.
      flow: `[..., H, W, 2]`, (dx, dy) in pixels.
      weights: w, `[..., H, W]`; default 1.
      mode: `sum` or `average`.
      footprint: a pixel falls on the four pixels around it (`bilinear`, differentiable in everything), or on the
        `nearest` one.

    Returns:
      What has landed, like `values` (0 where nothing has), and how much of it, `[..., H, W]`: the sum of w b.

    Raises:
      ValueError: an unknown mode or footprint, or shapes that do not go together.
    """
    if mode not in MODES:
        raise ValueError(f"mode: {did_you_mean(mode, MODES)}")
    if footprint not in FOOTPRINTS:
        raise ValueError(f"footprint: {did_you_mean(footprint, FOOTPRINTS)}")
    weights = jnp.ones(values.shape[:-1], values.dtype) if weights is None else weights
    _check(values, flow, weights, "weights")
    lead, (height, width, channels) = values.shape[:-3], values.shape[-3:]
    landing = _four if footprint == "bilinear" else _one

    def picture(value: Array, motion: Array, weight: Array) -> Array:
        carried = jnp.concatenate([value, jnp.ones_like(value[..., :1])], -1) * weight[..., None]
        total = jnp.zeros((height * width, channels + 1), carried.dtype)
        for target, share in landing(motion):  # what falls outside has the index one past the end
            total = total.at[target.reshape(-1)].add(
                (share[..., None] * carried).reshape(-1, channels + 1), mode="drop"
            )
        return total.reshape(height, width, channels + 1)

    flat = [x.reshape(-1, *x.shape[len(lead) :]) for x in (values, flow, weights)]
    landed = jax.vmap(picture)(*flat).reshape(*lead, height, width, channels + 1)
    out, amount = landed[..., :-1], landed[..., -1]
    if mode == "average":
        some = amount > 0
        out = jnp.where(some[..., None], out / jnp.where(some, amount, 1)[..., None], 0)
    return out, amount


def splat_nearest(values: Array, flow: Array, depth: Array) -> tuple[Array, Array]:
    """Splats to the nearest pixel; what is in front hides what is behind it.

    Args:
      values: `[..., H, W, C]`.
      flow: `[..., H, W, 2]`, (dx, dy) in pixels.
      depth: `[..., H, W]`, in the camera that is splatted to; of equal ones the first in reading order is kept.

    Returns:
      The picture, like `values` (0 where nothing has landed), and bool `[..., H, W]`, where something has.

    Raises:
      ValueError: shapes that do not go together.
    """
    _check(values, flow, depth, "depth")
    lead, (height, width, channels) = values.shape[:-3], values.shape[-3:]
    count = height * width

    def picture(value: Array, motion: Array, far: Array) -> tuple[Array, Array]:
        ((target, _),) = _one(motion)
        target, far, index = target.reshape(-1), far.reshape(-1), jnp.arange(count)
        front = jnp.full(count, jnp.inf, far.dtype).at[target].min(far, mode="drop")
        ahead = (target < count) & (far <= front[jnp.minimum(target, count - 1)])
        first = jnp.full(count, count).at[jnp.where(ahead, target, count)].min(index, mode="drop")
        hit = first < count
        shown = jnp.where(hit[:, None], value.reshape(count, channels)[jnp.minimum(first, count - 1)], 0)
        return shown.reshape(value.shape), hit.reshape(height, width)

    flat = [x.reshape(-1, *x.shape[len(lead) :]) for x in (values, flow, depth)]
    shown, hit = jax.vmap(picture)(*flat)
    return shown.reshape(values.shape), hit.reshape(*lead, height, width)


def landing_index(rows: Array, columns: Array, height: int, width: int) -> Array:
    """Index of a pixel in a flattened picture; one past the end where it is outside.  Integers of any shape."""
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return jnp.where(inside, rows * width + columns, height * width)


def _one(flow: Array) -> list[tuple[Array, Array]]:
    height, width = flow.shape[:2]
    step = jnp.round(flow).astype(int)
    rows, columns = jnp.arange(height)[:, None] + step[..., 1], jnp.arange(width) + step[..., 0]
    return [(landing_index(rows, columns, height, width), jnp.ones(flow.shape[:2], flow.dtype))]


def _four(flow: Array) -> list[tuple[Array, Array]]:
    height, width = flow.shape[:2]
    rows, columns = jnp.arange(height)[:, None] + flow[..., 1], jnp.arange(width) + flow[..., 0]
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, right = rows - top, columns - left
    i, j = top.astype(int), left.astype(int)
    return [
        (landing_index(i + di, j + dj, height, width), (down if di else 1 - down) * (right if dj else 1 - right))
        for di in (0, 1)
        for dj in (0, 1)
    ]


def _check(values: Array, flow: Array, scalar: Array, name: str) -> None:
    if flow.shape != (*values.shape[:-1], 2):
        raise ValueError(f"flow: shape {flow.shape} is not {(*values.shape[:-1], 2)}, that of the values")
    if scalar.shape != values.shape[:-1]:
        raise ValueError(f"{name}: shape {scalar.shape} is not {values.shape[:-1]}, that of the values")
