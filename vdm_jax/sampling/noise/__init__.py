"""Noise sources; each says its marginal variance."""

from vdm_jax.sampling.noise.source import INDEPENDENT, Independent, NoiseSource, draw

__all__ = ["INDEPENDENT", "Independent", "NoiseSource", "draw"]
