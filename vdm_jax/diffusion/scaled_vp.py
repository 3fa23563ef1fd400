"""VP whose signal is scaled down where there is much noise, as VideoCrafter2 (2401.09047) was trained.

    x_t = s(t) alpha x0 + sigma eps      alpha^2 + sigma^2 = 1

s falls in a straight line from 1 at the first entry of the table to `signal` at entry `ramp`, and stays there.  Reverse
steps keep and add the noise that they would at s = 1, as the published sampler does; at eta = 0 that is no difference.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion.vp import VP
from vdm_jax.types import Array, Time


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledVP(VP):
    """VP with a scaled signal; its network predicts eps.

    Attributes:
      signal: s at high noise, above 0 to 1.
      ramp: entries of the table over which s falls.

    Raises:
      ValueError: names the field and what is allowed.
    """

    prediction: str = "eps"
    signal: float = 0.7
    ramp: int = 400

    def __post_init__(self):
        super().__post_init__()
        if self.prediction != "eps":
            raise ValueError(f"prediction: {self.prediction!r} is not what a scaled signal is known with, 'eps'")
        if not 0.0 < self.signal <= 1.0:
            raise ValueError(f"signal: {self.signal!r} must be above 0 and at most 1")
        if not 2 <= self.ramp <= self.steps:
            raise ValueError(f"ramp: {self.ramp!r} must be 2 to steps={self.steps}")

    @property
    def unscaled(self) -> VP:
        """The same process at s = 1."""
        return VP(**{field.name: getattr(self, field.name) for field in dataclasses.fields(VP)})

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """See `VP.table`."""
        alpha, sigma = super().table()
        entries = np.maximum(np.arange(self.steps + 1) - 1, 0)
        return alpha * np.interp(entries, [0, self.ramp - 1], [1.0, self.signal]), sigma

    def alpha_sigma(self, t: Time) -> tuple[Array, Array]:
        alpha, sigma = self.unscaled.alpha_sigma(t)
        ends = jnp.float32([0, self.ramp - 1]), jnp.float32([1.0, self.signal])
        return alpha * jnp.interp(self.network_time(t), *ends), sigma

    def step_coefficients(self, t: Time, s: Time, eta: float = 0.0) -> tuple[Array, Array]:
        keep, _ = self.unscaled.step_coefficients(t, s, eta)
        return keep, self.alpha_sigma(s)[0] - keep * self.alpha_sigma(t)[0]

    def posterior_std(self, t: Time, s: Time) -> Array:
        return self.unscaled.posterior_std(t, s)
