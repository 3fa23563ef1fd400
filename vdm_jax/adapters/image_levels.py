"""A picture that a UNet sees at every level of its way down (the image encoder of AnimateLCM, arXiv 2402.00769).

    h   = conv_0(picture) + s code(frame number)               conv_0 zero at the start
    f_0 = blocks(h)      f_k = blocks(conv_k(pool(f_{k-1})))   conv_k, 1 x 1 and zero, only where channels change
    block(x) = x + conv_1x1(relu(conv_3x3(x)))                 the 1 x 1 zero at the start

The picture, one frame of clean latents, is the same for all frames of the clip; the code says how far a frame is from
it, s = 0 makes still videos.  f_k [B, T, h, w, C_k] is added behind the last layer of level k, before the way to the
next one.  A new adapter adds exactly nothing at s = 0, otherwise s times the code, at the finest level alone.

    image_levels/first/kernel       down/0/layers/1/...      the layers keep their paths
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vdm_jax.adapters.splice import swap
from vdm_jax.models.unet import UNet, UNetConfig
from vdm_jax.models.unet.layers import Layer
from vdm_jax.models.unet.residual import SPACE
from vdm_jax.models.unet.transformer import Context
from vdm_jax.nn.conv import Conv
from vdm_jax.nn.embeddings import sinusoidal
from vdm_jax.types import Condition

Array = jax.Array
TAG = "image_levels"
_ZEROS = jax.nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class ImageLevelsConfig:
    """A picture at every level of a UNet.

    Attributes:
      channels: of the picture.
      blocks: residual blocks of each level.
      motion: s.
    """

    tag: ClassVar[str] = TAG

    channels: int = 4
    blocks: int = 2
    motion: float = 0.8

    def __post_init__(self):
        for name, least in (("channels", 1), ("blocks", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)!r} must be {least} or more")
        if not self.motion >= 0.0:
            raise ValueError(f"motion: {self.motion!r} must be 0 or more")

    def put_into(self, network: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
        """The adapted network; what was given is of no use by itself any more.

        Raises:
          ValueError: it is no plain UNet.
        """
        if type(network) is not UNet:
            raise ValueError(f"adapter: {type(network).__name__} cannot see a picture at its levels (a UNet can, once)")
        for level, part in enumerate(network.down):
            path = ("down", str(level), "layers", str(len(part.layers) - 1))
            swap(network, path, lambda layer, level=level: FedLayer(layer, level))
        return ImageLevelsUNet(network, self, rngs)

    def begin(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a new adapter beside weights that were put in after it: nothing of it is a copy."""
        return dict(params)

    def given(self, frames: int, height: int, width: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """A picture."""
        return {"hint": ((1, height, width, self.channels), np.float32)}


class Encoder(nnx.Module):
    """`[B, 1, H, W, C] -> ([B, T, H, W, C_0], [B, T, H / 2, W / 2, C_1] ...)`."""

    def __init__(self, config: ImageLevelsConfig, trunk: UNetConfig, rngs: nnx.Rngs):
        widths = trunk.widths
        self.motion = config.motion
        self.first = Conv(config.channels, widths[0], SPACE, init=_ZEROS, rngs=rngs)
        self.levels = nnx.List([])
        for width, below in zip(widths, (widths[0], *widths)):
            self.levels.append(_Level(below, width, config.blocks, rngs))

    def __call__(self, picture: Array, frames: int) -> tuple[Array, ...]:
        """What is added at each level of a clip of so many frames."""
        h = self.first(picture)
        code = self.motion * sinusoidal(jnp.arange(frames), h.shape[-1]).astype(h.dtype)
        h, found = h + code[None, :, None, None], []
        for number, level in enumerate(self.levels):
            h = level(pooled(h) if number else h)
            found.append(h)
        return tuple(found)


class _Level(nnx.Module):
    def __init__(self, in_channels: int, channels: int, blocks: int, rngs: nnx.Rngs):
        changes = in_channels != channels
        self.enter = Conv(in_channels, channels, (1, 1), init=_ZEROS, rngs=rngs) if changes else None
        self.blocks = nnx.List([_Block(channels, rngs) for _ in range(blocks)])

    def __call__(self, x: Array) -> Array:
        x = x if self.enter is None else self.enter(x)
        for block in self.blocks:
            x = block(x)
        return x


class _Block(nnx.Module):
    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels, SPACE, rngs=rngs)
        self.out = Conv(channels, channels, (1, 1), init=_ZEROS, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return x + self.out(jax.nn.relu(self.conv(x)))


class FedLayer(Layer):
    """The last layer of a level, which adds what there is of the picture; has the parameters of the layer."""

    def __init__(self, base: Layer, level: int):
        for name, value in vars(base).items():
            if not name.startswith("_"):
                setattr(self, name, value)
        self.level = level

    def __call__(self, x: Array, ctx: Context) -> Array:
        return super().__call__(x, ctx) + ctx.levels[self.level]


@dataclasses.dataclass(frozen=True)
class LevelsContext(Context):
    """A context with what is added at each level."""

    levels: tuple[Array, ...] = ()


class ImageLevelsUNet(UNet):
    """A UNet with a picture at its levels.

    The condition needs `hint`: `[B, 1, H, W, C]`, clean latents of the picture, of the clip's height and width.
    """

    def __init__(self, base: UNet, config: ImageLevelsConfig, rngs: nnx.Rngs):
        for name, value in vars(base).items():
            if not name.startswith("_"):
                setattr(self, name, value)
        self.picture = config
        self.image_levels = Encoder(config, base.config, rngs)

    @property
    def reads(self) -> frozenset[str]:
        """Condition keys that this model reads."""
        return self.config.reads | {"hint"}

    @property
    def may_read(self) -> frozenset[str]:
        """What it reads where it is given."""
        return self.config.may_read | {"hint"}

    def __call__(self, x: Array, t: Array, cond: Condition | None = None, **options: Any) -> Array:
        """As `UNet`; raises ValueError also for a picture of another size, or of more than one frame."""
        if "hint" in (cond or {}):
            b, _, height, width, _ = x.shape
            found, wanted = jnp.shape(cond["hint"]), (b, 1, height, width, self.picture.channels)
            if found != wanted:
                raise ValueError(f"condition: hint has shape {found}, expected one frame, [B, 1, H, W, C]={wanted}")
        return super().__call__(x, t, cond, **options)

    def context(self, frames: int, batch: int, t: Array, cond: Condition, dtype: jnp.dtype) -> LevelsContext:
        """See `Half.context`."""
        ctx = super().context(frames, batch, t, cond, dtype)
        levels = self.image_levels(cond["hint"].astype(dtype), frames)
        return LevelsContext(**vars(ctx), levels=levels)


def pooled(x: Array) -> Array:
    """`[B, T, H, W, C]` to half the height and width, rounded up: means over 2 x 2 pixels, or those that are there."""
    sizes = x.shape[2:4]
    ends = tuple((0, size % 2) for size in sizes)
    padding = ((0, 0), (0, 0), *ends, (0, 0))

    def added(y: Array) -> Array:
        zero = jnp.zeros((), y.dtype)
        return jax.lax.reduce_window(y, zero, jax.lax.add, (1, 1, 2, 2, 1), (1, 1, 2, 2, 1), padding)

    return added(x) / added(jnp.ones((1, 1, *sizes, 1), x.dtype))
