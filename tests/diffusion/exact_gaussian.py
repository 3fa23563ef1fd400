"""The one problem whose answer is known at every level: Gaussian data, and its exact denoiser and flow.

x0 ~ N(MEAN, STD^2) independently per element, so x_t ~ N(alpha MEAN, alpha^2 STD^2 + sigma^2) and the
probability-flow ODE keeps the standardised position of x_t.
"""

import jax.numpy as jnp

from vdm_jax.diffusion.leaves import map_frames

MEAN, STD = 0.7, 0.5


def denoise(process, x, t):
    """E[x0 | x_t]."""
    level = process.alpha_sigma(t)

    def mean(x, alpha, sigma):
        return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)

    return map_frames(mean, (x,), level)


def flow(process, x, t, s):
    """Where the probability-flow ODE takes x from level t to level s."""
    levels = (*process.alpha_sigma(t), *process.alpha_sigma(s))

    def carry(x, alpha_t, sigma_t, alpha_s, sigma_s):
        ratio = jnp.sqrt((alpha_s**2 * STD**2 + sigma_s**2) / (alpha_t**2 * STD**2 + sigma_t**2))
        return alpha_s * MEAN + ratio * (x - alpha_t * MEAN)

    return map_frames(carry, (x,), levels)
