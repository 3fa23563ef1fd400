"""Clips to latents and back, with the published autoencoders.

`encode(clip) -> Posterior`, `decode(latents) -> clip`; what fits is `config.grid`, the scale of a diffusion model's
latents `config.scale`.  `chunks` has clips of any length, `tiling` large pictures.
"""

from vdm_jax.models.autoencoders.chunks import in_chunks, stream
from vdm_jax.models.autoencoders.cogvideox import AutoencoderKLCogVideoX, CogVideoXConfig
from vdm_jax.models.autoencoders.grid import Grid
from vdm_jax.models.autoencoders.kl import AutoencoderKL, KLConfig
from vdm_jax.models.autoencoders.latents import Posterior, Scale
from vdm_jax.models.autoencoders.temporal_decoder import AutoencoderKLTemporalDecoder, TemporalDecoderConfig
from vdm_jax.models.autoencoders.wan import AutoencoderKLWan, WanConfig

__all__ = [
    "AutoencoderKL",
    "AutoencoderKLCogVideoX",
    "AutoencoderKLTemporalDecoder",
    "AutoencoderKLWan",
    "CogVideoXConfig",
    "Grid",
    "KLConfig",
    "Posterior",
    "Scale",
    "TemporalDecoderConfig",
    "WanConfig",
    "in_chunks",
    "stream",
]
