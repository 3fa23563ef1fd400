"""Denoiser: a network and its process, seen as one function `D(x_t, t, cond) -> x0_hat`.

A *denoiser transform* takes a denoiser and returns one (guidance, known content ...); they compose by plain
function composition, and the sampler knows of none of them.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion.leaves import frame_times
from vdm_jax.diffusion.process import Process
from vdm_jax.types import Array, Clip, Condition, Time

Network = Callable[[Clip, Array, Condition], Clip]
Denoiser = Callable[[Clip, Time, Condition], Clip]


def make_denoiser(process: Process, network: Network, told: Callable[[Time], Array] | None = None) -> Denoiser:
    """Joins a network and the process it was trained for.

    Args:
      process: as stored with the weights.
      network: `network(x [B, T, ...], time [B, T], cond) -> output`, with parameters bound.
      told: what the network is told about a level; default `process.network_time`.  See `told_at`.

    Returns:
      `D(x_t, t, cond) -> x0_hat`, like x_t; t is a scalar, `[B]`, `[B, 1]` or `[B, T]` in the process's unit.
    """

    told = told or process.network_time

    def denoiser(x_t: Clip, t: Time, cond: Condition) -> Clip:
        t = frame_times(t, x_t)
        output = network(process.network_input(x_t, t), told(t), cond)
        return process.belief(output, x_t, t)

    return denoiser


def told_at(process: Process, levels: np.ndarray, times: np.ndarray) -> Callable[[Time], Array]:
    """What the network is told, listed for some levels: published samplers round it, or tell that of another level.

    Args:
      process: for given frames (level 0), which are told what they always are.
      levels: `[K]`, each above 0 and different from the others.
      times: `[K]`.

    Returns:
      Level -> time, elementwise; on a straight line between the levels that are listed.

    Raises:
      ValueError: levels that are 0 or repeated, or not as many as times.
    """
    levels, times = np.asarray(levels, np.float32), np.asarray(times, np.float32)
    if levels.shape != times.shape or levels.ndim != 1:
        raise ValueError(f"told: {times.shape} times for {levels.shape} levels")
    order = np.argsort(levels)
    known, said = levels[order], times[order]
    if not (np.diff(known, prepend=0.0) > 0.0).all():
        raise ValueError("told: levels must be above 0 and differ from each other")

    def told(t: Time) -> Array:
        clean = process.network_time(jnp.float32(0.0))
        return jnp.interp(t, jnp.asarray(np.append(0.0, known), jnp.float32), jnp.append(clean, said))

    return told
