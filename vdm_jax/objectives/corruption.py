"""Conditions that are made worse in training, and the network told how much (conditioning augmentation, 2106.15282).

    c' = c + s n        n ~ N(0, I),  ln s ~ N(mean, std^2) per example;  s becomes a number of the clip

A network that is given a picture trusts it to the last detail, and copies it.  Noise on the picture, of a strength that
the network is told, leaves it to decide what to take over (image-to-video of SVD, arXiv 2311.15127: mean -3, std 0.5,
`augmentation`, and a strength of 0.02 in sampling).  A picture that is copied to all frames has the same noise in all.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from vdm_jax.errors import did_you_mean
from vdm_jax.objectives import Batch
from vdm_jax.types import Array

NOISY = ("concat", "image", "hint", "audio", "tokens")


@dataclasses.dataclass(frozen=True)
class NoisyCondition:
    """Noise on one condition.

    Attributes:
      key: which, one of `NOISY`, as it comes with the batch.
      mean, std: of ln s, s in the unit of the condition.
      told: the entry of `vector` that s stands in, in place of what the batch or the constants say, which is what
        samples are made with; empty: the network is not told.
      shared: one draw of noise for all frames of `concat`, `hint` and `audio`, as of a picture that is copied to them.

    Raises:
      ValueError: a condition that takes no noise, or no distribution.
    """

    key: str = "concat"
    mean: float = -3.0
    std: float = 0.5
    told: str = "augmentation"
    shared: bool = True

    def __post_init__(self):
        if self.key not in NOISY:
            raise ValueError(f"key: {did_you_mean(self.key, NOISY)}")
        if not math.isfinite(self.mean):
            raise ValueError(f"mean: {self.mean!r} must be a number, that of ln s")
        if not 0.0 <= self.std < math.inf:
            raise ValueError(f"std: {self.std!r} must be 0 or more")

    def __call__(self, batch: Batch, keys: Array) -> tuple[Array, Array]:
        """The condition with noise, float32 and in its shape, and s `[B]`.

        Args:
          batch: of training.
          keys: `[B]`, one per example.

        Raises:
          ValueError: the batch has no such condition.
        """
        if self.key not in batch:
            raise ValueError(f"corruption.key: {did_you_mean(self.key, batch)} (what this batch holds)")
        value = jnp.asarray(batch[self.key], jnp.float32)
        per_frame = self.key not in ("image", "tokens")
        shape = (1, *value.shape[2:]) if per_frame and self.shared else value.shape[1:]

        def one(value: Array, key: Array) -> tuple[Array, Array]:
            level_key, noise_key = jax.random.split(key)
            level = jnp.exp(self.mean + self.std * jax.random.normal(level_key))
            return value + level * jax.random.normal(noise_key, shape), level

        return jax.vmap(one)(value, keys)
