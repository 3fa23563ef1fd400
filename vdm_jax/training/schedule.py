"""Learning rate as a function of the training step.

With peak p, warm-up w, total steps N, final fraction f, all reached linearly from p/w at step 0:

    constant   p
    cosine     p (f + (1 - f) (1 + cos(pi (n - w) / (N - w))) / 2)       one period of arXiv:1608.03983
    wsd        p, then in the last `decay_fraction` of N linearly to f p   warm-up, stable, decay: arXiv:2404.06395

The step is the training step, not the optimiser's own count: a skipped update does not shift the schedule, and a
resumed run cannot restart it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Schedule = Callable[[jax.Array], jax.Array]

SCHEDULES = ("constant", "cosine", "wsd")


def warmup(step: jax.Array, steps: int) -> jax.Array:
    """`(step + 1) / steps`, at most 1; the first update is not wasted on a rate of zero."""
    return jnp.minimum(1.0, (step + 1.0) / max(steps, 1))


def make_schedule(
    kind: str, peak: float, warmup_steps: int, steps: int, final: float, decay_fraction: float
) -> Schedule:
    """Builds `step -> learning rate` (float32 scalar).

    Args:
      kind: one of `SCHEDULES`.
      peak: highest rate.
      warmup_steps: length of the warm-up.
      steps: length of the run; after it the last value holds.
      final: last rate as a fraction of the peak (`cosine`, `wsd`).
      decay_fraction: part of the run in which `wsd` comes down.
    """
    assert kind in SCHEDULES, kind
    decay_steps = steps - warmup_steps if kind == "cosine" else round(steps * decay_fraction)

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        left = jnp.clip((steps - step) / max(decay_steps, 1), 0.0, 1.0)  # 1 before the decay, 0 at the end
        shape = {"constant": 1.0, "cosine": (1 - jnp.cos(jnp.pi * left)) / 2, "wsd": left}[kind]
        return peak * warmup(step, warmup_steps) * (final + (1 - final) * shape)

    return schedule
