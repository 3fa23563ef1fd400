"""A fixed number of tokens out of many: queries that read features (Perceiver 2103.03206, as in IP-Adapter 2308.06721).

x = enter(features);   z = queries
z += Attention(q = norm(z), k v = [norm(x), norm(z)]);   z += MLP(norm(z))         depth times
out = norm(leave(z))
"""

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.attention import attend
from vdm_jax.nn.linear import Linear, param
from vdm_jax.nn.mlp import MLP
from vdm_jax.nn.norms import LayerNorm
from vdm_jax.nn.stack import run_stack, stack

Array = jax.Array
EPS = 1e-5


class ReadingBlock(nnx.Module):
    """Queries `[B, n, D]` read `[B, L, D]` and themselves."""

    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs):
        self.norm_features, self.norm = LayerNorm(dim, eps=EPS, rngs=rngs), LayerNorm(dim, eps=EPS, rngs=rngs)
        axes = ("embed", "heads", None, "head_dim")
        self.q = Linear(dim, (heads, dim // heads), axes=("embed", "heads", "head_dim"), bias=False, rngs=rngs)
        self.kv = Linear(dim, (heads, 2, dim // heads), axes=axes, bias=False, rngs=rngs)
        self.out = Linear(dim, dim, axes=("heads", "embed"), bias=False, rngs=rngs)
        self.norm_mlp = LayerNorm(dim, eps=EPS, rngs=rngs)
        self.mlp = MLP(dim, 4 * dim, activation="gelu_exact", bias=False, rngs=rngs)

    def __call__(self, z: Array, features: Array) -> Array:
        own = self.norm(z)
        kv = self.kv(jnp.concatenate([self.norm_features(features), own], axis=1))
        z = z + self.out(attend(self.q(own), kv[..., 0, :], kv[..., 1, :]).reshape(z.shape))
        return z + self.mlp(self.norm_mlp(z))


class Resampler(nnx.Module):
    """`[B, L, in_dim] -> [B, tokens, out_dim]`, whatever L is.

    Args:
      in_dim, out_dim: of the features, and of what is given.
      tokens: n, queries.
      dim, heads, depth: of the blocks.
    """

    def __init__(self, in_dim: int, out_dim: int, *, tokens: int, dim: int, heads: int, depth: int, rngs: nnx.Rngs):
        normal = jax.nn.initializers.normal(dim**-0.5)
        self.queries = param(rngs, normal, (tokens, dim), (None, "embed"))
        self.enter = Linear(in_dim, dim, axes=("condition", "embed"), rngs=rngs)
        self.blocks = stack(lambda r: ReadingBlock(dim, heads, rngs=r), depth, rngs)
        self.leave = Linear(dim, out_dim, axes=("embed", "condition"), rngs=rngs)
        self.norm = LayerNorm(out_dim, eps=EPS, rngs=rngs)

    def __call__(self, features: Array) -> Array:
        x = self.enter(features)
        z = jnp.broadcast_to(self.queries[...].astype(x.dtype), (len(x), *self.queries.shape))
        return self.norm(self.leave(run_stack(self.blocks, z, lambda block, z: block(z, x))))
