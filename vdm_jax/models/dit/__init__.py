"""The project's own spatio-temporal DiT: factorised or full attention, per-frame time."""

from vdm_jax.models.dit.config import DiTConfig
from vdm_jax.models.dit.model import DiT

__all__ = ["DiT", "DiTConfig"]
