"""Blocks of the DiT.

  x: [B, T, S, D] tokens of T frames with S patches each;  modulation: [B, T, 6, D], a row a frame

    x += gate_a * SelfAttention(modulate(norm(x), shift_a, scale_a))
    x += CrossAttention(norm(x), text)                                   (models with text)
    x += gate_m * MLP(modulate(norm(x), shift_m, scale_m))

Gates start at zero, so a new network is the identity on its tokens (adaLN-Zero, 2212.09748).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from vdm_jax.attention import Policy
from vdm_jax.models.dit.config import DiTConfig
from vdm_jax.nn.attention import CrossAttention, SelfAttention
from vdm_jax.nn.folding import fold
from vdm_jax.nn.linear import Linear, param
from vdm_jax.nn.mlp import MLP
from vdm_jax.nn.norms import LayerNorm, layer_norm, modulate

Array = jax.Array
_ZEROS = jax.nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class Context:
    """What every block of one forward pass shares.

    Attributes:
      time: [B, T, D] time embedding after SiLU; blocks with their own projection read it.
      modulation: [B, T, 6, D], the shared projection; None when each block has its own.
      text, text_mask: [B, L, D] or [B, T, L, D], and [B, L] or [B, T, L] bool; None without text.
      rotary: axes over which a block attends (`full`, `space`, `time`) -> [N, 2, head_dim / 2], of packed clips
        [B, 1, N, 2, head_dim / 2]; None without rope.
      segments: [B, T] int32, which of the packed clips each frame belongs to; None where a sequence is one clip.
    """

    time: Array
    modulation: Array | None
    text: Array | None
    text_mask: Array | None
    rotary: dict[str, Array | None]
    segments: Array | None = None


class Block(nnx.Module):
    """Attention over one of `full`, `space`, `time`; cross-attention to text; MLP."""

    def __init__(self, cfg: DiTConfig, over: str, *, rngs: nnx.Rngs):
        self.over = over
        self.causal = cfg.causal and over != "space"
        options = {"qk_norm": cfg.qk_norm, "kernel": cfg.kernel, "rngs": rngs}
        self.attention = SelfAttention(cfg.dim, cfg.heads, **options)
        with_text = cfg.text_dim > 0 and over != "time"
        self.cross_norm = LayerNorm(cfg.dim, rngs=rngs) if with_text else None
        self.cross = CrossAttention(cfg.dim, cfg.heads, out_init=_ZEROS, **options) if with_text else None
        self.mlp = MLP(cfg.dim, cfg.hidden, activation=cfg.mlp, rngs=rngs)
        if cfg.adaln == "single":
            self.modulation = param(rngs, _ZEROS, (6, cfg.dim), (None, "embed"))
        else:
            axes = ("embed", None, "embed_out")
            self.modulation = Linear(cfg.dim, (6, cfg.dim), axes=axes, init=_ZEROS, rngs=rngs)

    def __call__(self, x: Array, ctx: Context) -> Array:
        # [B, T, 1, D] each: one row a frame, the same for all its patches; on a CPU [B T, 1, D] and x [B T, S, D].
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.split(fold(self._rows(ctx, x.dtype), 2), 6, axis=-2)
        clip, x = x.shape, fold(x, 2)
        h = checkpoint_name(modulate(layer_norm(x), shift_a, scale_a), "attention_in")
        x = x + gate_a * self._attend(h.reshape(clip), ctx).reshape(x.shape)
        if self.cross is not None:
            x = x + self._read_text(self.cross_norm(x).reshape(clip), ctx).reshape(x.shape)
        h = self.mlp(modulate(layer_norm(x), shift_m, scale_m))
        return (x + gate_m * checkpoint_name(h, "mlp_hidden")).reshape(clip)

    def _rows(self, ctx: Context, dtype) -> Array:
        if ctx.modulation is not None:
            return ctx.modulation + self.modulation[...].astype(dtype)
        return self.modulation(ctx.time)

    def _attend(self, h: Array, ctx: Context) -> Array:
        b, t, s, d = h.shape
        rotary = ctx.rotary[self.over]
        if self.over == "space":
            return self.attention(h.reshape(b * t, s, d), Policy(), rotary).reshape(h.shape)
        if self.over == "time":
            tubes = h.swapaxes(1, 2).reshape(b * s, t, d)
            rotary = rotary if rotary is None or ctx.segments is None else jnp.repeat(rotary, s, axis=0)
            policy = Policy(causal=self.causal, **_apart(ctx.segments, s, axis=0))
            return self.attention(tubes, policy, rotary).reshape(b, s, t, d).swapaxes(1, 2)
        policy = Policy(causal=self.causal, unit=s, **_apart(ctx.segments, s, axis=1))
        return self.attention(h.reshape(b, t * s, d), policy, rotary).reshape(h.shape)

    def _read_text(self, h: Array, ctx: Context) -> Array:
        b, t, s, d = h.shape
        text, mask = ctx.text, ctx.text_mask
        if text.ndim == 3:  # one prompt for the clip
            return self.cross(h.reshape(b, t * s, d), text, mask).reshape(h.shape)
        length = text.shape[2]  # one prompt a frame
        if mask is not None:
            per_frame = mask[:, None] if mask.ndim == 2 else mask
            mask = jnp.broadcast_to(per_frame, (b, t, length)).reshape(b * t, length)
        return self.cross(h.reshape(b * t, s, d), text.reshape(b * t, length, d), mask).reshape(h.shape)


class Unit(nnx.Module):
    """What is stacked: one full block, or a spatial and a temporal one."""

    def __init__(self, cfg: DiTConfig, *, rngs: nnx.Rngs):
        full = cfg.attention == "full"
        self.block = Block(cfg, "full", rngs=rngs) if full else None
        self.spatial = None if full else Block(cfg, "space", rngs=rngs)
        self.temporal = None if full else Block(cfg, "time", rngs=rngs)

    def __call__(self, x: Array, ctx: Context) -> Array:
        if self.block is not None:
            return self.block(x, ctx)
        return self.temporal(self.spatial(x, ctx), ctx)


def _apart(segments: Array | None, patches: int, axis: int) -> dict[str, Array]:
    """The part of a policy that keeps packed clips apart: segments `[B, T]` of all tokens, or of all tubes."""
    if segments is None:
        return {}
    each = jnp.repeat(segments, patches, axis=axis)
    return {"q_segments": each, "k_segments": each}
