"""Residual blocks, and the ways between levels.

    h = conv(silu(norm(x))) + Linear(silu(time embedding));   y = shortcut(x) + conv(silu(norm(h)))

A window of (3, 3) works on frames and its norms on one frame each; one of (3, 1, 1) on time, with norms over the clip.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.nn.conv import Conv
from vdm_jax.nn.group_norm import GroupNorm
from vdm_jax.nn.linear import Initializer, Linear

Array = jax.Array
SPACE, TIME = (3, 3), (3, 1, 1)


class ResBlock(nnx.Module):
    """`[B, T, H, W, in] -> [B, T, H, W, out]`; `last_init` is that of the last kernel."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        time_dim: int,
        *,
        window: tuple[int, ...],
        groups: int,
        eps: float,
        last_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        norm = {"dims": len(window), "eps": eps, "rngs": rngs}
        self.norm1 = GroupNorm(in_channels, groups, **norm)
        self.conv1 = Conv(in_channels, channels, window, rngs=rngs)
        self.time = Linear(time_dim, channels, axes=("embed", "embed_out"), rngs=rngs)
        self.norm2 = GroupNorm(channels, groups, **norm)
        self.conv2 = Conv(channels, channels, window, init=last_init, rngs=rngs)
        ones = (1,) * len(window)
        self.shortcut = Conv(in_channels, channels, ones, rngs=rngs) if in_channels != channels else None

    def __call__(self, x: Array, time: Array) -> Array:
        """Args:
        x: `[B, T, H, W, in]`.
        time: `[B, T, E]`, after SiLU.
        """
        h = self.conv1(jax.nn.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return h + (x if self.shortcut is None else self.shortcut(x))


class Downsample(nnx.Module):
    """`[B, T, H, W, C]` to half the height and width, rounded up."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels, SPACE, stride=2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.conv(x)


class Upsample(nnx.Module):
    """`[B, T, H, W, C]` to twice the height and width or one less, whichever the finer level has."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels, SPACE, rngs=rngs)

    def __call__(self, x: Array, height: int, width: int) -> Array:
        b, t, h, w, c = x.shape
        x = jnp.broadcast_to(x[:, :, :, None, :, None], (b, t, h, 2, w, 2, c)).reshape(b, t, 2 * h, 2 * w, c)
        return self.conv(x[:, :, :height, :width])
