"""The spatio-temporal UNet: one trunk, several temporal units, and what is grafted on it."""

from vdm_jax.models.unet.config import UNetConfig
from vdm_jax.models.unet.trunk import UNet

__all__ = ["UNet", "UNetConfig"]
