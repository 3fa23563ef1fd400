"""Attention: policies (what is seen) x kernels (how) x partitions (where), behind `attend`."""

from vdm_jax.attention.cache import KVCache
from vdm_jax.attention.choice import KERNELS, check_kernel, choose_kernel
from vdm_jax.attention.dispatch import attend
from vdm_jax.attention.partition import PARTITIONS, check_degree, check_partition, choose_partition
from vdm_jax.attention.policy import CAUSAL, FULL, Policy

__all__ = [
    "CAUSAL",
    "FULL",
    "KERNELS",
    "PARTITIONS",
    "KVCache",
    "Policy",
    "attend",
    "check_degree",
    "check_kernel",
    "check_partition",
    "choose_kernel",
    "choose_partition",
]
