"""Text features to the width of a network, by two layers (PixArt-alpha, 2310.00426)."""

import jax
from flax import nnx

from vdm_jax.nn.linear import Linear

Array = jax.Array


class TextProjection(nnx.Module):
    """Linear - GELU (tanh) - Linear: `[..., text_dim] -> [..., dim]`."""

    def __init__(self, text_dim: int, dim: int, *, rngs: nnx.Rngs):
        self.hidden = Linear(text_dim, dim, axes=("text", "embed"), rngs=rngs)
        self.out = Linear(dim, dim, axes=("condition", "embed_out"), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.out(jax.nn.gelu(self.hidden(x), approximate=True))
