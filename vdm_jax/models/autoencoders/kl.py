"""Autoencoder of single frames (latent diffusion 2112.10752), the one of Stable Diffusion 1, 2, XL and 3.

x -> convolutions, [ResBlocks, Down] per resolution, middle (ResBlock, attention, ResBlock) -> mean, logvar
z -> middle, [ResBlocks, Up] per resolution -> x
"""

import dataclasses
from collections.abc import Callable

import jax
from flax import nnx

from vdm_jax.models.autoencoders.blocks import Down, FrameAttention, ResBlock, Up, levels, spread
from vdm_jax.models.autoencoders.chunks import Past, chunk_size, first_chunk, in_chunks
from vdm_jax.models.autoencoders.grid import Grid
from vdm_jax.models.autoencoders.latents import Posterior, Scale, check_channels
from vdm_jax.nn.conv import Conv
from vdm_jax.nn.group_norm import GroupNorm

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class KLConfig:
    """An autoencoder of single frames.

    Attributes:
      channels: of the clip, in and out.
      latent_channels: of the latents.
      widths: channels at each resolution, from fine to coarse; each but the last halves the picture.
      depth: residual blocks of each resolution (the decoder has one more).
      groups: of the group norms.
      quant, post_quant: whether a 1 x 1 convolution follows the encoder, and precedes the decoder.
      mid_attention: whether there is attention in the middle.
      scaling_factor, shift_factor: normalised latents are `(z - shift) factor` ...
      latents_mean, latents_std: ... or `(z - mean) factor / std`, per channel.

    Raises:
      ValueError: names the field.
    """

    channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    depth: int = 2
    groups: int = 32
    quant: bool = True
    post_quant: bool = True
    mid_attention: bool = True
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None

    def __post_init__(self):
        check_widths(self.widths, self.groups)
        check_channels("latents_mean", self.latents_mean, self.latent_channels)
        check_channels("latents_std", self.latents_std, self.latent_channels)
        if self.shift_factor is not None and self.latents_mean is not None:
            raise ValueError("shift_factor: there is latents_mean, too; give one of the two")

    @property
    def grid(self) -> Grid:
        """What can be represented."""
        return Grid(frames=1, side=2 ** (len(self.widths) - 1))

    @property
    def scale(self) -> Scale:
        """From latents to what the diffusion model sees."""
        std = self.latents_std or (1.0,)
        return Scale(self.latents_mean or (self.shift_factor or 0.0,), tuple(s / self.scaling_factor for s in std))


def check_widths(widths: tuple[int, ...], groups: int) -> None:
    """Raises ValueError unless there is a resolution and the groups divide all widths."""
    if not widths:
        raise ValueError("widths: () must name the channels of one resolution or more")
    for width in widths:
        if width % groups:
            raise ValueError(f"widths: {width} must divide by groups={groups}")


class Middle(nnx.Module):
    """A block, attention within frames, a block."""

    def __init__(self, make_block: Callable[[], nnx.Module], attention: FrameAttention | None):
        self.before = make_block()
        self.attention = attention
        self.after = make_block()

    def __call__(self, x: Array) -> Array:
        x = self.before(x)
        return self.after(x if self.attention is None else self.attention(x))


def picture_middle(channels: int, groups: int, attention: bool, rngs: nnx.Rngs) -> Middle:
    """A middle of ResBlocks."""
    norm = GroupNorm(channels, groups, eps=1e-6, rngs=rngs) if attention else None
    attend = FrameAttention(channels, norm, rngs=rngs) if attention else None
    return Middle(lambda: ResBlock(channels, channels, groups=groups, rngs=rngs), attend)


class Level(nnx.Module):
    """The residual blocks of one resolution, then the way to the next one, if there is one."""

    def __init__(self, blocks: list[nnx.Module], resample: nnx.Module | None):
        self.blocks = nnx.List(blocks)
        self.resample = resample

    def __call__(self, x: Array) -> Array:
        for block in self.blocks:
            x = block(x)
        return x if self.resample is None else self.resample(x)


class Encoder(nnx.Module):
    """`[B, T, H, W, C] -> [B, T, h, w, out]`."""

    def __init__(
        self, channels: int, out: int, widths: tuple[int, ...], depth: int, groups: int, attention: bool, rngs: nnx.Rngs
    ):
        def level(before: int, width: int, last: bool) -> Level:
            ins = [before] + [width] * (depth - 1)
            blocks = [ResBlock(i, width, groups=groups, rngs=rngs) for i in ins]
            return Level(blocks, None if last else Down(width, rngs=rngs))

        self.conv_in = Conv(channels, widths[0], (3, 3), rngs=rngs)
        self.levels = nnx.List([level(*each) for each in levels(widths)])
        self.middle = picture_middle(widths[-1], groups, attention, rngs)
        self.norm = GroupNorm(widths[-1], groups, eps=1e-6, rngs=rngs)
        self.conv_out = Conv(widths[-1], out, (3, 3), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.conv_in(spread(x))
        for level in self.levels:
            x = level(x)
        return self.conv_out(jax.nn.silu(self.norm(self.middle(x))))


class Decoder(nnx.Module):
    """`[B, T, h, w, c] -> [B, T, H, W, C]`."""

    def __init__(self, config: KLConfig, rngs: nnx.Rngs):
        widths, groups = config.widths[::-1], config.groups

        def level(before: int, width: int, last: bool) -> Level:
            blocks = [ResBlock(i, width, groups=groups, rngs=rngs) for i in [before] + [width] * config.depth]
            return Level(blocks, None if last else Up(width, width, rngs=rngs))

        self.conv_in = Conv(config.latent_channels, widths[0], (3, 3), rngs=rngs)
        self.middle = picture_middle(widths[0], groups, config.mid_attention, rngs)
        self.levels = nnx.List([level(*each) for each in levels(widths)])
        self.norm = GroupNorm(widths[-1], groups, eps=1e-6, rngs=rngs)
        self.conv_out = Conv(widths[-1], config.channels, (3, 3), rngs=rngs)

    def __call__(self, z: Array) -> Array:
        x = self.middle(self.conv_in(spread(z)))
        for level in self.levels:
            x = level(x)
        return self.conv_out(jax.nn.silu(self.norm(x)))


class AutoencoderKL(nnx.Module):
    """Clips to latents and back, every frame by itself."""

    def __init__(self, config: KLConfig, rngs: nnx.Rngs):
        c, z = config, config.latent_channels
        self.config = config
        self.encoder = Encoder(c.channels, 2 * z, c.widths, c.depth, c.groups, c.mid_attention, rngs)
        self.quant = Conv(2 * z, 2 * z, (1, 1), rngs=rngs) if c.quant else None
        self.post_quant = Conv(z, z, (1, 1), rngs=rngs) if c.post_quant else None
        self.decoder = Decoder(config, rngs)

    def encode(self, clip: Array, chunk: int | None = None) -> Posterior:
        """Args:
          clip: `[B, T, H, W, C]` in [-1, 1]; H and W multiples of `config.grid.side`.
          chunk: frames at a time, for bounded memory; the result is the same.

        Returns:
          `[B, T, h, w, c]`.

        Raises:
          ValueError: a size that cannot be represented, with the nearest that can.
        """
        self.config.grid.check_clip(clip.shape)
        every = chunk_size(chunk, clip.shape[1])
        return Posterior.of(in_chunks(self.encode_chunk, clip, first_chunk(clip.shape[1], every), every))

    def decode(self, latents: Array, chunk: int | None = None) -> Array:
        """Args:
          latents: `[B, T, h, w, c]`, not normalised.
          chunk: frames at a time, for bounded memory; the result is the same.

        Returns:
          `[B, T, H, W, C]`.

        Raises:
          ValueError: latents of another shape.
        """
        self.config.grid.check_latents(latents.shape, self.config.latent_channels)
        every = chunk_size(chunk, latents.shape[1])
        return in_chunks(self.decode_chunk, latents, first_chunk(latents.shape[1], every), every)

    def encode_chunk(self, clip: Array, past: Past | None = None) -> tuple[Array, Past]:
        """The moments `[B, T, h, w, 2 c]` of some frames; see `chunks`.  Frames know nothing of each other."""
        moments = self.encoder(clip)
        return (moments if self.quant is None else self.quant(moments)), ()

    def decode_chunk(self, latents: Array, past: Past | None = None) -> tuple[Array, Past]:
        """The pixels of some frames."""
        return self.decoder(latents if self.post_quant is None else self.post_quant(latents)), ()
