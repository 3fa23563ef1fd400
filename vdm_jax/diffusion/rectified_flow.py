"""Rectified flow: data and noise joined by a straight line (arXiv 2209.03003, 2210.02747).

    x_t = (1 - t) x0 + t eps       t in [0, 1]       velocity = dx_t/dt = eps - x0

Shift (SD3, arXiv 2403.03206): `t -> s t / (1 + (s - 1) t)` multiplies sigma/alpha by s everywhere.  A clip with m
tokens keeps the uncertainty of one with n tokens at s = sqrt(m / n) (`resolution_shift`).  The shift acts on the
times of training and on the levels of sampling alike.

The network may predict the velocity, x0 (JiT, arXiv 2511.13720: with `weighting = Uniform(space="velocity")`, the
loss is the velocity's and the network's is the clean picture), or eps.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion.predictions import Line, line
from vdm_jax.diffusion.process import Process, check_steps
from vdm_jax.diffusion.time_sampling import LogitNormal, TimeSampler
from vdm_jax.diffusion.weighting import Uniform, Weighting
from vdm_jax.errors import did_you_mean
from vdm_jax.types import Array, Time

FLOW_PREDICTIONS = ("velocity", "x0", "eps")


def shift_time(u: Array, shift: float) -> Array:
    """`s u / (1 + (s - 1) u)`: [0, 1] to [0, 1], ends fixed; `sigma / alpha` times s."""
    return shift * u / (1.0 + (shift - 1.0) * u)


def resolution_shift(tokens: int, base_tokens: int, base_shift: float = 1.0) -> float:
    """The shift for clips of `tokens` tokens (or pixels), given one that suits `base_tokens` (arXiv 2403.03206)."""
    if tokens < 1 or base_tokens < 1:
        raise ValueError(f"tokens: {tokens} and base_tokens: {base_tokens} must be at least 1")
    return base_shift * math.sqrt(tokens / base_tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RectifiedFlow(Process):
    """The straight-line process, t in [0, 1].

    Attributes:
      prediction: `velocity`, `x0` or `eps`.
      shift: s of `shift_time`; above 1 spends more on high noise.
    """

    prediction: str = "velocity"
    shift: float = 1.0
    times: TimeSampler = dataclasses.field(default_factory=LogitNormal)
    weighting: Weighting = dataclasses.field(default_factory=Uniform)

    def __post_init__(self):
        if self.prediction not in FLOW_PREDICTIONS:
            raise ValueError(f"prediction: {did_you_mean(self.prediction, FLOW_PREDICTIONS)}")
        if not self.shift > 0.0:
            raise ValueError(f"shift: {self.shift!r} must be above 0")

    @property
    def t_max(self) -> float:
        # At t = 1 there is no signal, and a network that predicts eps would say nothing about x0: it starts at
        # 0.99, far below the signal that is left at the end of the usual VP tables (alpha = 0.07).
        return 0.99 if self.prediction == "eps" else 1.0

    def alpha_sigma(self, t: Time) -> tuple[Array, Array]:
        t = jnp.asarray(t, jnp.float32)
        return 1.0 - t, t

    def output_line(self, alpha: Array, sigma: Array) -> Line:
        return line(self.prediction, alpha, sigma)

    def network_time(self, t: Time) -> Array:
        return 1000.0 * t

    def time_from_unit(self, u: Array) -> Time:
        return self.t_max * shift_time(u, self.shift)

    def time_from_log_ratio(self, z: Array) -> Time:
        return jnp.minimum(jax.nn.sigmoid(z), self.t_max)

    def levels(self, steps: int, shift: float | None = None) -> np.ndarray:
        """Evenly spaced levels, shifted; `shift` overrides the process's own."""
        check_steps(steps)
        u = np.linspace(1.0, 0.0, steps + 1)
        return (self.t_max * shift_time(u, self.shift if shift is None else shift)).astype(np.float32)
