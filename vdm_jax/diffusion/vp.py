"""The variance-preserving process of DDPM and latent diffusion, discrete table and everything in between.

    x_t = alpha x0 + sigma eps      alpha^2 + sigma^2 = 1      t in [0, 1]

t = (i + 1) / N is entry i of the table of N = 1000 betas (diffusers' timestep i), t = 0 is clean; levels between
entries are interpolated (`schedules.interpolate_level`).  The network is told i = N t - 1, so weights trained on
integer timesteps are at home; a given frame (t = 0) is told 0, like FVDM's (arXiv 2410.03160).

Predictions: eps (arXiv 2006.11239), v = alpha eps - sigma x0 (2202.00512), x0.  With zero terminal SNR
(2305.08891) the last level holds no signal, from which eps says nothing about x0; that pair is refused.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion.predictions import Line, line
from vdm_jax.diffusion.process import Process, check_steps
from vdm_jax.diffusion.schedules import SCHEDULES, alpha_sigma_table, interpolate_level
from vdm_jax.diffusion.time_sampling import TimeSampler, Uniform
from vdm_jax.diffusion.weighting import Uniform as UniformWeighting
from vdm_jax.diffusion.weighting import Weighting
from vdm_jax.errors import did_you_mean
from vdm_jax.types import Array, Time

VP_PREDICTIONS = ("eps", "v", "x0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VP(Process):
    """The variance-preserving process, t in [0, 1].

    Attributes:
      prediction: `eps`, `v` or `x0`.
      schedule: `linear`, `scaled_linear` or `cosine`.
      steps: N, entries of the table.
      beta_start, beta_end: first and last beta (not used by `cosine`).
      zero_terminal_snr: rescale the table so that t = 1 is pure noise.
      snr_shift: divides the SNR of each entry; above 1 spends more on high noise.
    """

    prediction: str = "v"
    schedule: str = "linear"
    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    zero_terminal_snr: bool = False
    snr_shift: float = 1.0
    times: TimeSampler = dataclasses.field(default_factory=Uniform)
    weighting: Weighting = dataclasses.field(default_factory=UniformWeighting)

    def __post_init__(self):
        if self.prediction not in VP_PREDICTIONS:
            raise ValueError(f"prediction: {did_you_mean(self.prediction, VP_PREDICTIONS)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule: {did_you_mean(self.schedule, SCHEDULES)}")
        if self.steps < 2:
            raise ValueError(f"steps: {self.steps!r} must be at least 2")
        if not 0.0 < self.beta_start <= self.beta_end < 1.0:
            raise ValueError(
                f"beta_start: {self.beta_start!r} and beta_end: {self.beta_end!r} must satisfy 0 < start <= end < 1"
            )
        if not self.snr_shift > 0.0:
            raise ValueError(f"snr_shift: {self.snr_shift!r} must be above 0")
        if self.zero_terminal_snr and self.prediction == "eps":
            raise ValueError(
                "prediction: 'eps' says nothing about x0 at zero terminal SNR; use 'v' or 'x0' (arXiv 2305.08891)"
            )

    @property
    def t_max(self) -> float:
        return 1.0

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """(alpha, sigma), each `[N + 1]` float64; entry 0 is clean."""
        return alpha_sigma_table(
            self.schedule, self.steps, self.beta_start, self.beta_end, self.zero_terminal_snr, self.snr_shift
        )

    def alpha_sigma(self, t: Time) -> tuple[Array, Array]:
        return interpolate_level(*self.table(), t)

    def output_line(self, alpha: Array, sigma: Array) -> Line:
        return line(self.prediction, alpha, sigma)

    def network_time(self, t: Time) -> Array:
        return jnp.maximum(t * self.steps - 1.0, 0.0)

    def time_from_unit(self, u: Array) -> Time:
        return (1.0 + u * (self.steps - 1)) / self.steps

    def time_from_log_ratio(self, z: Array) -> Time:
        alpha, sigma = (table[1:] for table in self.table())
        log_ratio = np.log(sigma) - np.log(np.maximum(alpha, 1e-12))
        grid = np.arange(1, self.steps + 1) / self.steps
        return jnp.interp(z, jnp.asarray(log_ratio, jnp.float32), jnp.asarray(grid, jnp.float32))

    def levels(self, steps: int) -> np.ndarray:
        """Evenly spaced entries of the table, the last one included ("trailing", arXiv 2305.08891)."""
        check_steps(steps)
        if steps > self.steps:
            raise ValueError(f"steps: {steps} sampling steps, but the table has only {self.steps} entries")
        entries = np.round(np.linspace(self.steps, 0, steps + 1))
        return (entries / self.steps).astype(np.float32)
