"""Exponential moving averages of the weights, several at once.

    ema <- ema + (1 - d_n) (w - ema)          d_n = min(d, (1 + n) / (10 + n)) with warm-up, else d

n counts finished steps.  Early weights are far from good, and d = 0.9999 would keep the random start for tens of
thousands of steps; the warm-up forgets it.  Averages are float32 whatever the compute dtype, cover only weights
that train, and live outside the optimiser, so that they can be sampled, evaluated and exported alone.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class EMAConfig:
    """Which averages to keep.

    Attributes:
      decays: one average each; empty keeps none.
      warmup: whether the decay starts low.
    """

    decays: tuple[float, ...] = (0.999,)
    warmup: bool = True

    def __post_init__(self):
        for decay in self.decays:
            if not 0 < decay < 1:
                raise ValueError(f"decays: {decay!r} must be between 0 and 1")
        if len({ema_name(decay) for decay in self.decays}) < len(self.decays):
            raise ValueError(f"decays: {list(self.decays)} holds one value twice")


def ema_name(decay: float) -> str:
    """Its key in `TrainState.ema`: `0.999 -> '0.999'`."""
    return repr(float(decay))


def decay_at(decay: float, step: jax.Array, warmup: bool) -> jax.Array:
    """d_n for the step about to finish (`step` counts from 0), float32."""
    n = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + n) / (10 + n)) if warmup else jnp.float32(decay)


def update_emas(config: EMAConfig, emas: Mapping[str, Any], params: Any, step: jax.Array) -> dict[str, Any]:
    """All averages after a step.

    Args:
      config: decays and warm-up.
      emas: `{ema_name(decay): pytree}`.
      params: pytree like each average.
      step: index of the step that made `params`.
    """
    new = {}
    for decay in config.decays:
        rate = 1.0 - decay_at(decay, step, config.warmup)
        new[ema_name(decay)] = jax.tree.map(
            lambda e, p: e + rate * (p.astype(e.dtype) - e),  # noqa: B023 (used at once)
            emas[ema_name(decay)],
            params,
        )
    return new
