"""Beliefs kept within the range of the data, for models of pixels.

ClipRange         x0_hat -> min(max(x0_hat, -r), r)                                   (DDPM, arXiv 2006.11239)
DynamicThreshold  r = quantile_q |x0_hat| of each example, kept in [1, r_max]; x0_hat -> clip(x0_hat, r) / r
                  (Imagen, arXiv 2205.11487, section 2.3)
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from vdm_jax.types import Array, Clip


class Bound(Protocol):
    """What keeps a belief within bounds: `bound(x0_hat) -> x0_hat`, leaf by leaf."""

    def __call__(self, x0_hat: Clip) -> Clip:
        """The belief within its bounds."""


@dataclasses.dataclass(frozen=True)
class ClipRange:
    """Elementwise.

    Attributes:
      limit: r.
    """

    limit: float = 1.0

    def __post_init__(self):
        _check_positive("limit", self.limit)

    def __call__(self, x0_hat: Clip) -> Clip:
        return jax.tree.map(lambda leaf: jnp.clip(leaf, -self.limit, self.limit), x0_hat)


@dataclasses.dataclass(frozen=True)
class DynamicThreshold:
    """By a quantile of each example.

    Attributes:
      quantile: q in (0, 1].
      limit: r_max.
    """

    quantile: float = 0.995
    limit: float = 1.0

    def __post_init__(self):
        _check_positive("limit", self.limit)
        if not 0.0 < self.quantile <= 1.0:
            raise ValueError(f"quantile: {self.quantile!r} must be above 0 and at most 1")

    def __call__(self, x0_hat: Clip) -> Clip:
        return jax.tree.map(self._leaf, x0_hat)

    def _leaf(self, leaf: Array) -> Array:
        axes = tuple(range(1, leaf.ndim))
        reach = jnp.quantile(jnp.abs(leaf), self.quantile, axis=axes, keepdims=True)
        reach = jnp.minimum(jnp.maximum(reach, 1.0), self.limit)
        return jnp.clip(leaf, -reach, reach) / reach


def _check_positive(name: str, value: float) -> None:
    if not value > 0.0:
        raise ValueError(f"{name}: {value!r} must be above 0")
