"""Blocks of the DiT.

  x: [B, T, S, D] tokens of T frames with S patches each;  modulation: [B, T, 6, D], a row a frame

    x += gate_a * SelfAttention(modulate(norm(x), shift_a, scale_a))
    x += gate_a * PrefixAttention(modulate(norm(x), shift_a, scale_a))   (models that read given frames in space)
    x += CrossAttention(norm(x), text)                                   (models with text; some without the norm)
    x += gate_m * MLP(modulate(norm(x), shift_m, scale_m))

Gates start at zero, so a new network is the identity on its tokens (adaLN-Zero, 2212.09748).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from vdm_jax.attention import Policy
from vdm_jax.models.dit.config import DiTConfig
from vdm_jax.models.dit.layout import TokenLayout
from vdm_jax.models.dit.prefix import Memory, PrefixAttention
from vdm_jax.models.dit.temporal import TemporalAttention
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
      segments: [B, T] int32, frames that see each other (those of a packed clip, or all that are not padding); None
        where all do.
      given: [B, T] bool, frames that are given; None for models that are not told.
      merge: what known_merge puts before the first temporal block, `[B, T, S, D] -> [B, T, S, D]`.
      keep: whether a memory keeps these frames, or they read it.
    """

    time: Array
    modulation: Array | None
    text: Array | None
    text_mask: Array | None
    rotary: dict[str, Array | None]
    layout: TokenLayout
    segments: Array | None = None
    given: Array | None = None
    merge: Callable[[Array], Array] | None = None
    keep: bool = False


class Block(nnx.Module):
    """Attention over one of `full`, `space`, `time`; cross-attention to text; MLP."""

    def __init__(self, cfg: DiTConfig, over: str, *, rngs: nnx.Rngs):
        self.over = over
        self.causal = cfg.causal and over != "space"
        options = {"qk_norm": cfg.qk_norm, "kernel": cfg.kernel, "rngs": rngs}
        self.attention = SelfAttention(cfg.dim, cfg.heads, **options)
        self.prefix = PrefixAttention(cfg, rngs=rngs) if cfg.prefix and over == "space" else None
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
        return self.remembering(x, ctx, None)[0]

    def remembering(self, x: Array, ctx: Context, memory: Memory | None) -> tuple[Array, Memory | None]:
        """The same with what is remembered of given frames."""
        # [B, T, 1, D] each: one row a frame, the same for all its patches; on a CPU [B T, 1, D] and x [B T, S, D].
        rows = fold(ctx.layout.rows(self._rows(ctx, x.dtype), x), 2)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.split(rows, 6, axis=-2)
        clip, x = x.shape, fold(x, 2)
        h = checkpoint_name(modulate(layer_norm(x), shift_a, scale_a), "attention_in")
        h, memory = self._attend(h.reshape(clip), ctx, memory)
        x = x + gate_a * h.reshape(x.shape)
        if self.prefix is not None:
            h, memory = self._read_prefix(modulate(layer_norm(x), shift_a, scale_a).reshape(clip), ctx, memory)
            x = x + gate_a * h.reshape(x.shape)
        if self.cross is not None:
            h = x if self.cross_norm is None else self.cross_norm(x)
            x = x + self._read_text(h.reshape(clip), ctx).reshape(x.shape)
        h = self.mlp(modulate(layer_norm(x), shift_m, scale_m))
        return (x + gate_m * checkpoint_name(h, "mlp_hidden")).reshape(clip), memory

    def _rows(self, ctx: Context, dtype) -> Array:
        if ctx.modulation is not None:
            return ctx.modulation + self.modulation[...].astype(dtype)
        return self.modulation(ctx.time)

    def _attend(self, h: Array, ctx: Context, memory: Memory | None) -> tuple[Array, Memory | None]:
        layout, rotary = ctx.layout, ctx.rotary[self.over]
        within = {"partition": layout.within, "length": None if layout.dynamic else layout.space}
        if self.over == "space":
            return self.attention(h, Policy(), rotary, tokens="GN", **within), memory
        if self.over == "time" and memory is not None:
            tubes, time = self.attention.through_time(h.swapaxes(1, 2), memory.time, rotary, keep=ctx.keep)
            return tubes.swapaxes(1, 2), dataclasses.replace(memory, time=time)
        if self.over == "time":
            policy = Policy(causal=self.causal, **_apart(ctx.segments, h.shape[2], axis=0))
            tubes = self.attention(h.swapaxes(1, 2), policy, rotary, tokens="GN", partition="groups")
            return tubes.swapaxes(1, 2), memory
        policy = Policy(causal=self.causal, unit=layout.space, **_apart(ctx.segments, layout.space, axis=1))
        return self.attention(h, policy, rotary, tokens="TS", **within), memory

    def _read_prefix(self, h: Array, ctx: Context, memory: Memory | None) -> tuple[Array, Memory | None]:
        if memory is None:
            return self.prefix(h, ctx.given)[0], None
        h, space = self.prefix(h, ctx.given, memory.space, ctx.keep)
        return h, dataclasses.replace(memory, space=space)

    def _read_text(self, h: Array, ctx: Context) -> Array:
        text, mask = ctx.text, ctx.text_mask
        if text.ndim == 4:  # one prompt a frame
            text = ctx.layout.like(text, h)
            if mask is not None and mask.ndim == 2:
                mask = jnp.broadcast_to(mask[:, None], text.shape[:3])
            mask = mask if mask is None else ctx.layout.like(mask, h)
        return self.cross(h, text, mask, partition=ctx.layout.to_text)


class Unit(nnx.Module):
    """What is stacked: one full block; a spatial and a temporal one; or temporal attention and a spatial block."""

    def __init__(self, cfg: DiTConfig, *, rngs: nnx.Rngs):
        full = cfg.attention == "full"
        self.block = Block(cfg, "full", rngs=rngs) if full else None
        self.spatial = None if full else Block(cfg, "space", rngs=rngs)
        self.alone, self.causal = cfg.temporal == "attention_first", cfg.causal
        temporal = TemporalAttention(cfg, rngs=rngs) if self.alone else None
        self.temporal = temporal if full or self.alone else Block(cfg, "time", rngs=rngs)

    def __call__(self, x: Array, ctx: Context, in_time: Array | None = None) -> Array:
        """`in_time [T, 1, D]` or `[B, T, 1, D]` is added to the tokens before they are looked at in time."""
        return self.remembering(x, ctx, in_time, None, None)[0]

    def remembering(
        self, x: Array, ctx: Context, in_time: Array | None, first: Array | None, memory: Memory | None
    ) -> tuple[Array, Memory | None]:
        """The same with a memory, and with `ctx.merge` before the temporal block if `first` (a bool scalar) holds."""
        if self.block is not None:
            return self.block.remembering(x, ctx, memory)
        if not self.alone:
            x, memory = self.spatial.remembering(x, ctx, memory)
        tubes = ctx.layout.to_time(x)
        tubes = tubes if in_time is None else tubes + in_time
        tubes = tubes if ctx.merge is None else jax.lax.cond(first, ctx.merge, lambda x: x, tubes)
        if self.alone:
            policy = Policy(causal=self.causal, **_apart(ctx.segments, tubes.shape[2], axis=0))
            x = ctx.layout.to_space(self.temporal(tubes, policy, ctx.rotary["time"]))
            return self.spatial.remembering(x, ctx, memory)
        x, memory = self.temporal.remembering(tubes, ctx, memory)
        return ctx.layout.to_space(x), memory


def _apart(segments: Array | None, patches: int, axis: int) -> dict[str, Array]:
    """The part of a policy that keeps packed clips apart: segments `[B, T]` of all tokens, or of all tubes."""
    if segments is None:
        return {}
    each = jnp.repeat(segments, patches, axis=axis)
    return {"q_segments": each, "k_segments": each}
