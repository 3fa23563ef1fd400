"""The Wan transformer (2503.20314): clip in, velocity out, every frame at its own time.

  x [B, T, H, W, C] -> tokens [B, T', S, D] -> blocks -> tokens -> [B, T, H, W, C]

    x += gate_a * SelfAttention(modulate(norm(x), shift_a, scale_a))         over all tokens, rotary in (t, h, w)
    x += Attention(q, text) + Attention(q, picture), q of norm(x)            one output projection for both
    x += gate_m * MLP(modulate(norm(x), shift_m, scale_m))

All blocks share one projection of the time to the six rows of modulation; each adds a table of its own.  The time of a
frame reaches its tokens through these rows alone, so text-to-video (one time a clip) and the 2.2 models that take one
time a token (given frames at 0) are one network.  Norms, modulation and the sums of the residual stream are float32
whatever the network computes in, as published.
"""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from vdm_jax.attention import Policy, attend
from vdm_jax.models.dit.layout import TokenLayout
from vdm_jax.models.wan.config import WanConfig
from vdm_jax.nn.attention import QKNorm, SelfAttention
from vdm_jax.nn.embeddings import ScalarEmbedding
from vdm_jax.nn.folding import fold
from vdm_jax.nn.linear import Linear, param
from vdm_jax.nn.mlp import MLP
from vdm_jax.nn.norms import LayerNorm, RMSNorm, layer_norm, modulate
from vdm_jax.nn.rotary import rotary_table
from vdm_jax.nn.stack import run_stack, stack
from vdm_jax.sharding.rules import constrain
from vdm_jax.types import Condition, as_time, check_condition

Array = jax.Array
F32 = jnp.float32
_ZEROS = jax.nn.initializers.zeros
_NORMAL = jax.nn.initializers.normal(0.02)
_PATCHES = "b (t pt) (h ph) (w pw) c -> b t (h w) (pt ph pw c)"
_PIXELS = "b t (h w) (pt ph pw c) -> b (t pt) (h ph) (w pw) c"


@dataclasses.dataclass(frozen=True)
class Context:
    """What every block of one forward pass shares.

    Attributes:
      modulation: [B, T, 6, D] float32.
      text, text_mask: [B, L, D], and [B, L] bool or None.
      image: [B, L', D]; None for a model without pictures.
      rotary: [T, S, 2, head_dim / 2].
      layout: how the tokens lie on the mesh.
    """

    modulation: Array
    text: Array
    text_mask: Array | None
    image: Array | None
    rotary: Array
    layout: TokenLayout


class ReadingAttention(nnx.Module):
    """Attention of tokens to the prompt and, with keys and values of its own, to a picture."""

    def __init__(self, cfg: WanConfig, *, rngs: nnx.Rngs):
        self.kernel = cfg.kernel
        fused, axes = (cfg.heads, 2, cfg.head_dim), ("condition", "heads", None, "head_dim")
        self.q = Linear(cfg.dim, (cfg.heads, cfg.head_dim), axes=("embed", "heads", "head_dim"), rngs=rngs)
        self.kv = Linear(cfg.dim, fused, axes=axes, rngs=rngs)
        self.out = Linear(cfg.dim, cfg.dim, axes=("heads", "embed"), rngs=rngs)
        self.norm = QKNorm("all", cfg.heads, cfg.head_dim, rngs=rngs)
        self.image_kv = Linear(cfg.dim, fused, axes=axes, rngs=rngs) if cfg.image_keys else None
        self.image_norm = RMSNorm((cfg.heads, cfg.head_dim), rngs=rngs) if cfg.image_keys else None

    def __call__(self, x: Array, ctx: Context) -> Array:
        """`[B, T, S, D] -> [B, T, S, D]`."""
        kv = self.kv(ctx.text)  # [B, L, H, 2, c]
        q, k = self.norm(self.q(x), kv[..., 0, :])
        out = self._read(q, k, kv[..., 1, :], ctx.text_mask, ctx)
        if self.image_kv is not None:
            kv = self.image_kv(ctx.image)
            out = out + self._read(q, self.image_norm(kv[..., 0, :]), kv[..., 1, :], None, ctx)
        return self.out(out.reshape(x.shape))

    def _read(self, q: Array, k: Array, v: Array, mask: Array | None, ctx: Context) -> Array:
        where = {"partition": ctx.layout.to_text, "layout": "BGNHD"}
        return attend(q, k[:, None], v[:, None], policy=Policy(key_mask=mask), kernel=self.kernel, **where)


class Block(nnx.Module):
    """See the module docstring."""

    def __init__(self, cfg: WanConfig, *, rngs: nnx.Rngs):
        self.attention = SelfAttention(cfg.dim, cfg.heads, qk_norm="all", kernel=cfg.kernel, rngs=rngs)
        self.cross_norm = LayerNorm(cfg.dim, rngs=rngs) if cfg.cross_norm else None
        self.cross = ReadingAttention(cfg, rngs=rngs)
        self.mlp = MLP(cfg.dim, cfg.mlp_dim, activation="gelu", rngs=rngs)
        table = jax.nn.initializers.normal(cfg.dim**-0.5)
        self.modulation = param(rngs, table, (6, cfg.dim), (None, "embed"))

    def __call__(self, x: Array, ctx: Context) -> Array:
        """`[B, T, S, D] -> [B, T, S, D]`."""
        # One row a frame, the same for all its patches; on a CPU [B T, 1, D] and x [B T, S, D], else [B, T, ...].
        rows = fold(ctx.layout.rows(ctx.modulation + self.modulation[...], x), 2)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.split(rows, 6, axis=-2)
        clip, dtype, x = x.shape, x.dtype, fold(x, 2)

        h = checkpoint_name(modulate(layer_norm(x.astype(F32)), shift_a, scale_a).astype(dtype), "attention_in")
        within = {"partition": ctx.layout.within, "length": ctx.layout.space}
        h = self.attention(h.reshape(clip), Policy(unit=ctx.layout.space), ctx.rotary, tokens="TS", **within)
        x = (x.astype(F32) + gate_a * h.reshape(x.shape)).astype(dtype)

        h = x if self.cross_norm is None else self.cross_norm(x.astype(F32)).astype(dtype)
        x = x + self.cross(h.reshape(clip), ctx).reshape(x.shape)

        h = self.mlp(modulate(layer_norm(x.astype(F32)), shift_m, scale_m).astype(dtype))
        return (x.astype(F32) + gate_m * checkpoint_name(h, "mlp_hidden")).astype(dtype).reshape(clip)


class ImageEmbedding(nnx.Module):
    """Features of a picture to tokens the blocks read: `[B, L', image_dim] -> [B, L', dim]`."""

    def __init__(self, cfg: WanConfig, *, rngs: nnx.Rngs):
        d, shape = cfg.image_dim, (cfg.image_positions, cfg.image_dim)
        self.positions = param(rngs, _ZEROS, shape, (None, "text")) if cfg.image_positions else None
        self.norm_in = LayerNorm(d, eps=1e-5, rngs=rngs)
        self.hidden = Linear(d, d, axes=("text", "mlp"), rngs=rngs)
        self.out = Linear(d, cfg.dim, axes=("mlp", "embed"), rngs=rngs)
        self.norm_out = LayerNorm(cfg.dim, eps=1e-5, rngs=rngs)

    def __call__(self, image: Array) -> Array:
        if self.positions is not None:
            image = image + self.positions[...].astype(image.dtype)
        return self.norm_out(self.out(jax.nn.gelu(self.hidden(self.norm_in(image)), approximate=False)))


class Wan(nnx.Module):
    """See `WanConfig` for the options.

    Args:
      config: the architecture.
      rngs: `params` is used.
    """

    def __init__(self, config: WanConfig, rngs: nnx.Rngs):
        cfg = self.config = config
        d, pixels = cfg.dim, cfg.patch[0] * cfg.patch[1] * cfg.patch[2]
        self.patch_in = Linear(pixels * cfg.in_channels, d, axes=("patch", "embed"), rngs=rngs)
        self.time = ScalarEmbedding(d, frequencies=cfg.frequencies, rngs=rngs)
        self.modulation = Linear(d, (6, d), axes=("condition", None, "embed_out"), init=_NORMAL, rngs=rngs)
        self.text_hidden = Linear(cfg.text_dim, d, axes=("text", "embed"), init=_NORMAL, rngs=rngs)
        self.text_out = Linear(d, d, axes=("condition", "embed_out"), init=_NORMAL, rngs=rngs)
        self.image_in = ImageEmbedding(cfg, rngs=rngs) if cfg.image_dim else None
        self.blocks = stack(lambda r: Block(cfg, rngs=r), cfg.depth, rngs)
        self.final_modulation = param(rngs, jax.nn.initializers.normal(d**-0.5), (2, d), (None, "embed"))
        self.patch_out = Linear(d, pixels * cfg.channels, axes=("embed", "patch"), init=_ZEROS, rngs=rngs)

    @property
    def reads(self) -> frozenset[str]:
        """Condition keys that this model reads."""
        return self.config.reads

    def __call__(self, x: Array, t: Array, cond: Condition | None = None) -> Array:
        """Predicts the velocity.

        Args:
          x: `[B, T, H, W, C]`, any float dtype; the network computes in it.
          t: `[B, T]` or `[B]`, 0 to 1000 (`process.network_time`).
          cond: `tokens [B, L, text_dim]` and, where the config says so, `concat [B, T, H, W, concat_channels]` and
            `image [B, L', image_dim]`.

        Returns:
          `[B, T, H, W, C]` in the dtype of `x`.

        Raises:
          ValueError: unread or missing condition keys, sizes that the patch does not divide.
        """
        cfg, cond = self.config, dict(cond or {})
        self._check(cond)
        b, frames, height, width, _ = x.shape
        grid = cfg.token_grid(frames, height, width)
        layout = TokenLayout.of("full", cfg.partition, grid[0], grid[1] * grid[2], cfg.heads)
        e = self._embed_time(as_time(t, b, frames))
        rotary = jnp.asarray(rotary_table(grid, cfg.head_dim))
        ctx = Context(
            modulation=self.modulation(jax.nn.silu(e.astype(x.dtype))).astype(F32),
            text=self.text_out(jax.nn.gelu(self.text_hidden(cond["tokens"].astype(x.dtype)), approximate=True)),
            text_mask=cond.get("tokens_mask"),
            image=None if self.image_in is None else self.image_in(cond["image"].astype(x.dtype)),
            rotary=layout.pad_space(rotary.reshape(grid[0], -1, *rotary.shape[1:]), -3),
            layout=layout,
        )
        tokens = run_stack(self.blocks, self._tokens(x, cond, layout), lambda b, h: layout.hold(b(h, ctx)), cfg.remat)
        rows = layout.rows(self.final_modulation[...] + e[:, :, None], tokens)
        shift, scale = jnp.split(rows, 2, axis=2)  # [B, T', 1, D]
        tokens = modulate(layer_norm(tokens.astype(F32)), shift, scale).astype(x.dtype)
        sizes = dict(zip(("pt", "ph", "pw"), cfg.patch))
        return rearrange(layout.leave(self.patch_out(tokens)), _PIXELS, h=grid[1], w=grid[2], **sizes)

    def _check(self, cond: Condition) -> None:
        check_condition(cond, self.config.may_read, "Wan", needs=self.reads)
        if cond["tokens"].ndim != 3:
            raise ValueError(f"condition: tokens {cond['tokens'].shape} are not [B, L, D]; Wan has one prompt a clip")

    def _tokens(self, x: Array, cond: Condition, layout: TokenLayout) -> Array:
        """Clip and `concat` to tokens `[B, T', S, D]`."""
        if self.config.concat_channels:
            x = jnp.concatenate([x, cond["concat"].astype(x.dtype)], axis=-1)
        patches = rearrange(x, _PATCHES, **dict(zip(("pt", "ph", "pw"), self.config.patch)))
        return layout.hold(self.patch_in(layout.enter(patches)))

    def _embed_time(self, t: Array) -> Array:
        """`[B, T] -> [B, T', D]` float32, the mean over a patch's frames."""
        e = self.time(t, F32)
        e = e.reshape(e.shape[0], -1, self.config.patch[0], e.shape[-1]).mean(axis=2)
        return constrain(e, "batch", None, None)
