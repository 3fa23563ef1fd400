"""Multi-head self- and cross-attention layers over `attention.attend`.

Fused projections keep heads as the leading output dim (`[in, heads, 3, head_dim]`), so that cutting heads over the
tensor axis also cuts the flattened matrix and nothing has to move.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.attention import KVCache, Policy, attend
from vdm_jax.nn.linear import Initializer, Linear
from vdm_jax.nn.norms import RMSNorm
from vdm_jax.nn.rotary import rotate

Array = jax.Array

# What stands between batch and channels -> the layout of queries and keys with heads in front of tokens.
LAYOUTS = {"N": "BHND", "GN": "BGHND", "TS": "BHTSD"}


class QKNorm(nnx.Module):
    """RMS norm of queries and keys `[..., H, c]`: over each `head`, over `all` heads, or `none`."""

    def __init__(self, kind: str, heads: int, head_dim: int, *, rngs: nnx.Rngs):
        shape = {"none": None, "head": (head_dim,), "all": (heads, head_dim)}[kind]
        self.q = RMSNorm(shape, rngs=rngs) if shape else None
        self.k = RMSNorm(shape, rngs=rngs) if shape else None

    def __call__(self, q: Array, k: Array) -> tuple[Array, Array]:
        return (q, k) if self.q is None else (self.q(q), self.k(k))


class SelfAttention(nnx.Module):
    """Attention of tokens to each other, whatever they are: a clip, the frames of a clip, tubes, a sentence.

    Args:
      dim: width of the tokens.
      heads: number of them.
      head_dim: channels of a head; default `dim / heads`.
      qk_norm: see `QKNorm`.
      kernel: see `attend`.
      qkv_bias, out_bias: whether the projections have one.
      scale: of the scores; default `head_dim ** -0.5`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        rngs: nnx.Rngs,
        head_dim: int | None = None,
        qk_norm: str = "none",
        kernel: str = "auto",
        qkv_bias: bool = True,
        out_bias: bool = True,
        scale: float | None = None,
    ):
        head_dim = head_dim or dim // heads
        self.kernel, self.scale = kernel, scale
        axes = ("embed", "heads", None, "head_dim")
        self.qkv = Linear(dim, (heads, 3, head_dim), axes=axes, bias=qkv_bias, rngs=rngs)
        self.out = Linear(heads * head_dim, dim, axes=("heads", "embed"), bias=out_bias, rngs=rngs)
        self.norm = QKNorm(qk_norm, heads, head_dim, rngs=rngs)

    def __call__(
        self,
        x: Array,
        policy: Policy,
        rotary: Array | None = None,
        *,
        tokens: str = "N",
        partition: str = "auto",
        length: int | None = None,
    ) -> Array:
        """Args:
          x: `[B, N, D]` (tokens "N"), `[B, G, N, D]` ("GN": each of G groups by itself) or `[B, T, S, D]` ("TS": one
            sequence of T S tokens).
          policy: what is seen.
          rotary: `[N, 2, c / 2]` or, for "TS", `[T, S, 2, c / 2]`.
          tokens: the dims of x between batch and channels.
          partition, length: see `attend`.

        Returns:
          An array like `x`.
        """
        layout = LAYOUTS[tokens]
        q, k, v = self._project(x, layout)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        where = {"partition": partition, "layout": layout, "length": length}
        out = attend(q, k, v, policy=policy, kernel=self.kernel, scale=self.scale, **where)
        return self._merge(out, x, layout)

    def through_time(
        self, x: Array, cache: KVCache, rotary: Array | None = None, *, keep: bool, causal: bool = True
    ) -> tuple[Array, KVCache]:
        """Attention of tubes to the frames that a cache holds and to their own (Ca2-VDM 2411.16375).

        Keys are kept before they are turned, and turned by their place in the queue when they are read.

        Args:
          x: `[B, S, m, D]`, m frames that follow those of the cache.
          cache: of `[B, H, F, S, c]`.
          rotary: `[F + m or more, 2, c / 2]`, by place in the queue.
          keep: whether the frames are finished: they are appended first (so that the oldest may fall out), and see the
            others causally.  Otherwise the cache stays as it is.
          causal: whether unfinished frames see no later one.

        Returns:
          An array like `x`, and the cache.
        """
        new = x.shape[2]
        q, k, v = self._project(x, LAYOUTS["GN"])  # [B, S, H, m, c]
        k, v = (jnp.moveaxis(y, 1, 3) for y in (k, v))  # [B, H, m, S, c]
        if keep:
            cache = cache.append(k, v)
            k, v, seen = cache.k, cache.v, cache.seen(new, causal=True)
            k_place, q_place = cache.places(), cache.held - new + jnp.arange(new)
        else:
            k, v, seen = cache.beside(k, v, causal=causal)
            q_place = cache.held + jnp.arange(new)
            k_place = jnp.concatenate([cache.places(), q_place])
        k, v = (jnp.moveaxis(y, 3, 1) for y in (k, v))  # [B, S, H, F (+ m), c]
        if rotary is not None:
            q, k = rotate(q, rotary[q_place]), rotate(k, rotary[jnp.maximum(k_place, 0)])
        where = {"partition": "groups", "layout": LAYOUTS["GN"]}
        out = attend(q, k, v, policy=Policy(mask=seen[None, None]), kernel=self.kernel, scale=self.scale, **where)
        return self._merge(out, x, LAYOUTS["GN"]), cache

    def _project(self, x: Array, layout: str) -> tuple[Array, Array, Array]:
        qkv = self.qkv(x)  # [B, ..., H, 3, c]
        q, k = self.norm(qkv[..., 0, :], qkv[..., 1, :])
        return tuple(jnp.moveaxis(y, -2, layout.index("H")) for y in (q, k, qkv[..., 2, :]))

    def _merge(self, out: Array, x: Array, layout: str) -> Array:
        return self.out(jnp.moveaxis(out, layout.index("H"), -2).reshape(*x.shape[:-1], -1))


class CrossAttention(nnx.Module):
    """Attention of tokens to others, a prompt for example."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        rngs: nnx.Rngs,
        qk_norm: str = "none",
        kernel: str = "auto",
        out_init: Initializer | None = None,
        context_dim: int | None = None,
        qkv_bias: bool = True,
    ):
        head_dim, context_dim = dim // heads, context_dim or dim
        self.kernel = kernel
        axes = ("embed", "heads", "head_dim")
        self.q = Linear(dim, (heads, head_dim), axes=axes, bias=qkv_bias, rngs=rngs)
        axes = ("condition", "heads", None, "head_dim")
        self.kv = Linear(context_dim, (heads, 2, head_dim), axes=axes, bias=qkv_bias, rngs=rngs)
        self.out = Linear(dim, dim, axes=("heads", "embed"), init=out_init, rngs=rngs)
        self.norm = QKNorm(qk_norm, heads, head_dim, rngs=rngs)

    def __call__(
        self, x: Array, context: Array, context_mask: Array | None = None, *, partition: str = "auto"
    ) -> Array:
        """Args:
          x: `[B, N, D]` or, in G groups, `[B, G, N, D]`.
          context: `[B, L, E]`, read by all groups, or `[B, G, L, E]`; E is `context_dim`, by default D.
          context_mask: `[B, L]` or `[B, G, L]` bool, True where there is something to read.
          partition: see `attend`.

        Returns:
          An array like `x`.
        """
        kv = self.kv(context)  # [B, (G,) L, H, 2, c]
        q, k = self.norm(self.q(x), kv[..., 0, :])
        v, layout = kv[..., 1, :], "BNHD" if x.ndim == 3 else "BGNHD"
        if context.ndim < x.ndim:
            k, v = k[:, None], v[:, None]
        mask = None if context_mask is None else context_mask.reshape(-1, context_mask.shape[-1])
        out = attend(q, k, v, policy=Policy(key_mask=mask), kernel=self.kernel, partition=partition, layout=layout)
        return self.out(out.reshape(x.shape))
