"""Which noise levels training sees: a distribution of levels, and how the frames of one clip share it.

Distribution (one dataclass each):
  Uniform      u ~ U(0, 1)
  LogitNormal  logit(u) ~ N(mean, std^2)                            (SD3, arXiv 2403.03206)
  LogNormal    ln(sigma / alpha) ~ N(mean, std^2)                   (EDM, arXiv 2206.00364)
The first two draw a point of the process's own unit range (`Process.time_from_unit`, where a shift is applied);
LogNormal states the noise level itself (`Process.time_from_log_ratio`).

Frames (`independent`, the probability p that a clip draws one level per frame; arXiv 2410.03160):
  0.0  all frames of a clip share one level: ordinary training
  1.0  each frame draws its own (Diffusion Forcing, arXiv 2407.01392)
  p    a mixture; FVDM uses 0.2.  Drawn per clip, where the reference code draws once per batch.

Stratified: the B draws of a batch fall one into each of B equal parts of the distribution, in random order.
Every single draw keeps its distribution, the loss of a batch loses most of the variance that comes from times.
"""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from vdm_jax.types import Array

_EDGE = 1e-6  # quantiles of a normal at 0 and 1 are infinite


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeSampler(abc.ABC):
    """Base of the distributions.

    Attributes:
      independent: probability in [0, 1] that a clip draws one level per frame.
      stratified: spread the draws of a batch evenly over the distribution.
    """

    scale: ClassVar[str]  # "unit" or "log_ratio": what the numbers mean to the process

    independent: float = 0.0
    stratified: bool = True

    def __post_init__(self):
        if not 0.0 <= self.independent <= 1.0:
            raise ValueError(f"independent: {self.independent!r} is not a probability, allowed: 0 to 1")

    @abc.abstractmethod
    def quantile(self, u: Array) -> Array:
        """Maps uniform draws to the distribution, elementwise."""

    def sample(self, rng: Array, batch: int, frames: int) -> Array:
        """Draws `[B, T]` float32 in this sampler's scale."""
        shared_key, own_key, choice_key = jax.random.split(rng, 3)
        u = jnp.broadcast_to(self._uniform(shared_key, batch, 1), (batch, frames))
        if self.independent > 0.0:
            own = self._uniform(own_key, batch, frames)
            use_own = jax.random.bernoulli(choice_key, self.independent, (batch, 1))
            u = jnp.where(use_own, own, u)
        return self.quantile(u)

    def _uniform(self, rng: Array, batch: int, columns: int) -> Array:
        """`[B, columns]` in [0, 1); stratified along B within each column, columns independent of each other."""
        place_key, order_key = jax.random.split(rng)
        u = jax.random.uniform(place_key, (batch, columns))
        if not self.stratified:
            return u
        ranks = jnp.broadcast_to(jnp.arange(batch, dtype=jnp.float32)[:, None], (batch, columns))
        ranks = jax.random.permutation(order_key, ranks, axis=0, independent=True)
        return (ranks + u) / batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform(TimeSampler):
    """Levels uniform over the process's unit range."""

    scale: ClassVar[str] = "unit"

    def quantile(self, u: Array) -> Array:
        return u


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitNormal(TimeSampler):
    """`logit(u) ~ N(mean, std^2)`: most draws in the middle of the range (arXiv 2403.03206)."""

    scale: ClassVar[str] = "unit"

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        _check_std(self.std)

    def quantile(self, u: Array) -> Array:
        return jax.nn.sigmoid(_normal_quantile(u, self.mean, self.std))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogNormal(TimeSampler):
    """`ln(sigma / alpha) ~ N(mean, std^2)` (arXiv 2206.00364, table 1: mean -1.2, std 1.2)."""

    scale: ClassVar[str] = "log_ratio"

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self):
        super().__post_init__()
        _check_std(self.std)

    def quantile(self, u: Array) -> Array:
        return _normal_quantile(u, self.mean, self.std)


TIME_SAMPLERS: dict[str, type[TimeSampler]] = {
    "uniform": Uniform,
    "logit_normal": LogitNormal,
    "log_normal": LogNormal,
}


def _normal_quantile(u: Array, mean: float, std: float) -> Array:
    return mean + std * ndtri(jnp.clip(u, _EDGE, 1.0 - _EDGE))


def _check_std(std: float) -> None:
    if not std > 0.0:
        raise ValueError(f"std: {std!r} must be above 0")
