"""How much an error counts at each level.

A weighting is one function of the level and the *space* in which the squared error is measured; the process
converts it to the space its network predicts in (`Process.weight`), with the factors of `predictions.py`:

    w(t) |y_space - y_hat_space|^2  =  w(t) (det_space / det_output)^2  |output - target|^2

so that "min-SNR" or "velocity loss" is the same objective whether the network predicts x0, eps, v or velocity.

  Uniform  1 in a space of your choice; `output` means plain MSE on whatever the network predicts
  MinSNR   min(SNR, gamma) on the x0 error                                            (arXiv 2303.09556)
  Sigmoid  sigmoid(bias - log SNR) on the eps error            (arXiv 2303.00848; SiD2, arXiv 2410.19324)
  EDM      (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 on the x0 error, sigma = sigma_t / alpha_t  (2206.00364)

with SNR = alpha^2 / sigma^2.  A weighting multiplies errors at the times that are drawn: the factor
-d(log SNR)/dt, which 2303.00848 pulls out of the integral, belongs to the time sampler here.

`clip` bounds the converted weight.  Its default 400 = 1 / 0.05^2 is that of JiT (arXiv 2511.13720), whose network
predicts x0 under a velocity loss: 1 / max(t, 0.05)^2.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp

from vdm_jax.diffusion.predictions import PREDICTIONS
from vdm_jax.errors import did_you_mean
from vdm_jax.types import Array

SPACES = (*PREDICTIONS, "output")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weighting(abc.ABC):
    """Base of the weightings.

    Attributes:
      clip: upper bound of the weight on the network's squared output error.
    """

    clip: float = 400.0

    def __post_init__(self):
        if not self.clip > 0.0:
            raise ValueError(f"clip: {self.clip!r} must be above 0")

    @property
    @abc.abstractmethod
    def stated_in(self) -> str:
        """The space, one of `SPACES`, of the squared error that `weight` multiplies."""

    @abc.abstractmethod
    def weight(self, alpha: Array, sigma: Array) -> Array:
        """The weight at levels with alpha, sigma > 0; elementwise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform(Weighting):
    """Weight 1 in `space`: x0, eps, v, velocity, or output (as predicted)."""

    space: str = "output"

    def __post_init__(self):
        super().__post_init__()
        if self.space not in SPACES:
            raise ValueError(f"space: {did_you_mean(self.space, SPACES)}")

    @property
    def stated_in(self) -> str:
        return self.space

    def weight(self, alpha: Array, sigma: Array) -> Array:
        return jnp.ones_like(sigma)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinSNR(Weighting):
    """`min(SNR, gamma)` on the x0 error (arXiv 2303.09556; gamma 5)."""

    gamma: float = 5.0

    def __post_init__(self):
        super().__post_init__()
        if not self.gamma > 0.0:
            raise ValueError(f"gamma: {self.gamma!r} must be above 0")

    @property
    def stated_in(self) -> str:
        return "x0"

    def weight(self, alpha: Array, sigma: Array) -> Array:
        return jnp.minimum((alpha / sigma) ** 2, self.gamma)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sigmoid(Weighting):
    """`sigmoid(bias - log SNR)` on the eps error (arXiv 2303.00848; a larger bias favours detail)."""

    bias: float = 2.0

    @property
    def stated_in(self) -> str:
        return "eps"

    def weight(self, alpha: Array, sigma: Array) -> Array:
        return jax.nn.sigmoid(self.bias - 2.0 * jnp.log(alpha / sigma))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDMWeighting(Weighting):
    """`1 / c_out^2` on the x0 error: plain MSE on the output of a network under EDM's scaling (arXiv 2206.00364)."""

    sigma_data: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not self.sigma_data > 0.0:
            raise ValueError(f"sigma_data: {self.sigma_data!r} must be above 0")

    @property
    def stated_in(self) -> str:
        return "x0"

    def weight(self, alpha: Array, sigma: Array) -> Array:
        return (alpha / sigma) ** 2 + 1.0 / self.sigma_data**2


WEIGHTINGS: dict[str, type[Weighting]] = {
    "uniform": Uniform,
    "min_snr": MinSNR,
    "sigmoid": Sigmoid,
    "edm": EDMWeighting,
}
