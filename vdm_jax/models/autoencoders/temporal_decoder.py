"""The autoencoder of Stable Video Diffusion (2311.15127): frames are encoded one by one and decoded together.

A block of its decoder is one on frames and one across them, of which each sees all frames of what is decoded at once:

    y = space(x);    (1 - a) y + a time(y),    a = sigmoid(mix)

so the decoder is not causal, and a clip decoded in pieces is not the clip decoded at once.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.models.autoencoders.blocks import FrameAttention, ResBlock, Up, levels, spread
from vdm_jax.models.autoencoders.chunks import Past, chunk_size, first_chunk, in_chunks
from vdm_jax.models.autoencoders.grid import Grid
from vdm_jax.models.autoencoders.kl import Encoder, Level, Middle, check_widths
from vdm_jax.models.autoencoders.latents import Posterior, Scale
from vdm_jax.nn.conv import Conv
from vdm_jax.nn.group_norm import GroupNorm
from vdm_jax.nn.linear import param

Array = jax.Array
GROUPS = 32


@dataclasses.dataclass(frozen=True)
class TemporalDecoderConfig:
    """An autoencoder whose decoder mixes frames.

    Attributes:
      channels: of the clip, in and out.
      latent_channels: of the latents.
      widths: channels at each resolution, from fine to coarse, multiples of 32; each but the last halves the picture.
      depth: residual blocks of each resolution (the decoder has one more).
      scaling_factor: normalised latents are z times this.

    Raises:
      ValueError: names the field.
    """

    channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    depth: int = 2
    scaling_factor: float = 0.18215

    def __post_init__(self):
        check_widths(self.widths, GROUPS)

    @property
    def grid(self) -> Grid:
        """What can be represented."""
        return Grid(frames=1, side=2 ** (len(self.widths) - 1))

    @property
    def scale(self) -> Scale:
        """From latents to what the diffusion model sees."""
        return Scale(scale=(1.0 / self.scaling_factor,))


class SpaceTimeBlock(nnx.Module):
    """A ResBlock on each frame and one across frames, mixed; see above."""

    def __init__(self, in_channels: int, out_channels: int, *, rngs: nnx.Rngs):
        self.space = ResBlock(in_channels, out_channels, groups=GROUPS, rngs=rngs)
        self.time = ResBlock(out_channels, out_channels, groups=GROUPS, window=(3, 1, 1), eps=1e-5, rngs=rngs)
        self.mix = param(rngs, jax.nn.initializers.zeros, (1,), (None,))

    def __call__(self, x: Array) -> Array:
        y = self.space(x)
        a = jax.nn.sigmoid(self.mix[...]).astype(y.dtype)
        return spread((1 - a) * y + a * self.time(y))


class TemporalDecoder(nnx.Module):
    """`[B, T, h, w, c] -> [B, T, H, W, C]`."""

    def __init__(self, config: TemporalDecoderConfig, rngs: nnx.Rngs):
        widths = config.widths[::-1]

        def level(before: int, width: int, last: bool) -> Level:
            blocks = [SpaceTimeBlock(i, width, rngs=rngs) for i in [before] + [width] * config.depth]
            return Level(blocks, None if last else Up(width, width, rngs=rngs))

        self.conv_in = Conv(config.latent_channels, widths[0], (3, 3), rngs=rngs)
        attention = FrameAttention(widths[0], GroupNorm(widths[0], GROUPS, eps=1e-6, rngs=rngs), rngs=rngs)
        self.middle = Middle(lambda: SpaceTimeBlock(widths[0], widths[0], rngs=rngs), attention)
        self.levels = nnx.List([level(*each) for each in levels(widths)])
        self.norm = GroupNorm(widths[-1], GROUPS, eps=1e-6, rngs=rngs)
        self.conv_out = Conv(widths[-1], config.channels, (3, 3), rngs=rngs)
        self.time_out = Conv(config.channels, config.channels, (3, 1, 1), rngs=rngs)

    def __call__(self, z: Array) -> Array:
        x = self.middle(self.conv_in(spread(z)))
        for level in self.levels:
            x = level(x)
        return self.time_out(self.conv_out(jax.nn.silu(self.norm(x))))


class AutoencoderKLTemporalDecoder(nnx.Module):
    """Clips to latents frame by frame, and back together."""

    def __init__(self, config: TemporalDecoderConfig, rngs: nnx.Rngs):
        c, z = config, config.latent_channels
        self.config = config
        self.encoder = Encoder(c.channels, 2 * z, c.widths, c.depth, GROUPS, True, rngs)
        self.quant = Conv(2 * z, 2 * z, (1, 1), rngs=rngs)
        self.decoder = TemporalDecoder(config, rngs)

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

    def encode_chunk(self, clip: Array, past: Past | None = None) -> tuple[Array, Past]:
        """The moments `[B, T, h, w, 2 c]` of some frames; see `chunks`.  Frames know nothing of each other."""
        return self.quant(self.encoder(clip)), ()

    def decode(self, latents: Array, chunk: int | None = None) -> Array:
        """Args:
          latents: `[B, T, h, w, c]`, not normalised.
          chunk: frames that are decoded together, as the published pipeline does to save memory; frames do not see
            others beyond, so the result depends on it.  The last piece holds what is left.

        Returns:
          `[B, T, H, W, C]`.

        Raises:
          ValueError: latents of another shape.
        """
        self.config.grid.check_latents(latents.shape, self.config.latent_channels)
        every = chunk_size(chunk, latents.shape[1])
        whole = latents.shape[1] // every * every
        step = lambda z, past: (self.decoder(z), ())  # noqa: E731
        clip = in_chunks(step, latents[:, :whole], every, every)
        if whole == latents.shape[1]:
            return clip
        return jnp.concatenate([clip, self.decoder(latents[:, whole:])], axis=1)
