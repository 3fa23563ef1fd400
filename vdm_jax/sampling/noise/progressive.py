"""Noise in which each frame's leans on the one before (PYoCo, arXiv 2305.10474; ViD-GPT, arXiv 2406.10981).

    eps_0 = xi_0,     eps_f = a / sqrt(1 + a^2) eps_{f-1} + 1 / sqrt(1 + a^2) xi_f,     xi standard normal

Every frame is standard normal by itself, and two frames that are d apart correlate by (a / sqrt(1 + a^2))^d.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax.diffusion.leaves import noise_like
from vdm_jax.types import Array, Clip


@dataclasses.dataclass(frozen=True)
class Progressive:
    """See the top of this file.

    Attributes:
      alpha: a; 0 is plain noise, bit for bit.

    Raises:
      ValueError: names the field and what is allowed.
    """

    alpha: float = 1.0

    variance = 1.0
    reads = frozenset()

    def __post_init__(self):
        if not 0.0 <= self.alpha < math.inf:
            raise ValueError(f"alpha: {self.alpha!r} must be 0 or more, and finite")

    @property
    def correlation(self) -> float:
        """Of neighbouring frames."""
        return self.alpha / math.sqrt(1.0 + self.alpha**2)

    def __call__(self, rng: Array, like: Clip, given: Mapping[str, Any]) -> Clip:
        """See `NoiseSource`."""
        old, new = self.correlation, math.sqrt(1.0 - self.correlation**2)

        def leaned(draws: Array) -> Array:
            def step(before: Array, draw: Array) -> tuple[Array, Array]:
                after = old * before + new * draw
                return after, after

            return jnp.concatenate([draws[:1], jax.lax.scan(step, draws[0], draws[1:])[1]])

        return jax.tree.map(leaned, noise_like(rng, like))
