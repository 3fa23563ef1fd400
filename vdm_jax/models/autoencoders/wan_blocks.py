"""Layers of the Wan autoencoder: causal convolutions over time, and what halves and doubles the frame rate.

Every layer is called with the `Tape` of its pass.  The first frame of a clip never mixes with others where the frame
rate changes: T = 4 k + 1 frames have k + 1 latent frames, of which the first is that of the first frame alone.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from vdm_jax.models.autoencoders.blocks import CausalConv, Down, FrameAttention, Up, spread
from vdm_jax.models.autoencoders.chunks import Tape, zeros_before
from vdm_jax.nn.conv import Conv
from vdm_jax.nn.norms import RMSNorm

Array = jax.Array


def wan_norm(channels: int, rngs: nnx.Rngs) -> RMSNorm:
    """RMS norm over the channels, of which only those of a black input need an epsilon."""
    return RMSNorm((channels,), eps=1e-24, rngs=rngs)


class CausalResBlock(nnx.Module):
    """`x + conv(silu(norm(conv(silu(norm(x))))))`."""

    def __init__(self, in_channels: int, out_channels: int, *, rngs: nnx.Rngs):
        self.norm1 = wan_norm(in_channels, rngs)
        self.conv1 = CausalConv(in_channels, out_channels, rngs=rngs)
        self.norm2 = wan_norm(out_channels, rngs)
        self.conv2 = CausalConv(out_channels, out_channels, rngs=rngs)
        same = in_channels == out_channels
        self.shortcut = None if same else Conv(in_channels, out_channels, (1, 1, 1), rngs=rngs)

    def __call__(self, x: Array, tape: Tape) -> Array:
        h = self.conv1(jax.nn.silu(self.norm1(x)), tape)
        h = self.conv2(jax.nn.silu(self.norm2(h)), tape)
        return spread(h + (x if self.shortcut is None else self.shortcut(x)))


class CausalMiddle(nnx.Module):
    """ResBlock, attention within frames, ResBlock."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.before = CausalResBlock(channels, channels, rngs=rngs)
        self.attention = FrameAttention(channels, wan_norm(channels, rngs), rngs=rngs)
        self.after = CausalResBlock(channels, channels, rngs=rngs)

    def __call__(self, x: Array, tape: Tape) -> Array:
        return self.after(self.attention(self.before(x, tape)), tape)


class Shrink(nnx.Module):
    """Half the height and width, and with `time` half the frame rate:  y_0 = x_0,  y_i = conv(x_2i-2, x_2i-1, x_2i)."""

    def __init__(self, channels: int, time: bool, *, rngs: nnx.Rngs):
        self.space = Down(channels, rngs=rngs)
        thirds = {"stride": (2, 1, 1), "padding": ((0, 0),) * 3}
        self.time = Conv(channels, channels, (3, 1, 1), rngs=rngs, **thirds) if time else None

    def __call__(self, x: Array, tape: Tape) -> Array:
        x = self.space(x)
        if self.time is None:
            return x
        joined = tape.extend(x, 1, zeros_before(x, 0))
        parts = [x[:, :1]] if tape.first else []
        parts += [self.time(joined)] if joined.shape[1] > 1 else []
        return spread(jnp.concatenate(parts, axis=1))


class Grow(nnx.Module):
    """Twice the height and width, and with `time` twice the frame rate, a frame alone in front:

    y_0 = x_0,    (y_2i-1, y_2i) = conv(x_i-2, x_i-1, x_i)  with zeros for x_0 and before.
    """

    def __init__(self, channels: int, out_channels: int, time: bool, *, rngs: nnx.Rngs):
        self.space = Up(channels, out_channels, rngs=rngs)
        self.time = Conv(channels, 2 * channels, (3, 1, 1), padding=((0, 0),) * 3, rngs=rngs) if time else None

    def __call__(self, x: Array, tape: Tape) -> Array:
        if self.time is not None:
            alone = int(tape.first)
            joined = tape.extend(x[:, alone:], 2, zeros_before(x, 2))
            parts = [x[:, :alone]]
            if joined.shape[1] > 2:
                parts.append(rearrange(self.time(joined), "b t h w (two c) -> b (t two) h w c", two=2))
            x = jnp.concatenate(parts, axis=1)
        return self.space(x)


def mean_shortcut(x: Array, out_channels: int, frames: int, side: int) -> Array:
    """Means of neighbouring values of a block of `frames x side x side` pixels and its channels, one per channel out.

    A frame alone counts as the last of its block; the others are zero.
    """
    missing = -x.shape[1] % frames
    x = jnp.concatenate([zeros_before(x, missing), x], axis=1) if missing else x
    x = rearrange(x, "b (t f) (h i) (w j) c -> b t h w (c f i j)", f=frames, i=side, j=side)
    return x.reshape(*x.shape[:-1], out_channels, -1).mean(axis=-1)


def repeat_shortcut(x: Array, out_channels: int, frames: int, side: int, first: bool) -> Array:
    """The channels of each pixel, repeated, become a block of `frames x side x side` pixels.

    The first frame of a clip becomes the last one of its block alone.
    """
    x = jnp.repeat(x, out_channels * frames * side * side // x.shape[-1], axis=-1)
    x = rearrange(x, "b t h w (c f i j) -> b (t f) (h i) (w j) c", f=frames, i=side, j=side)
    return x[:, frames - 1 :] if first else x
