"""The causal video autoencoder of Wan 2.1 and 2.2 (2503.20314): 4 x 8 x 8 and 4 x 16 x 16 pixels to a latent.

    x -> (2.2: 2 x 2 patches) -> conv, [ResBlocks, Shrink] per resolution, middle -> mean, logvar
    z -> conv, middle, [ResBlocks, Grow] per resolution, conv -> x, within [-1, 1]

No frame sees a later one, so a clip in chunks is the clip at once.  Around each resolution of 2.2 goes a shortcut
without parameters, made of means on the way in and of repeated values on the way out.
"""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from vdm_jax.models.autoencoders.blocks import CausalConv, spread
from vdm_jax.models.autoencoders.chunks import Past, Tape, chunk_size, first_chunk, in_chunks
from vdm_jax.models.autoencoders.grid import Grid
from vdm_jax.models.autoencoders.latents import Posterior, Scale, check_channels
from vdm_jax.models.autoencoders.wan_blocks import (
    CausalMiddle,
    CausalResBlock,
    Grow,
    Shrink,
    mean_shortcut,
    repeat_shortcut,
    wan_norm,
)
from vdm_jax.nn.conv import Conv

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class WanConfig:
    """A causal video autoencoder.

    Attributes:
      channels: of the clip, in and out.
      latent_channels: of the latents.
      dim, decoder_dim: width of the finest resolution of the encoder and of the decoder.
      multipliers: width of each resolution, from fine to coarse, in units of that; each but the last halves the
        picture.
      halve_time: for each of those that halve the picture, whether it halves the frame rate too.
      depth: residual blocks of each resolution (the decoder has one more).
      patch: side of the squares of pixels whose values become channels before anything else.
      shortcuts: whether there are shortcuts around resolutions (2.2).
      latents_mean, latents_std: normalised latents are `(z - mean) / std`, per channel.

    Raises:
      ValueError: names the field.
    """

    channels: int = 3
    latent_channels: int = 16
    dim: int = 96
    decoder_dim: int = 96
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    halve_time: tuple[bool, ...] = (False, True, True)
    depth: int = 2
    patch: int = 1
    shortcuts: bool = False
    latents_mean: tuple[float, ...] = (0.0,) * 16
    latents_std: tuple[float, ...] = (1.0,) * 16

    def __post_init__(self):
        if len(self.halve_time) != len(self.multipliers) - 1:
            raise ValueError(f"halve_time: {self.halve_time} must have {len(self.multipliers) - 1} values")
        check_channels("latents_mean", self.latents_mean, self.latent_channels)
        check_channels("latents_std", self.latents_std, self.latent_channels)

    @property
    def grid(self) -> Grid:
        """What can be represented: one frame, and so many more for each latent frame."""
        frames = 2 ** sum(self.halve_time)
        return Grid(frames, self.patch * 2 ** len(self.halve_time), period=frames, remainders=(1 % frames,))

    @property
    def scale(self) -> Scale:
        """From latents to what the diffusion model sees."""
        return Scale(self.latents_mean, self.latents_std)


class EncoderLevel(nnx.Module):
    """The blocks of one resolution, the way to the next, and the shortcut around them."""

    def __init__(self, ins: int, out: int, halve: bool, time: bool, config: WanConfig, rngs: nnx.Rngs):
        self.out, self.frames, self.side = out, 1 + time, 1 + halve
        self.shortcut = config.shortcuts
        widths = [ins] + [out] * (config.depth - 1)
        self.blocks = nnx.List([CausalResBlock(width, out, rngs=rngs) for width in widths])
        self.shrink = Shrink(out, time, rngs=rngs) if halve else None

    def __call__(self, x: Array, tape: Tape) -> Array:
        h = x
        for block in self.blocks:
            h = block(h, tape)
        h = h if self.shrink is None else self.shrink(h, tape)
        return h + mean_shortcut(x, self.out, self.frames, self.side) if self.shortcut else h


class DecoderLevel(nnx.Module):
    """The blocks of one resolution, the way to the next, and the shortcut around them."""

    def __init__(self, ins: int, out: int, double: bool, time: bool, config: WanConfig, rngs: nnx.Rngs):
        self.out, self.frames = out, 1 + time
        self.shortcut = config.shortcuts and double
        self.blocks = nnx.List([CausalResBlock(width, out, rngs=rngs) for width in [ins] + [out] * config.depth])
        after = out if config.shortcuts else out // 2
        self.grow = Grow(out, after, time, rngs=rngs) if double else None

    def __call__(self, x: Array, tape: Tape) -> Array:
        h = x
        for block in self.blocks:
            h = block(h, tape)
        h = h if self.grow is None else self.grow(h, tape)
        return h + repeat_shortcut(x, self.out, self.frames, 2, tape.first) if self.shortcut else h


class Encoder(nnx.Module):
    """`[B, T, H, W, C] -> [B, t, h, w, 2 c]`."""

    def __init__(self, config: WanConfig, rngs: nnx.Rngs):
        widths = [config.dim * m for m in (1, *config.multipliers)]
        halves = [*config.halve_time, None]
        self.conv_in = CausalConv(config.channels * config.patch**2, widths[0], rngs=rngs)
        self.levels = nnx.List(
            [
                EncoderLevel(ins, out, time is not None, bool(time), config, rngs)
                for ins, out, time in zip(widths[:-1], widths[1:], halves)
            ]
        )
        self.middle = CausalMiddle(widths[-1], rngs=rngs)
        self.norm = wan_norm(widths[-1], rngs)
        self.conv_out = CausalConv(widths[-1], 2 * config.latent_channels, rngs=rngs)

    def __call__(self, x: Array, tape: Tape) -> Array:
        x = self.conv_in(spread(x), tape)
        for level in self.levels:
            x = level(x, tape)
        return self.conv_out(jax.nn.silu(self.norm(self.middle(x, tape))), tape)


class Decoder(nnx.Module):
    """`[B, t, h, w, c] -> [B, T, H, W, C]`."""

    def __init__(self, config: WanConfig, rngs: nnx.Rngs):
        widths = [config.decoder_dim * m for m in (config.multipliers[-1], *config.multipliers[::-1])]
        doubles = [*config.halve_time[::-1], None]
        self.conv_in = CausalConv(config.latent_channels, widths[0], rngs=rngs)
        self.middle = CausalMiddle(widths[0], rngs=rngs)
        # Without shortcuts the way up halves the channels already.
        ins = widths[:1] + [width if config.shortcuts else width // 2 for width in widths[1:-1]]
        self.levels = nnx.List(
            [
                DecoderLevel(before, out, time is not None, bool(time), config, rngs)
                for before, out, time in zip(ins, widths[1:], doubles)
            ]
        )
        self.norm = wan_norm(widths[-1], rngs)
        self.conv_out = CausalConv(widths[-1], config.channels * config.patch**2, rngs=rngs)

    def __call__(self, z: Array, tape: Tape) -> Array:
        x = self.middle(self.conv_in(spread(z), tape), tape)
        for level in self.levels:
            x = level(x, tape)
        return self.conv_out(jax.nn.silu(self.norm(x)), tape)


class AutoencoderKLWan(nnx.Module):
    """Clips to latents and back."""

    def __init__(self, config: WanConfig, rngs: nnx.Rngs):
        z = config.latent_channels
        self.config = config
        self.encoder = Encoder(config, rngs)
        self.quant = Conv(2 * z, 2 * z, (1, 1, 1), rngs=rngs)
        self.post_quant = Conv(z, z, (1, 1, 1), rngs=rngs)
        self.decoder = Decoder(config, rngs)

    def encode(self, clip: Array, chunk: int | None = None) -> Posterior:
        """Args:
          clip: `[B, T, H, W, C]` in [-1, 1], of a size that `config.grid` has.
          chunk: latent frames at a time, for bounded memory; the result is the same.

        Returns:
          `[B, t, h, w, c]`.

        Raises:
          ValueError: a size that cannot be represented, with the nearest that can.
        """
        grid = self.config.grid
        grid.check_clip(clip.shape)
        length = grid.latent_frames(clip.shape[1])
        every = chunk_size(chunk, length)
        first = grid.clip_frames(first_chunk(length, every))
        return Posterior.of(in_chunks(self.encode_chunk, clip, first, every * grid.frames))

    def decode(self, latents: Array, chunk: int | None = None) -> Array:
        """Args:
          latents: `[B, t, h, w, c]`, not normalised.
          chunk: latent frames at a time, for bounded memory; the result is the same.

        Returns:
          `[B, T, H, W, C]` within [-1, 1].

        Raises:
          ValueError: latents of another shape.
        """
        self.config.grid.check_latents(latents.shape, self.config.latent_channels)
        every = chunk_size(chunk, latents.shape[1])
        return in_chunks(self.decode_chunk, latents, first_chunk(latents.shape[1], every), every)

    def encode_chunk(self, clip: Array, past: Past | None = None) -> tuple[Array, Past]:
        """One step of `chunks`.

        Args:
          clip: `[B, T, H, W, C]`; from the second chunk on, T is a multiple of `config.grid.frames`.
          past: what the step before returned; None at the start of a clip.

        Returns:
          The moments `[B, t, h, w, 2 c]`, and the past of the next step.

        Raises:
          ValueError: see `encode`.
        """
        self.config.grid.check_clip(clip.shape, continued=past is not None)
        tape, p = Tape(past), self.config.patch
        x = rearrange(clip, "b t (h i) (w j) c -> b t h w (c j i)", i=p, j=p)
        return self.quant(self.encoder(x, tape)), tape.past()

    def decode_chunk(self, latents: Array, past: Past | None = None) -> tuple[Array, Past]:
        """One step of `chunks`: any number of latent frames to the frames of the clip that they stand for."""
        tape, p = Tape(past), self.config.patch
        x = self.decoder(self.post_quant(latents), tape)
        x = rearrange(x, "b t h w (c j i) -> b t (h i) (w j) c", i=p, j=p)
        return jnp.clip(x, -1.0, 1.0), tape.past()
