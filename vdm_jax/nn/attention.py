"""Multi-head self- and cross-attention layers over `attention.attend`.

Fused projections keep heads as the leading output dim (`[in, heads, 3, head_dim]`), so that cutting heads over the
tensor axis also cuts the flattened matrix and nothing has to move.
"""

import jax
from flax import nnx

from vdm_jax.attention import Policy, attend
from vdm_jax.nn.linear import Initializer, Linear
from vdm_jax.nn.norms import RMSNorm
from vdm_jax.nn.rotary import rotate

Array = jax.Array


class QKNorm(nnx.Module):
    """RMS norm of queries and keys `[G, N, H, c]`: over each `head`, over `all` heads, or `none`."""

    def __init__(self, kind: str, heads: int, head_dim: int, *, rngs: nnx.Rngs):
        shape = {"none": None, "head": (head_dim,), "all": (heads, head_dim)}[kind]
        self.q = RMSNorm(shape, rngs=rngs) if shape else None
        self.k = RMSNorm(shape, rngs=rngs) if shape else None

    def __call__(self, q: Array, k: Array) -> tuple[Array, Array]:
        return (q, k) if self.q is None else (self.q(q), self.k(k))


class SelfAttention(nnx.Module):
    """`[G, N, D] -> [G, N, D]` over whatever N is: a clip, a frame, a tube, a sentence."""

    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs, qk_norm: str = "none", kernel: str = "auto"):
        head_dim = dim // heads
        self.kernel = kernel
        self.qkv = Linear(dim, (heads, 3, head_dim), axes=("embed", "heads", None, "head_dim"), rngs=rngs)
        self.out = Linear(dim, dim, axes=("heads", "embed"), rngs=rngs)
        self.norm = QKNorm(qk_norm, heads, head_dim, rngs=rngs)

    def __call__(self, x: Array, policy: Policy, rotary: Array | None = None) -> Array:
        qkv = self.qkv(x)  # [G, N, H, 3, c]
        q, k = self.norm(qkv[..., 0, :], qkv[..., 1, :])
        q, k, v = (y.swapaxes(1, 2) for y in (q, k, qkv[..., 2, :]))  # [G, H, N, c]
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        out = attend(q, k, v, policy=policy, kernel=self.kernel, layout="BHND")
        return self.out(out.swapaxes(1, 2).reshape(x.shape))


class CrossAttention(nnx.Module):
    """Queries from `x [G, N, D]`, keys and values from `context [G, L, D]` -> `[G, N, D]`."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        rngs: nnx.Rngs,
        qk_norm: str = "none",
        kernel: str = "auto",
        out_init: Initializer | None = None,
    ):
        head_dim = dim // heads
        self.kernel = kernel
        self.q = Linear(dim, (heads, head_dim), axes=("embed", "heads", "head_dim"), rngs=rngs)
        self.kv = Linear(dim, (heads, 2, head_dim), axes=("embed", "heads", None, "head_dim"), rngs=rngs)
        self.out = Linear(dim, dim, axes=("heads", "embed"), init=out_init, rngs=rngs)
        self.norm = QKNorm(qk_norm, heads, head_dim, rngs=rngs)

    def __call__(self, x: Array, context: Array, context_mask: Array | None = None) -> Array:
        kv = self.kv(context)
        q, k = self.norm(self.q(x), kv[..., 0, :])
        out = attend(q, k, kv[..., 1, :], policy=Policy(key_mask=context_mask), kernel=self.kernel)
        return self.out(out.reshape(x.shape))
