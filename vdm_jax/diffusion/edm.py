"""EDM: noise added to unscaled data, and a network whose input and output keep unit variance (arXiv 2206.00364).

    x_t = x0 + sigma eps                    the level is sigma itself, t in [0, sigma_max]
    x0_hat = c_skip x_t + c_out F(c_in x_t; c_noise)
    c_skip = d^2 / (sigma^2 + d^2)    c_out = sigma d / sqrt(sigma^2 + d^2)    c_in = 1 / sqrt(sigma^2 + d^2)

with d = sigma_data.  F is then one more mixture of eps and x0, F = (sigma x0 / d - d eps) / sqrt(sigma^2 + d^2),
so conversions and weightings are those of every other process; for d = 1 it is -v of the VP process, and SVD (arXiv
2311.15127) predicts that v, the negative.  Plain MSE on F is EDM's weighting 1 / c_out^2 on x0.

Levels: sigma_i = (sigma_max^(1/rho) + i / (K - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, then 0.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion.leaves import frame_times, map_frames
from vdm_jax.diffusion.predictions import Line
from vdm_jax.diffusion.process import Process, check_steps
from vdm_jax.diffusion.time_sampling import LogNormal, TimeSampler
from vdm_jax.diffusion.weighting import Uniform, Weighting
from vdm_jax.errors import did_you_mean
from vdm_jax.types import Array, Clip, Time

TOLD = ("scaled", "quarter_log")
EDM_PREDICTIONS = ("F", "v")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDM(Process):
    """The variance-exploding process under EDM's scaling; t is sigma.

    Attributes:
      prediction: `F` as published, or its negative `v`.
      sigma_min: smallest level of training and sampling above 0.
      sigma_max: level of the prior.
      sigma_data: standard deviation of the data.
      rho: bends the levels of sampling towards low noise.
      told: what the network is told about sigma: `scaled`, ln(sigma) stretched to 0..1000 over [sigma_min,
        sigma_max], or `quarter_log`, ln(sigma) / 4 as published (for published weights).
    """

    prediction: str = "F"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    rho: float = 7.0
    told: str = "scaled"
    times: TimeSampler = dataclasses.field(default_factory=LogNormal)
    weighting: Weighting = dataclasses.field(default_factory=Uniform)

    def __post_init__(self):
        if self.prediction not in EDM_PREDICTIONS:
            raise ValueError(f"prediction: {did_you_mean(self.prediction, EDM_PREDICTIONS)}")
        if not 0.0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min: {self.sigma_min!r} must be above 0 and below sigma_max ({self.sigma_max!r})")
        if not self.sigma_data > 0.0:
            raise ValueError(f"sigma_data: {self.sigma_data!r} must be above 0")
        if not self.rho > 0.0:
            raise ValueError(f"rho: {self.rho!r} must be above 0")
        if self.told not in TOLD:
            raise ValueError(f"told: {did_you_mean(self.told, TOLD)}")

    @property
    def t_max(self) -> float:
        return self.sigma_max

    def alpha_sigma(self, t: Time) -> tuple[Array, Array]:
        t = jnp.asarray(t, jnp.float32)
        return jnp.ones_like(t), t

    def output_line(self, alpha: Array, sigma: Array) -> Line:
        scale = jnp.sqrt(sigma**2 + self.sigma_data**2) * (1.0 if self.prediction == "F" else -1.0)
        return Line(-self.sigma_data / scale, sigma / (self.sigma_data * scale))

    def network_input(self, x_t: Clip, t: Time) -> Clip:
        c_in = 1.0 / jnp.sqrt(frame_times(t, x_t) ** 2 + self.sigma_data**2)
        return map_frames(lambda x, c: c * x, (x_t,), (c_in,))

    def network_time(self, t: Time) -> Array:
        log_sigma = jnp.log(jnp.maximum(t, self.sigma_min))
        if self.told == "quarter_log":
            return 0.25 * log_sigma
        low, high = np.log(self.sigma_min), np.log(self.sigma_max)
        return 1000.0 * (log_sigma - low) / (high - low)

    def ode_coordinates(self, alpha: Array, sigma: Array) -> tuple[Array, Array]:
        """sigma itself, as published: x_t is already straight in it."""
        return alpha, sigma

    def time_from_unit(self, u: Array) -> Time:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (low + u * (high - low)) ** self.rho

    def time_from_log_ratio(self, z: Array) -> Time:
        return jnp.clip(jnp.exp(z), self.sigma_min, self.sigma_max)

    def levels(self, steps: int) -> np.ndarray:
        """Karras levels, sigma_max to sigma_min in K levels, then 0."""
        check_steps(steps)
        sigmas = self.time_from_unit(np.linspace(1.0, 0.0, steps)) if steps > 1 else np.array([self.sigma_max])
        sigmas[0] = self.sigma_max
        return np.append(sigmas, 0.0).astype(np.float32)
