"""Solver steps of distilled models, which jump to x0 and are noised again: LCM (arXiv 2310.04378), TCD (2402.19159).

  LCM   f = c_skip x_t + c_out x0_hat,  x_s = alpha_s f + sigma_s z
        c_skip = d^2 / (n^2 + d^2)    c_out = n / sqrt(n^2 + d^2)    n = a times what the network is told, d = 1/2
  TCD   a DDIM step to a level u at or below s, from which noise leads up to s:  x_s = q(x_s | x_u)
        u = s for gamma = 0 (DDIM);  u = 0 for gamma = 1 (LCM without the boundary condition)

TCD counts its levels in entries of the table: the entry of u is (1 - gamma) times that of s, rounded down.
"""

import dataclasses

import jax.numpy as jnp

from vdm_jax.diffusion.leaves import map_frames, select_frames
from vdm_jax.diffusion.process import Process
from vdm_jax.types import Array, Clip, Time

_SIGMA_DATA = 0.5


@dataclasses.dataclass(frozen=True)
class LCM:
    """Multistep consistency sampling.

    Attributes:
      scaling: a, how quickly the boundary condition f(x, 0) = x lets go; None is no boundary condition, f = x0_hat
        (flow-matching models distilled to few steps).
    """

    scaling: float | None = 10.0

    def __post_init__(self):
        if self.scaling is not None and not self.scaling > 0.0:
            raise ValueError(f"scaling: {self.scaling!r} must be above 0, or None")

    @property
    def stochastic(self) -> bool:
        return True

    def init(self, x: Clip) -> tuple:
        return ()

    def step(self, denoise, process, x, t, s, state, noise):
        x0_hat = denoise(x, t)
        if self.scaling is not None:
            told = self.scaling * process.network_time(t)
            skip = _SIGMA_DATA**2 / (told**2 + _SIGMA_DATA**2)
            out = told / jnp.sqrt(told**2 + _SIGMA_DATA**2)
            x0_hat = map_frames(lambda x, x0, a, b: a * x + b * x0, (x, x0_hat), (skip, out))
        return select_frames(t == s, x, process.q_sample(x0_hat, noise, s)), x0_hat, state


@dataclasses.dataclass(frozen=True)
class TCD:
    """Trajectory consistency sampling.

    Attributes:
      gamma: 0 is deterministic, 1 noises from the clean clip each time.
      entries: N of the table that the model was trained on.
    """

    gamma: float = 0.3
    entries: int = 1000

    def __post_init__(self):
        if not 0.0 <= self.gamma <= 1.0:
            raise ValueError(f"gamma: {self.gamma!r} must lie between 0 and 1")
        if self.entries < 2:
            raise ValueError(f"entries: {self.entries!r} must be at least 2")

    @property
    def stochastic(self) -> bool:
        return self.gamma > 0.0

    def init(self, x: Clip) -> tuple:
        return ()

    def step(self, denoise, process, x, t, s, state, noise):
        x0_hat = denoise(x, t)
        under = self._under(process, s)
        x_s = process.reverse_step(x, x0_hat, t, under)
        if self.stochastic:
            x_s = process.forward_step(x_s, under, s, noise)
        return select_frames(t == s, x, x_s), x0_hat, state

    def _under(self, process: Process, s: Time) -> Array:
        """The level u."""
        entry = jnp.maximum(jnp.round(s / process.t_max * self.entries) - 1.0, 0.0)
        under = (jnp.floor((1.0 - self.gamma) * entry) + 1.0) / self.entries * process.t_max
        return jnp.minimum(under, s)
