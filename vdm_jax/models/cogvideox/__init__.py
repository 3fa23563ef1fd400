"""CogVideoX: text and clip in one sequence, two kinds of positions, image-to-video."""

from vdm_jax.models.cogvideox.config import CogVideoXConfig
from vdm_jax.models.cogvideox.model import CogVideoX

__all__ = ["CogVideoX", "CogVideoXConfig"]
