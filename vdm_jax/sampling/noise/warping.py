"""Noise that moves along optical flow and stays white (Go-with-the-Flow, 2501.08331).

The state at warp resolution is the noise z, N(0, 1), and a density w > 0: how much area a pixel has gathered.  One step
takes both from a frame to the next, along flow that is rounded to whole pixels:

    contraction   source i lands on i + F_i; what leaves the frame is lost
    expansion     a pixel q on which nothing lands copies q - F_q; one that would copy from outside is new noise
    split         the n members of source i (its landing, if inside, and its copies) get v_m with variance 1, no
                  covariance, and sum_m v_m = sqrt(n) z_i; density u_m = w_i / n
    contract      z' = sum u_m v_m / sqrt(sum u_m^2) over what lands on a pixel,   w' = sum u_m
    regularise    w' <- (w' / mean(w') + 1e-5) ^ 0.9999

The split is white noise given its sum: v = z / sqrt(n) + e - mean(e).  Only copies draw an e: with k of the n members
copies, A = I - a 1 1^T, a = (1 - sqrt((n - k) / n)) / k has A A^T = I - 1 1^T / n, which is their covariance given z;
so v_m = z / sqrt(n) + e_m - a sum(e), and the one that lands has the rest, (z - sum(e)) / sqrt(n).  The distribution is
that of n draws with their mean taken off; a pixel needs one draw at most, and with n = 1 nothing changes.

Shape legend: H, W warp resolution, N = H W, C channels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdm_jax.errors import did_you_mean
from vdm_jax.geometry.flow import resize_flow
from vdm_jax.geometry.splat import landing_index
from vdm_jax.types import Array

SPACES = ("weighted", "plain")
TIMES = ("nearest", "blend", "blend_norm")
NEW_DENSITIES = ("one", "shared")
_FLOOR, _FADE = 1e-5, 0.9999  # keep densities bounded, and on their way back to 1


class WarpState(NamedTuple):
    """Noise `[H, W, C]` and density `[H, W]` of one frame."""

    noise: Array
    density: Array


def start(rng: Array, height: int, width: int, channels: int) -> WarpState:
    """The first frame: white noise of density 1."""
    return WarpState(jax.random.normal(rng, (height, width, channels)), jnp.ones((height, width)))


def step(state: WarpState, flow: Array, rng: Array, new_density: str = "one") -> WarpState:
    """The next frame; see the top of this file.

    Args:
      state: of this frame.
      flow: `[H, W, 2]` forward, in pixels of the state's grid.  One value that is not finite makes all noise NaN, so
        that training notices.
      rng: a key.
      new_density: of pixels that come into view: `one`, or what the released code gives them, 1 `shared` by all.
    """
    height, width, channels = state.noise.shape
    count = height * width
    z, w = state.noise.reshape(count, channels), state.density.reshape(count)
    target, origin = _landings(flow)
    hit = jnp.zeros(count, jnp.int32).at[target].add(1, mode="drop") > 0
    copies, lands = ~hit & (origin < count), target < count
    draws = jax.random.normal(rng, (count, channels))

    drawn = jnp.concatenate([draws, jnp.ones((count, 1))], -1)
    drawn = jnp.zeros((count, channels + 1)).at[jnp.where(copies, origin, count)].add(drawn, mode="drop")
    total, k = drawn[:, :-1], drawn[:, -1]
    n = jnp.maximum(k + lands, 1.0)
    share = w / n

    rest = (z - total) / jnp.sqrt(n)[:, None]
    carried = jnp.concatenate([share[:, None] * rest, share[:, None] ** 2, share[:, None]], -1)
    landed = jnp.zeros((count, channels + 2)).at[target].add(carried, mode="drop")
    met = landed[:, :-2] / jnp.sqrt(jnp.where(hit, landed[:, -2], 1.0))[:, None]

    taken = (1.0 - jnp.sqrt(jnp.maximum(n - k, 0.0) / n)) / jnp.maximum(k, 1.0)
    common = z / jnp.sqrt(n)[:, None] - taken[:, None] * total
    source = jnp.minimum(origin, count - 1)
    unseen = ~hit & ~copies
    fresh = 1.0 if new_density == "one" else 1.0 / jnp.maximum(unseen.sum(), 1)
    noise = jnp.where(hit[:, None], met, draws + jnp.where(copies[:, None], common[source], 0.0))
    density = jnp.where(hit, landed[:, -1], jnp.where(copies, share[source], fresh))
    noise = jnp.where(jnp.isfinite(flow).all(), noise, jnp.nan)
    density = (density / density.mean() + _FLOOR) ** _FADE
    return WarpState(noise.reshape(state.noise.shape), density.reshape(height, width))


def _landings(flow: Array) -> tuple[Array, Array]:
    """Where each pixel lands, and which one it would copy, as `[N]` indices; N is outside."""
    height, width = flow.shape[:2]
    move = jnp.round(flow).astype(jnp.int32)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
    target = landing_index(rows + move[..., 1], columns + move[..., 0], height, width)
    origin = landing_index(rows - move[..., 1], columns - move[..., 0], height, width)
    return target.reshape(-1), origin.reshape(-1)


def warp_noise(
    rng: Array,
    flow: Array,
    size: tuple[int, int],
    channels: int,
    factor: int = 1,
    space: str = "weighted",
    new_density: str = "one",
) -> Array:
    """The noise of a clip.

    Args:
      rng: a key.
      flow: forward `[T - 1, h, w, 2]`, in pixels of its own grid; brought to warp resolution, values and all.
      size: (H, W) of the noise that is wanted.
      channels: C.
      factor: warp resolution is `factor` times as large along each side, so that rounding is fine beside a pixel of
        the result; each frame is reduced at once (`reduce_space`).
      space, new_density: see `reduce_space` and `step`.

    Returns:
      float32 `[T, H, W, C]`; white within each frame, of unit variance.

    Raises:
      ValueError: no channels, a factor below 1, flow of another shape or aspect, an unknown name.
    """
    if channels < 1 or factor < 1:
        raise ValueError(f"channels: {channels} and factor: {factor} must be 1 or more")
    if new_density not in NEW_DENSITIES:
        raise ValueError(f"new_density: {did_you_mean(new_density, NEW_DENSITIES)}")
    _check_space(space)
    check_grid(flow.shape, size)
    height, width = size[0] * factor, size[1] * factor

    def advance(state: WarpState, row: tuple[Array, Array]) -> tuple[WarpState, Array]:
        motion, key = row
        after = step(state, resize_flow(motion, height, width), key, new_density)
        return after, reduce_space(*after, *size, space)

    first_key, next_key = jax.random.split(rng)
    first = start(first_key, height, width, channels)
    _, rest = jax.lax.scan(advance, first, (flow.astype(jnp.float32), jax.random.split(next_key, len(flow))))
    return jnp.concatenate([reduce_space(*first, *size, space)[None], rest])


def reduce_space(noise: Array, density: Array, height: int, width: int, space: str = "weighted") -> Array:
    """White noise on a coarser grid: `s mean(z w) / sqrt(mean(w^2))` over its s x s cells, of unit variance.

    Args:
      noise, density: `[..., H, W, C]` and `[..., H, W]`.
      height, width: of the result; whole parts of H and W.
      space: `weighted`, or `plain`, w = 1, as the released script for training data has it.

    Raises:
      ValueError: a size that does not divide the other one, or is larger; an unknown name.
    """
    _check_space(space)
    fine = density.shape[-2:]
    if height < 1 or width < 1 or fine[0] % height or fine[1] % width:
        raise ValueError(
            f"size: noise of {fine[0]}x{fine[1]} cannot be reduced to {height}x{width}; both must be whole parts of it"
        )
    if fine == (height, width):
        return noise
    rows, columns = fine[0] // height, fine[1] // width
    weight = jnp.ones_like(density) if space == "plain" else density
    cells = (noise * weight[..., None]).reshape(*noise.shape[:-3], height, rows, width, columns, noise.shape[-1])
    squares = (weight**2).reshape(*density.shape[:-2], height, rows, width, columns)
    total = cells.sum((-4, -2))
    return total / jnp.sqrt(squares.sum((-3, -1)))[..., None]


def reduce_time(noise: Array, stride: int, time: str = "nearest") -> Array:
    """Noise of the latent frames of an autoencoder that keeps the first frame and makes one of each `stride` after it.

    Args:
      noise: `[1 + stride n, ...]`.
      stride: frames for one.
      time: `nearest` takes frames 0, stride, 2 stride ..., `blend` the mean of each group (whose variance shrinks the
        more the noise moves), `blend_norm` that divided by its standard deviation over the frame.

    Returns:
      `[1 + n, ...]`.

    Raises:
      ValueError: frames that are not so many; an unknown name.
    """
    if time not in TIMES:
        raise ValueError(f"time: {did_you_mean(time, TIMES)}")
    if stride < 1 or (len(noise) - 1) % stride:
        raise ValueError(f"stride: {len(noise)} frames are not one and groups of {stride}")
    if stride == 1 or time == "nearest":
        return noise[::stride]
    groups = noise[1:].reshape(-1, stride, *noise.shape[1:]).mean(1)
    if time == "blend_norm":
        groups = groups / groups.std(tuple(range(1, groups.ndim)), keepdims=True)
    return jnp.concatenate([noise[:1], groups])


def degrade(noise: Array, new: Array, degradation: Array | float) -> Array:
    """Noise that follows less: `((1 - g) noise + g new) / sqrt((1 - g)^2 + g^2)`.

    Args:
      noise: as warped.
      new: independent noise like it.
      degradation: g in [0, 1], a number or anything that broadcasts: 0 is `noise` bit for bit, 1 is `new`.  With
        `g = 1 - matte`, only what the matte covers follows.
    """
    kept = 1.0 - degradation
    return (kept * noise + degradation * new) / jnp.sqrt(kept**2 + jnp.square(degradation))


def check_grid(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """Refuses flow of another form or aspect than the noise.

    Raises:
      ValueError: says the shape that is expected.
    """
    if len(shape) != 4 or shape[-1] != 2:
        raise ValueError(f"flow: shape {list(shape)} is not [T - 1, H, W, 2], (dx, dy) in pixels")
    down, right = shape[1] / size[0], shape[2] / size[1]
    if not 0.95 < down / right < 1.05:
        raise ValueError(
            f"flow: a grid of {shape[1]}x{shape[2]} has another aspect than the noise, {size[0]}x{size[1]}; expected"
            f" flow of the same picture, such as {round(right * size[0])}x{shape[2]}"
        )


def _check_space(space: str) -> None:
    if space not in SPACES:
        raise ValueError(f"space: {did_you_mean(space, SPACES)}")
