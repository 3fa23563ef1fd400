"""Temporal units: what makes a video model of the trunk.

| `temporal`    | behind each residual block | inside the spatial transformer          | behind it               |
| ------------- | -------------------------- | --------------------------------------- | ----------------------- |
| `none`        |                            |                                         |                         |
| `convolution` | `TemporalConvs`            |                                         | `TemporalTransformer`   |
| `motion`      |                            |                                         | the same, positions     |
| `mixed`       | `MixedResBlock`            | behind each block a `FrameBlock`, mixed |                         |

`convolution` also begins with a `TemporalTransformer` of `ENTRY_HEADS` heads.  Those that stand behind something are
the identity in a new network, as their last projection is zero.

What is blended is `a x + (1 - a) block(x)`.  Of frames with `image_only` a is 1, whatever the layer has learned: they
pass as if there were no layers over time, none sees another frame, and nothing over time learns from them.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vdm_jax.diffusion.leaves import expand
from vdm_jax.models.unet.config import UNetConfig
from vdm_jax.models.unet.flops import ENTRY_HEADS
from vdm_jax.models.unet.place import Place
from vdm_jax.models.unet.residual import TIME, ResBlock
from vdm_jax.models.unet.transformer import GROUP_EPS, LAYER_EPS, Block, Context
from vdm_jax.nn.conv import Conv
from vdm_jax.nn.embeddings import VectorEmbedding, sinusoidal
from vdm_jax.nn.group_norm import GroupNorm
from vdm_jax.nn.linear import Linear, param
from vdm_jax.nn.mlp import MLP
from vdm_jax.nn.norms import LayerNorm
from vdm_jax.nn.stack import run_stack, stack
from vdm_jax.sharding.rules import constrain

Array = jax.Array
_ZEROS = jax.nn.initializers.zeros


class TemporalConvs(nnx.Module):
    """Four times norm, SiLU and a convolution over time, added to `x [B, T, H, W, C]` (2308.06571)."""

    def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs):
        self.norms = nnx.List([GroupNorm(channels, groups, dims=len(TIME), rngs=rngs) for _ in range(4)])
        inits = (None, None, None, _ZEROS)
        self.convs = nnx.List([Conv(channels, channels, TIME, init=init, rngs=rngs) for init in inits])

    def __call__(self, x: Array, ctx: Context) -> Array:
        h = x
        for norm, conv in zip(self.norms, self.convs):
            h = conv(jax.nn.silu(norm(h)))
        return x + h


class MixedResBlock(nnx.Module):
    """A residual block over time, blended with what it reads (2311.15127); the identity in a new network."""

    def __init__(self, cfg: UNetConfig, place: Place, *, rngs: nnx.Rngs):
        options = {"window": TIME, "groups": cfg.groups, "eps": place.eps, "last_init": _ZEROS, "rngs": rngs}
        self.block = ResBlock(place.channels, place.channels, cfg.time_dim, **options)
        self.mix = mixing(rngs)

    def __call__(self, x: Array, ctx: Context) -> Array:
        return blend(self.mix[...], x, self.block(x, ctx.time), ctx.image_only)


def mixing(rngs: nnx.Rngs) -> nnx.Param:
    """The logit of the share that stays as it was, `[1]`."""
    return param(rngs, jax.nn.initializers.constant(0.5), (1,), ("norm",))


def blend(logit: Array, x: Array, other: Array, image_only: Array | None) -> Array:
    """`a x + (1 - a) other`, a the sigmoid of the logit; of frames with `image_only [B, T]` x `[B, T, ...]` itself."""
    share = jax.nn.sigmoid(logit).astype(x.dtype)
    mixed = share * x + (1 - share) * other
    return mixed if image_only is None else jnp.where(expand(image_only, x), x, mixed)


class TemporalTransformer(nnx.Module):
    """Blocks of two self-attentions over the frames of each pixel, added to `x [B, T, H, W, C]`.

    Args:
      channels: of x.
      inner: width of the blocks.
      heads, depth: of the blocks.
      groups: of the norm over the whole clip.
      max_frames: length of the table of positions that each attention sees; 0 is none.
      kernel: see `attention.KERNELS`.
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        heads: int,
        depth: int,
        *,
        groups: int,
        max_frames: int,
        kernel: str,
        rngs: nnx.Rngs,
    ):
        self.inner, self.max_frames = inner, max_frames
        self.norm = GroupNorm(channels, groups, dims=3, eps=GROUP_EPS, rngs=rngs)
        self.enter = Linear(channels, inner, axes=("embed", "embed_out"), rngs=rngs)
        self.blocks = stack(lambda r: Block(inner, heads, text_dim=0, kernel=kernel, rngs=r), depth, rngs)
        self.leave = Linear(inner, channels, axes=("embed", "embed_out"), init=_ZEROS, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        b, t, h, w, c = x.shape
        positions = jnp.asarray(position_table(self.max_frames, self.inner)[:t]) if self.max_frames else None

        def body(block: Block, tubes: Array) -> Array:
            return block(tubes, positions=positions, partition="groups")

        tubes = _placed(self.norm(x).reshape(b, t, h * w, c).swapaxes(1, 2))
        tubes = run_stack(self.blocks, _placed(self.enter(tubes)), body)
        tubes = _placed(self.leave(_placed(tubes)))
        return x + tubes.swapaxes(1, 2).reshape(x.shape)


def _placed(tubes: Array) -> Array:
    """Tubes `[B, S, T, C]`, and so their gradient, of which each device of `context` has some, with all their frames.

    Where a linear layer's input is cut over frames and its gradient over pixels, XLA (jax 0.10.2) sums that of its
    kernel wrongly.
    """
    return constrain(tubes, "batch", "tokens", "frames", None)


def position_table(frames: int, dim: int) -> np.ndarray:
    """`[frames, dim]` float32: sines at even channels, cosines at odd ones (1706.03762)."""
    frequencies = np.exp(np.arange(0, dim, 2).astype(np.float32) * np.float32(-np.log(10_000.0) / dim))
    angles = np.arange(frames, dtype=np.float32)[:, None] * frequencies
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(frames, dim)


class FrameBlock(nnx.Module):
    """A block over the frames of each pixel that begins with an MLP of its own (2311.15127)."""

    def __init__(self, dim: int, heads: int, *, text_dim: int, kernel: str, rngs: nnx.Rngs):
        self.norm_in = LayerNorm(dim, eps=LAYER_EPS, rngs=rngs)
        self.mlp_in = MLP(dim, 4 * dim, activation="geglu", rngs=rngs)
        self.block = Block(dim, heads, text_dim=text_dim, kernel=kernel, rngs=rngs)

    def __call__(self, x: Array, text: Array, mask: Array | None) -> Array:
        """Tokens `[B, T, S, C]` of T frames; text `[B, L, D]`, or `[B, T, L, D]` of which the first frame's counts."""
        tubes = x.swapaxes(1, 2)
        tubes = tubes + self.mlp_in(self.norm_in(tubes))
        text = text[:, 0] if text.ndim == 4 else text
        mask = mask[:, 0] if mask is not None and mask.ndim == 3 else mask
        return self.block(tubes, text, mask, partition="groups").swapaxes(1, 2)


class FrameMix(nnx.Module):
    """What the blended blocks of one transformer share: the frames' positions and the share of each side."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.channels = channels
        self.positions = VectorEmbedding(channels, channels, hidden=4 * channels, rngs=rngs)
        self.mix = mixing(rngs)

    def rows(self, frames: int, dtype: jnp.dtype) -> Array:
        """Positions of the frames, `[T, 1, C]`."""
        return self.positions(sinusoidal(jnp.arange(frames), self.channels).astype(dtype))[:, None]


@dataclasses.dataclass(frozen=True)
class TemporalUnit:
    """One line of the table above.

    Attributes:
      entry: config -> what stands behind the first convolution.
      after_res: config and place -> what stands behind a residual block, called with the context.
      mixes: whether spatial transformers have a `FrameBlock` behind each block.
      after_attention: config and place -> what stands at the end of a layer.
    """

    entry: Callable[[UNetConfig, nnx.Rngs], nnx.Module | None] = lambda cfg, rngs: None
    after_res: Callable[[UNetConfig, Place, nnx.Rngs], nnx.Module | None] = lambda cfg, place, rngs: None
    mixes: bool = False
    after_attention: Callable[[UNetConfig, Place, nnx.Rngs], nnx.Module | None] = lambda cfg, place, rngs: None


def _entry(cfg: UNetConfig, rngs: nnx.Rngs) -> TemporalTransformer:
    width = cfg.widths[0]
    inner = ENTRY_HEADS * (width // cfg.heads[0])
    options = {"groups": cfg.groups, "max_frames": 0, "kernel": cfg.kernel, "rngs": rngs}
    return TemporalTransformer(width, inner, ENTRY_HEADS, 1, **options)


def _behind_space(cfg: UNetConfig, place: Place, rngs: nnx.Rngs) -> TemporalTransformer | None:
    options = {"groups": cfg.groups, "max_frames": 0, "kernel": cfg.kernel, "rngs": rngs}
    wide = (place.channels, place.channels)
    return TemporalTransformer(*wide, place.heads, 1, **options) if place.depth else None


def motion_module(cfg, place: Place, rngs: nnx.Rngs) -> TemporalTransformer | None:
    """The module of AnimateDiff at a place; `cfg` has `groups`, `max_frames` and `kernel`."""
    options = {"groups": cfg.groups, "max_frames": cfg.max_frames, "kernel": cfg.kernel, "rngs": rngs}
    sizes = (place.channels, place.channels, place.motion_heads, place.motion_depth)
    return TemporalTransformer(*sizes, **options) if place.motion_depth else None


UNITS: dict[str, TemporalUnit] = {
    "none": TemporalUnit(),
    "convolution": TemporalUnit(
        entry=_entry,
        after_res=lambda cfg, place, rngs: TemporalConvs(place.channels, cfg.groups, rngs=rngs),
        after_attention=_behind_space,
    ),
    "motion": TemporalUnit(after_attention=motion_module),
    "mixed": TemporalUnit(after_res=lambda cfg, place, rngs: MixedResBlock(cfg, place, rngs=rngs), mixes=True),
}
