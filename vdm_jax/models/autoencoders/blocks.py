"""Layers that autoencoders share: convolutions, attention within a frame, sampling of pictures down and up by 2.

Clips are `[B, T, H, W, C]` throughout; a layer that works on pictures takes each frame by itself.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.attention import FULL
from vdm_jax.models.autoencoders.chunks import Tape, zeros_before
from vdm_jax.nn.attention import SelfAttention
from vdm_jax.nn.conv import Conv
from vdm_jax.nn.group_norm import GroupNorm
from vdm_jax.sharding.rules import constrain

Array = jax.Array


def spread(x: Array) -> Array:
    """Cuts a clip over the `context` axis of a mesh: its frames if they divide, else its height, else its width."""
    return constrain(x, "batch", "frames", "height", "width", None)


class ResBlock(nnx.Module):
    """`x + conv(silu(norm(conv(silu(norm(x))))))` (1512.03385 with group norm), `[..., in] -> [..., out]`.

    Args:
      in_channels, out_channels: a 1 x 1 shortcut where they differ.
      window: of the convolutions, over two or three dims.
      groups, eps: of the norms, whose statistics are over as many dims.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        rngs: nnx.Rngs,
        groups: int,
        window: tuple[int, ...] = (3, 3),
        eps: float = 1e-6,
    ):
        norm = {"dims": len(window), "eps": eps, "rngs": rngs}
        self.norm1 = GroupNorm(in_channels, groups, **norm)
        self.conv1 = Conv(in_channels, out_channels, window, rngs=rngs)
        self.norm2 = GroupNorm(out_channels, groups, **norm)
        self.conv2 = Conv(out_channels, out_channels, window, rngs=rngs)
        same, point = in_channels == out_channels, (1,) * len(window)
        self.shortcut = None if same else Conv(in_channels, out_channels, point, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return spread(h + (x if self.shortcut is None else self.shortcut(x)))


class CausalConv(nnx.Module):
    """A window of 3 x 3 x 3 whose last frame is the one that it makes: `[B, T, H, W, in] -> [B, T, H, W, out]`.

    Args:
      in_channels, out_channels: of the last dim.
      before: (x, count) -> the frames that stand in front of the first of a clip.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        rngs: nnx.Rngs,
        before: Callable[[Array, int], Array] = zeros_before,
    ):
        self.before = before
        self.conv = Conv(in_channels, out_channels, (3, 3, 3), padding=((0, 0), (1, 1), (1, 1)), rngs=rngs)

    def __call__(self, x: Array, tape: Tape) -> Array:
        return self.conv(tape.extend(x, 2, self.before(x, 2)))


class FrameAttention(nnx.Module):
    """Every pixel of a frame sees that frame, with one head: `x + attend(norm(x))`."""

    def __init__(self, channels: int, norm: nnx.Module, *, rngs: nnx.Rngs):
        self.norm = norm
        self.attention = SelfAttention(channels, 1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        tokens = self.norm(x).reshape(*x.shape[:2], -1, x.shape[-1])  # [B, T, H W, C]
        return x + self.attention(tokens, FULL, tokens="GN").reshape(x.shape)


class Down(nnx.Module):
    """Half the height and width; the window reaches one pixel below and to the right of the frame."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels, (3, 3), stride=2, padding=((0, 1), (0, 1)), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return spread(self.conv(x))


class Up(nnx.Module):
    """Twice the height and width: every pixel four times, then a convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, rngs: nnx.Rngs):
        self.conv = Conv(in_channels, out_channels, (3, 3), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return spread(self.conv(repeat(x, 1, 2)))


def repeat(x: Array, frames: int, side: int) -> Array:
    """The nearest neighbour of each point of a finer grid: `[B, T, H, W, C] -> [B, T frames, H side, W side, C]`."""
    for axis, times in ((1, frames), (2, side), (3, side)):
        x = jnp.repeat(x, times, axis=axis) if times > 1 else x
    return x


def levels(widths: Sequence[int]) -> list[tuple[int, int, bool]]:
    """(channels in, channels out, whether it is the last) of each resolution."""
    before = [widths[0], *widths[:-1]]
    return [(a, b, i == len(widths) - 1) for i, (a, b) in enumerate(zip(before, widths))]
