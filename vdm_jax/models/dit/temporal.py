"""Attention over time by itself: what stands in front of each spatial block of VDT (arXiv 2305.13311).

    x += W attention(norm(x))        over the T frames of each patch

It hears nothing of the noise level.  W starts at zero here, so that on top of an image model it is the identity; VDT
draws it.
"""

import jax
from flax import nnx

from vdm_jax.attention import Policy
from vdm_jax.models.dit.config import DiTConfig
from vdm_jax.nn.attention import SelfAttention
from vdm_jax.nn.linear import Linear
from vdm_jax.nn.norms import LayerNorm

Array = jax.Array


class TemporalAttention(nnx.Module):
    """See the top of this file."""

    def __init__(self, cfg: DiTConfig, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(cfg.dim, rngs=rngs)
        self.attention = SelfAttention(cfg.dim, cfg.heads, qk_norm=cfg.qk_norm, kernel=cfg.kernel, rngs=rngs)
        self.merge = Linear(cfg.dim, cfg.dim, axes=("heads", "embed"), init=jax.nn.initializers.zeros, rngs=rngs)

    def __call__(self, x: Array, policy: Policy, rotary: Array | None) -> Array:
        """`[B, T, S, D]`; the policy and the positions are those of time."""
        tubes = self.norm(x).swapaxes(1, 2)
        tubes = self.attention(tubes, policy, rotary, tokens="GN", partition="groups")
        return x + self.merge(tubes.swapaxes(1, 2))
