"""A layer of the trunk: residual block, spatial transformer, and behind each what the temporal unit brings."""

import jax
from flax import nnx

from vdm_jax.models.unet.config import UNetConfig
from vdm_jax.models.unet.place import Place
from vdm_jax.models.unet.residual import SPACE, ResBlock
from vdm_jax.models.unet.temporal import UNITS, FrameBlock, FrameMix, blend
from vdm_jax.models.unet.transformer import GROUP_EPS, Block, Context
from vdm_jax.nn.group_norm import GroupNorm
from vdm_jax.nn.linear import Linear
from vdm_jax.nn.stack import run_stack, stack
from vdm_jax.sharding.rules import constrain

Array = jax.Array


class Unit(nnx.Module):
    """What a spatial transformer stacks: a block over the pixels of each frame, and one over frames if it mixes."""

    def __init__(self, cfg: UNetConfig, place: Place, mixes: bool, *, rngs: nnx.Rngs):
        options = {"text_dim": cfg.text_dim, "kernel": cfg.kernel, "rngs": rngs}
        self.space = Block(place.channels, place.heads, **options)
        self.frames = FrameBlock(place.channels, place.heads, **options) if mixes else None


class SpatialTransformer(nnx.Module):
    """Blocks over the pixels of each frame that also read the text, added to `x [B, T, H, W, C]`."""

    def __init__(self, cfg: UNetConfig, place: Place, *, rngs: nnx.Rngs):
        width, mixes = place.channels, UNITS[cfg.temporal].mixes
        self.norm = GroupNorm(width, cfg.groups, dims=2, eps=GROUP_EPS, rngs=rngs)
        self.enter = Linear(width, width, axes=("embed", "embed_out"), rngs=rngs)
        self.units = stack(lambda r: Unit(cfg, place, mixes, rngs=r), place.depth, rngs)
        self.mix = FrameMix(width, rngs=rngs) if mixes else None
        self.leave = Linear(width, width, axes=("embed", "embed_out"), rngs=rngs)

    def __call__(self, x: Array, ctx: Context) -> Array:
        b, t, h, w, c = x.shape
        rows = None if self.mix is None else self.mix.rows(t, x.dtype)

        def body(unit: Unit, tokens: Array) -> Array:
            tokens = unit.space(tokens, ctx.text, ctx.text_mask)
            if self.mix is None:
                return tokens
            mixed = unit.frames(tokens + rows, ctx.text, ctx.text_mask)
            return blend(self.mix.mix[...], tokens, mixed, ctx.image_only)

        tokens = self.enter(self.norm(x).reshape(b, t, h * w, c))
        return x + self.leave(run_stack(self.units, tokens, body)).reshape(x.shape)


class Layer(nnx.Module):
    """`[B, T, H, W, in] -> [B, T, H, W, C]` at one place of the trunk."""

    def __init__(self, cfg: UNetConfig, in_channels: int, place: Place, *, rngs: nnx.Rngs):
        unit = UNITS[cfg.temporal]
        options = {"window": SPACE, "groups": cfg.groups, "eps": place.eps, "rngs": rngs}
        self.res = ResBlock(in_channels, place.channels, cfg.time_dim, **options)
        self.res_time = unit.after_res(cfg, place, rngs)
        self.attention = SpatialTransformer(cfg, place, rngs=rngs) if place.depth else None
        self.attention_time = unit.after_attention(cfg, place, rngs)

    def __call__(self, x: Array, ctx: Context) -> Array:
        x = self.res(x, ctx.time)
        if self.res_time is not None:
            x = self.res_time(x, ctx)
        if self.attention is not None:
            x = self.attention(x, ctx)
        if self.attention_time is not None:
            x = self.attention_time(x)
        return constrain(x, "batch", "frames", "height", "width", None)
