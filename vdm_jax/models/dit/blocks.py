"""Blocks of the DiT.

  x: [B, T, S, D] tokens of T frames with S patches each;  modulation: [B, T, 6, D], a row a frame

    x += gate_a * SelfAttention(modulate(norm(x), shift_a, scale_a))
    x += CrossAttention(norm(x), text)                                   (models with text; some without the norm)
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
from vdm_jax.models.dit.layout import TokenLayout
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
      rotary: axes over which a block attends (`full`, `space`, `time`) -> a table [T, S, 2, head_dim / 2] (one of
        [S, ...] or [T, ...]), for packed clips with dims in front of it; None without rope.
      layout: how the tokens lie on the mesh.
      segments: [B, T] int32, which of the packed clips each frame belongs to; None where a sequence is one clip.
    """

    time: Array
    modulation: Array | None
    text: Array | None
    text_mask: Array | None
    rotary: dict[str, Array | None]
    layout: TokenLayout
    segments: Array | None = None


class Block(nnx.Module):
    """Attention over one of `full`, `space`, `time`; cross-attention to text; MLP."""

    def __init__(self, cfg: DiTConfig, over: str, *, rngs: nnx.Rngs):
        self.over = over
        self.causal = cfg.causal and over != "space"
        options = {"qk_norm": cfg.qk_norm, "kernel": cfg.kernel, "rngs": rngs}
        self.attention = SelfAttention(cfg.dim, cfg.heads, **options)
        with_text = cfg.text_dim > 0 and over != "time"
        self.cross_norm = LayerNorm(cfg.dim, rngs=rngs) if with_text and cfg.cross_norm else None
        self.cross = CrossAttention(cfg.dim, cfg.heads, out_init=_ZEROS, **options) if with_text else None
        self.mlp = MLP(cfg.dim, cfg.hidden, activation=cfg.mlp, rngs=rngs)
        if cfg.adaln == "single":
            self.modulation = param(rngs, _ZEROS, (6, cfg.dim), (None, "embed"))
        else:
            axes = ("condition", None, "embed_out")
            self.modulation = Linear(cfg.dim, (6, cfg.dim), axes=axes, init=_ZEROS, rngs=rngs)

    def __call__(self, x: Array, ctx: Context) -> Array:
        # [B, T, 1, D] each: one row a frame, the same for all its patches; on a CPU [B T, 1, D] and x [B T, S, D].
        rows = fold(ctx.layout.rows(self._rows(ctx, x.dtype), x), 2)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.split(rows, 6, axis=-2)
        clip, x = x.shape, fold(x, 2)
        h = checkpoint_name(modulate(layer_norm(x), shift_a, scale_a), "attention_in")
        x = x + gate_a * self._attend(h.reshape(clip), ctx).reshape(x.shape)
        if self.cross is not None:
            h = x if self.cross_norm is None else self.cross_norm(x)
            x = x + self._read_text(h.reshape(clip), ctx).reshape(x.shape)
        h = self.mlp(modulate(layer_norm(x), shift_m, scale_m))
        return (x + gate_m * checkpoint_name(h, "mlp_hidden")).reshape(clip)

    def _rows(self, ctx: Context, dtype) -> Array:
        if ctx.modulation is not None:
            return ctx.modulation + self.modulation[...].astype(dtype)
        return self.modulation(ctx.time)

    def _attend(self, h: Array, ctx: Context) -> Array:
        layout, rotary = ctx.layout, ctx.rotary[self.over]
        within = {"partition": layout.within, "length": None if layout.dynamic else layout.space}
        if self.over == "space":
            return self.attention(h, Policy(), rotary, tokens="GN", **within)
        if self.over == "time":
            policy = Policy(causal=self.causal, **_apart(ctx.segments, h.shape[2], axis=0))
            tubes = self.attention(h.swapaxes(1, 2), policy, rotary, tokens="GN", partition="groups")
            return tubes.swapaxes(1, 2)
        policy = Policy(causal=self.causal, unit=layout.space, **_apart(ctx.segments, layout.space, axis=1))
        return self.attention(h, policy, rotary, tokens="TS", **within)

    def _read_text(self, h: Array, ctx: Context) -> Array:
        text, mask = ctx.text, ctx.text_mask
        if text.ndim == 4:  # one prompt a frame
            text = ctx.layout.like(text, h)
            if mask is not None and mask.ndim == 2:
                mask = jnp.broadcast_to(mask[:, None], text.shape[:3])
            mask = mask if mask is None else ctx.layout.like(mask, h)
        return self.cross(h, text, mask, partition=ctx.layout.to_text)


class Unit(nnx.Module):
    """What is stacked: one full block, or a spatial and a temporal one."""

    def __init__(self, cfg: DiTConfig, *, rngs: nnx.Rngs):
        full = cfg.attention == "full"
        self.block = Block(cfg, "full", rngs=rngs) if full else None
        self.spatial = None if full else Block(cfg, "space", rngs=rngs)
        self.temporal = None if full else Block(cfg, "time", rngs=rngs)

    def __call__(self, x: Array, ctx: Context, in_time: Array | None = None) -> Array:
        """`in_time [T, 1, D]` or `[B, T, 1, D]` is added to the tokens before they are looked at in time."""
        if self.block is not None:
            return self.block(x, ctx)
        tubes = ctx.layout.to_time(self.spatial(x, ctx))
        tubes = tubes if in_time is None else tubes + in_time
        return ctx.layout.to_space(self.temporal(tubes, ctx))


def _apart(segments: Array | None, patches: int, axis: int) -> dict[str, Array]:
    """The part of a policy that keeps packed clips apart: segments `[B, T]` of all tokens, or of all tubes."""
    if segments is None:
        return {}
    each = jnp.repeat(segments, patches, axis=axis)
    return {"q_segments": each, "k_segments": each}
