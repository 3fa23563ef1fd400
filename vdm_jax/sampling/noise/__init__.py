"""Noise sources; each says its marginal variance."""

from vdm_jax.sampling.noise.configuration import NOISES, noise_from
from vdm_jax.sampling.noise.progressive import Progressive
from vdm_jax.sampling.noise.rescheduled import Rescheduled
from vdm_jax.sampling.noise.source import INDEPENDENT, Independent, NoiseSource, draw
from vdm_jax.sampling.noise.warped import Precomputed, Warped

__all__ = [
    "INDEPENDENT",
    "NOISES",
    "Independent",
    "NoiseSource",
    "Precomputed",
    "Progressive",
    "Rescheduled",
    "Warped",
    "draw",
    "noise_from",
]
