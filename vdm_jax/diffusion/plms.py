"""PLMS: the pseudo linear multistep method (PNDM, arXiv 2202.09778), without its Runge-Kutta start.

    x_s = alpha_s / alpha_t x_t + (sigma_s - alpha_s sigma_t / alpha_t) e        a step of DDIM with e for eps_hat

e is what Adams and Bashforth extrapolate from the last eps_hat, newest first, of which there are up to four:

    (3, -1) / 2,    (23, -16, 5) / 12,    (55, -59, 37, -9) / 24

The first step has none and is Heun's: e is the mean of eps_hat at both its ends.  Needs alpha > 0.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion.leaves import map_frames, select_frames
from vdm_jax.diffusion.multistep import History, empty_history, real, remember
from vdm_jax.diffusion.process import Process
from vdm_jax.types import Clip, Time

_DEPTH = 3  # remembered beside the newest
_WEIGHTS = np.array(
    [[1, 0, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0], [55 / 24, -59 / 24, 37 / 24, -9 / 24]],
    np.float32,
)


@dataclasses.dataclass(frozen=True)
class PLMS:
    """See above; levels are taken to be evenly spaced, as published.

    Attributes:
      euler_to: a first step that arrives at this level or below is Euler's.
    """

    euler_to: float = 0.0

    @property
    def stochastic(self) -> bool:
        return False

    def init(self, x: Clip) -> History:
        return empty_history(x, depth=_DEPTH)

    def step(self, denoise, process, x, t, s, state, noise):
        x0_hat = denoise(x, t)
        eps = process.noise_belief(x0_hat, x, t)
        known = real(state, t)
        weights = jnp.moveaxis(jnp.asarray(_WEIGHTS)[known], -1, 0)
        mean = map_frames(lambda *e: sum(w * clip for w, clip in zip(e[4:], e)), (eps, *state.x0), tuple(weights))
        guess = select_frames(t == s, x, _move(process, x, mean, t, s))
        first = (known == 0) & (t != s) & (s > self.euler_to)

        def corrected():
            ahead = process.noise_belief(denoise(guess, s), guess, s)
            both = jax.tree.map(lambda a, b: 0.5 * (a + b), eps, ahead)
            return select_frames(first, _move(process, x, both, t, s), guess)

        x_s = jax.lax.cond(jnp.any(first), corrected, lambda: guess)
        return x_s, x0_hat, remember(state, eps, t, s)


def _move(process: Process, x: Clip, eps: Clip, t: Time, s: Time) -> Clip:
    (alpha_t, sigma_t), (alpha_s, sigma_s) = process.alpha_sigma(t), process.alpha_sigma(s)
    keep = alpha_s / alpha_t
    return map_frames(lambda x, e, k, c: k * x + c * e, (x, eps), (keep, sigma_s - keep * sigma_t))
