"""Attention: policies (what is seen) x kernels (how) x partitions (where), behind `attend`."""

from vdm_jax.attention.dispatch import KERNELS, attend, check_kernel
from vdm_jax.attention.policy import CAUSAL, FULL, Policy

__all__ = ["CAUSAL", "FULL", "KERNELS", "Policy", "attend", "check_kernel"]
