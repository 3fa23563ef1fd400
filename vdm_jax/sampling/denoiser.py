"""Denoiser: a network and its process, seen as one function `D(x_t, t, cond) -> x0_hat`.

A *denoiser transform* takes a denoiser and returns one (guidance, known content ...); they compose by plain
function composition, and the sampler knows of none of them.
"""

from collections.abc import Callable

from vdm_jax.diffusion.leaves import frame_times
from vdm_jax.diffusion.process import Process
from vdm_jax.types import Array, Clip, Condition, Time

Network = Callable[[Clip, Array, Condition], Clip]
Denoiser = Callable[[Clip, Time, Condition], Clip]


def make_denoiser(process: Process, network: Network) -> Denoiser:
    """Joins a network and the process it was trained for.

    Args:
      process: as stored with the weights.
      network: `network(x [B, T, ...], time [B, T], cond) -> output`, with parameters bound.

    Returns:
      `D(x_t, t, cond) -> x0_hat`, like x_t; t is a scalar, `[B]`, `[B, 1]` or `[B, T]` in the process's unit.
    """

    def denoiser(x_t: Clip, t: Time, cond: Condition) -> Clip:
        t = frame_times(t, x_t)
        output = network(process.network_input(x_t, t), process.network_time(t), cond)
        return process.belief(output, x_t, t)

    return denoiser
