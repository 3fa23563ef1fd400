"""The spatial transformer (2112.10752), and the block that all transformers of the UNet are made of.

x: [B, G, N, C], G groups of N tokens: frames of pixels, or pixels of frames
x += SelfAttention(norm(x));  x += CrossAttention(norm(x), text) or SelfAttention again;  x += GEGLU MLP(norm(x))
"""

import dataclasses

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from vdm_jax.attention import FULL
from vdm_jax.nn.attention import CrossAttention, SelfAttention
from vdm_jax.nn.mlp import MLP
from vdm_jax.nn.norms import LayerNorm

Array = jax.Array
LAYER_EPS = 1e-5
GROUP_EPS = 1e-6  # of the norm in front of every transformer


@dataclasses.dataclass(frozen=True)
class Context:
    """What every layer of one forward pass sees.

    Attributes:
      time: [B, T, E], the time embedding after SiLU.
      text: [B, L, D], or per frame [B, T, L, D].
      text_mask: [B, L] or [B, T, L] bool; None: all of it.
      image_only: [B, T] bool, frames that layers over time leave as they are; None: none.
    """

    time: Array
    text: Array
    text_mask: Array | None
    image_only: Array | None = None


class Block(nnx.Module):
    """See the module docstring.  `text_dim` 0 is two self-attentions."""

    def __init__(self, dim: int, heads: int, *, text_dim: int, kernel: str, rngs: nnx.Rngs):
        options = {"qkv_bias": False, "kernel": kernel, "rngs": rngs}
        self.norm1 = LayerNorm(dim, eps=LAYER_EPS, rngs=rngs)
        self.attention = SelfAttention(dim, heads, **options)
        self.norm2 = LayerNorm(dim, eps=LAYER_EPS, rngs=rngs)
        if text_dim:
            self.second = CrossAttention(dim, heads, context_dim=text_dim, **options)
        else:
            self.second = SelfAttention(dim, heads, **options)
        self.norm3 = LayerNorm(dim, eps=LAYER_EPS, rngs=rngs)
        self.mlp = MLP(dim, 4 * dim, activation="geglu", rngs=rngs)

    def __call__(
        self,
        x: Array,
        text: Array | None = None,
        mask: Array | None = None,
        *,
        positions: Array | None = None,
        partition: str = "auto",
    ) -> Array:
        """Args:
        x: `[B, G, N, C]`.
        text, mask: `[B, L, D]` or `[B, G, L, D]`, and without D; for blocks with `text_dim`.
        positions: `[N, C]`, added to what each attention reads.
        partition: see `attend`.
        """
        x = self.attend_twice(x, text, mask, positions=positions, partition=partition)
        return x + checkpoint_name(self.mlp(self.norm3(x)), "mlp_hidden")

    def attend_twice(
        self,
        x: Array,
        text: Array | None = None,
        mask: Array | None = None,
        *,
        positions: Array | None = None,
        partition: str = "auto",
    ) -> Array:
        """The two attentions with what they are added to; arguments as above."""
        where = {"tokens": "GN", "partition": partition}
        h = checkpoint_name(_placed(self.norm1(x), positions), "attention_in")
        x = x + self.attention(h, FULL, **where)
        h = _placed(self.norm2(x), positions)
        if isinstance(self.second, CrossAttention):
            return x + self.second(h, text, mask, partition=partition)
        return x + self.second(h, FULL, **where)


def _placed(x: Array, positions: Array | None) -> Array:
    return x if positions is None else x + positions.astype(x.dtype)
