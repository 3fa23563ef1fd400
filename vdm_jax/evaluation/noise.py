"""Whether noise is white, and whether it follows a motion: what methods that start from noise with structure must hold.

    variance     of a frame                                               1
    neighbours   correlation of pixels side by side                       0
    ks           greatest distance between its distribution and N(0, 1)   0    (Kolmogorov-Smirnov)
    follows      corr(z_1(x + F), z_0(x)) over what stays in the frame    1 where all of it follows, 0 where none does

Shape legend: T frames, H height, W width, C channels.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.geometry import lands_inside, warp
from vdm_jax.types import Array


def motions(side: int, frames: int) -> dict[str, np.ndarray]:
    """Exact flow, float32 `[T - 1, side, side, 2]` in pixels, of a translation, one by half a pixel, zoom in and out by
    5 % a frame, a turn by 2 degrees, and a wave of 2.5 pixels."""
    y, x = np.indices((side, side)) + 0.5 - side / 2
    turn = np.radians(2.0)
    still = np.zeros((side, side))
    steps = {
        "translation": (still + 2, still - 1),
        "half_pixel": (still + 0.5, still),
        "zoom_in": (0.05 * x, 0.05 * y),
        "zoom_out": (-0.05 * x, -0.05 * y),
        "rotation": (x * (np.cos(turn) - 1) - y * np.sin(turn), x * np.sin(turn) + y * (np.cos(turn) - 1)),
        "wave": (2.5 * np.sin(2 * np.pi * y / 32), 2.5 * np.sin(2 * np.pi * x / 32)),
    }
    return {name: np.stack([np.stack(step, -1)] * (frames - 1)).astype(np.float32) for name, step in steps.items()}


def whiteness(frame: Array) -> dict[str, Array]:
    """`variance`, `neighbours` and `ks` of a frame `[H, W, C]`, scalars; see the top of this file."""
    centred = frame - frame.mean()
    near = (centred[1:] * centred[:-1]).mean() + (centred[:, 1:] * centred[:, :-1]).mean()
    ordered = jnp.sort(frame.reshape(-1))
    share = (jnp.arange(ordered.size) + 0.5) / ordered.size
    return {
        "variance": frame.var(),
        "neighbours": near / 2 / centred.var(),
        "ks": jnp.abs(jax.scipy.stats.norm.cdf(ordered) - share).max(),
    }


def follows(first: Array, second: Array, flow: Array) -> Array:
    """How well the second frame `[H, W, C]` is the first one moved along flow `[H, W, 2]`, a scalar."""
    inside = lands_inside(flow)[..., None]
    there = warp(second, flow, "nearest")
    scale = jnp.sqrt((inside * there**2).sum() * (inside * first**2).sum())
    return (inside * there * first).sum() / scale


def looked_up(rng: Array, flow: Array, channels: int, mode: str) -> Array:
    """Noise `[T, H, W, C]` each frame of which looks up the one before, as a picture is warped: how not to do it.

    Args:
      rng: a key.
      flow: `[T - 1, H, W, 2]`.
      channels: C.
      mode: of `geometry.warp`; `bilinear` loses variance, `nearest` repeats pixels.
    """
    first = jax.random.normal(rng, (*flow.shape[1:3], channels))
    _, rest = jax.lax.scan(lambda z, move: (warp(z, -move, mode),) * 2, first, flow)
    return jnp.concatenate([first[None], rest])


def frames_a_second(make: Callable[[Array, Array], Array], flow: Array, repeats: int = 4) -> float:
    """How fast `make(rng, flow [T - 1, H, W, 2])` is, compiled; the best repeat counts (the machine is shared)."""
    run, took = jax.jit(make), []
    for repeat in range(repeats + 1):  # the first one compiles
        begin = time.perf_counter()
        run(jax.random.key(repeat), flow).block_until_ready()
        took.append(time.perf_counter() - begin)
    return len(flow) / min(took[1:])
