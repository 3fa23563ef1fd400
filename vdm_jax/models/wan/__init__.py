"""The Wan transformers (2503.20314)."""

from vdm_jax.models.wan.config import WanConfig
from vdm_jax.models.wan.model import Wan

__all__ = ["Wan", "WanConfig"]
