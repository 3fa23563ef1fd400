"""The causal video autoencoder of CogVideoX (2408.06072): 4 x 8 x 8 pixels to a latent.

    x -> conv, [ResBlocks, Halve] per resolution, 2 ResBlocks -> mean, logvar
    z -> conv, 2 ResBlocks, [ResBlocks, Double] per resolution, conv -> x

Norms of the decoder are `group_norm(h) a(z) + b(z)` (2209.09002).  Group norms take statistics over all frames that
pass at once.  Published code passes 8 frames (2 latent frames), and at first one more if their number is odd, with what
causal convolutions saw before carried along; its weights were trained for that.  So these chunks are part of the
function, memory is bounded for any length, and a clip in pieces of this size gives what the whole clip gives.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.models.autoencoders.blocks import CausalConv, Down, levels, repeat, spread
from vdm_jax.models.autoencoders.chunks import Past, Tape, first_before, in_chunks
from vdm_jax.models.autoencoders.grid import Grid
from vdm_jax.models.autoencoders.kl import check_widths
from vdm_jax.models.autoencoders.latents import Posterior, Scale
from vdm_jax.nn.conv import Conv
from vdm_jax.nn.group_norm import GroupNorm

Array = jax.Array
FRAMES, LATENT_FRAMES = 8, 2  # of a chunk
HALVINGS = 2  # of the frame rate


@dataclasses.dataclass(frozen=True)
class CogVideoXConfig:
    """A causal video autoencoder.

    Attributes:
      channels: of the clip, in and out.
      latent_channels: of the latents.
      widths: channels at each resolution, from fine to coarse; each but the last halves the picture, and the first two
        the frame rate.
      depth: residual blocks of each resolution (the decoder has one more).
      groups: of the group norms.
      eps: of those in residual blocks of the encoder; all others have 1e-6.
      scaling_factor: normalised latents are z times this ...
      invert_scale_latents: ... but those of a given first frame, in image-to-video, are z divided by it.

    Raises:
      ValueError: names the field.
    """

    channels: int = 3
    latent_channels: int = 16
    widths: tuple[int, ...] = (128, 256, 256, 512)
    depth: int = 3
    groups: int = 32
    eps: float = 1e-6
    scaling_factor: float = 1.15258426
    invert_scale_latents: bool = False

    def __post_init__(self):
        check_widths(self.widths, self.groups)
        if len(self.widths) <= HALVINGS:
            raise ValueError(f"widths: {self.widths} must be {HALVINGS + 1} or more, to halve the frame rate twice")

    @property
    def grid(self) -> Grid:
        """What can be represented: one frame, 8 k, or 8 k + 1."""
        return Grid(2**HALVINGS, 2 ** (len(self.widths) - 1), period=FRAMES, remainders=(0, 1))

    @property
    def scale(self) -> Scale:
        """From latents to what the diffusion model sees."""
        return Scale(scale=(1.0 / self.scaling_factor,))

    @property
    def image_scale(self) -> Scale:
        """The same for the latents of a given picture."""
        return Scale(scale=(self.scaling_factor,)) if self.invert_scale_latents else self.scale


class PlainNorm(nnx.Module):
    """Group norm over the chunk; called like `LatentNorm`."""

    def __init__(self, channels: int, config: CogVideoXConfig, eps: float, *, rngs: nnx.Rngs):
        self.norm = GroupNorm(channels, config.groups, dims=3, eps=eps, rngs=rngs)

    def __call__(self, x: Array, z: Array | None) -> Array:
        return self.norm(x)


class LatentNorm(nnx.Module):
    """Group norm over the chunk, its scale and bias at each point a linear map of the latents there."""

    def __init__(self, channels: int, config: CogVideoXConfig, *, rngs: nnx.Rngs):
        self.norm = GroupNorm(channels, config.groups, dims=3, eps=1e-6, rngs=rngs)
        self.scale = Conv(config.latent_channels, channels, (1, 1, 1), rngs=rngs)
        self.bias = Conv(config.latent_channels, channels, (1, 1, 1), rngs=rngs)

    def __call__(self, x: Array, z: Array) -> Array:
        # A map of each point commutes with repeating the points, and costs up to 256 times less before it.
        scale, bias = (stretch(conv(z), x.shape) for conv in (self.scale, self.bias))
        return self.norm(x) * scale + bias


def stretch(z: Array, shape: tuple[int, ...]) -> Array:
    """Repeats `z [B, t, h, w, c]` to the points of `shape`; the first of an odd number of frames stays alone."""
    side, frames = shape[2] // z.shape[2], shape[1] // z.shape[1]
    if shape[1] % 2 == 0 or shape[1] == 1:
        return repeat(z, frames, side)
    rest = (shape[1] - 1) // (z.shape[1] - 1)
    return jnp.concatenate([repeat(z[:, :1], 1, side), repeat(z[:, 1:], rest, side)], axis=1)


class CogBlock(nnx.Module):
    """`x + conv(silu(norm(conv(silu(norm(x))))))`, of causal convolutions."""

    def __init__(self, ins: int, out: int, config: CogVideoXConfig, *, latent: bool, rngs: nnx.Rngs):
        def norm(channels: int) -> nnx.Module:
            if latent:
                return LatentNorm(channels, config, rngs=rngs)
            return PlainNorm(channels, config, config.eps, rngs=rngs)

        self.norm1 = norm(ins)
        self.conv1 = CausalConv(ins, out, before=first_before, rngs=rngs)
        self.norm2 = norm(out)
        self.conv2 = CausalConv(out, out, before=first_before, rngs=rngs)
        self.shortcut = None if ins == out else Conv(ins, out, (1, 1, 1), rngs=rngs)

    def __call__(self, x: Array, z: Array | None, tape: Tape) -> Array:
        h = self.conv1(jax.nn.silu(self.norm1(x, z)), tape)
        h = self.conv2(jax.nn.silu(self.norm2(h, z)), tape)
        return spread(h + (x if self.shortcut is None else self.shortcut(x)))


class Halve(nnx.Module):
    """Half the height and width, and with `time` means of pairs of frames; the first of an odd number stays alone."""

    def __init__(self, channels: int, time: bool, *, rngs: nnx.Rngs):
        self.time = time
        self.space = Down(channels, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        if self.time:
            alone, rest = jnp.split(x, [x.shape[1] % 2], axis=1)
            pairs = rest.reshape(rest.shape[0], -1, 2, *rest.shape[2:]).mean(axis=2) if rest.shape[1] else rest
            x = jnp.concatenate([alone, pairs], axis=1)
        return self.space(x)


class Double(nnx.Module):
    """Twice the height and width, and with `time` every frame twice; the first of an odd number stays alone."""

    def __init__(self, channels: int, time: bool, *, rngs: nnx.Rngs):
        self.time = time
        self.conv = Conv(channels, channels, (3, 3), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        frames = x.shape[1]
        if self.time:
            frames = 2 * frames if frames % 2 == 0 else 2 * frames - 1
        return spread(self.conv(stretch(x, (x.shape[0], frames, 2 * x.shape[2]))))


class CogLevel(nnx.Module):
    """The blocks of one resolution, then the way to the next one, if there is one."""

    def __init__(self, blocks: list[CogBlock], resample: nnx.Module | None):
        self.blocks = nnx.List(blocks)
        self.resample = resample

    def __call__(self, x: Array, z: Array | None, tape: Tape) -> Array:
        for block in self.blocks:
            x = block(x, z, tape)
        return x if self.resample is None else self.resample(x)


class Encoder(nnx.Module):
    """`[B, T, H, W, C] -> [B, t, h, w, 2 c]`."""

    def __init__(self, config: CogVideoXConfig, rngs: nnx.Rngs):
        widths, depth = config.widths, config.depth

        def blocks(ins: int, out: int, count: int) -> list[CogBlock]:
            return [CogBlock(i, out, config, latent=False, rngs=rngs) for i in [ins] + [out] * (count - 1)]

        self.conv_in = CausalConv(config.channels, widths[0], before=first_before, rngs=rngs)
        self.levels = nnx.List(
            [
                CogLevel(blocks(ins, out, depth), None if last else Halve(out, i < HALVINGS, rngs=rngs))
                for i, (ins, out, last) in enumerate(levels(widths))
            ]
        )
        self.middle = CogLevel(blocks(widths[-1], widths[-1], 2), None)
        self.norm = PlainNorm(widths[-1], config, 1e-6, rngs=rngs)
        self.conv_out = CausalConv(widths[-1], 2 * config.latent_channels, before=first_before, rngs=rngs)

    def __call__(self, x: Array, tape: Tape) -> Array:
        x = self.conv_in(spread(x), tape)
        for level in self.levels:
            x = level(x, None, tape)
        x = self.middle(x, None, tape)
        return self.conv_out(jax.nn.silu(self.norm(x, None)), tape)


class Decoder(nnx.Module):
    """`[B, t, h, w, c] -> [B, T, H, W, C]`."""

    def __init__(self, config: CogVideoXConfig, rngs: nnx.Rngs):
        widths = config.widths[::-1]

        def blocks(ins: int, out: int, count: int) -> list[CogBlock]:
            return [CogBlock(i, out, config, latent=True, rngs=rngs) for i in [ins] + [out] * (count - 1)]

        self.conv_in = CausalConv(config.latent_channels, widths[0], before=first_before, rngs=rngs)
        self.middle = CogLevel(blocks(widths[0], widths[0], 2), None)
        self.levels = nnx.List(
            [
                CogLevel(blocks(ins, out, config.depth + 1), None if last else Double(out, i < HALVINGS, rngs=rngs))
                for i, (ins, out, last) in enumerate(levels(widths))
            ]
        )
        self.norm = LatentNorm(widths[-1], config, rngs=rngs)
        self.conv_out = CausalConv(widths[-1], config.channels, before=first_before, rngs=rngs)

    def __call__(self, z: Array, tape: Tape) -> Array:
        z = spread(z)
        x = self.middle(self.conv_in(z, tape), z, tape)
        for level in self.levels:
            x = level(x, z, tape)
        return self.conv_out(jax.nn.silu(self.norm(x, z)), tape)


class AutoencoderKLCogVideoX(nnx.Module):
    """Clips to latents and back."""

    def __init__(self, config: CogVideoXConfig, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs)
        self.decoder = Decoder(config, rngs)

    def encode(self, clip: Array) -> Posterior:
        """Args:
          clip: `[B, T, H, W, C]` in [-1, 1], of a size that `config.grid` has.

        Returns:
          `[B, t, h, w, c]`.

        Raises:
          ValueError: a size that cannot be represented, with the nearest that can.
        """
        self.config.grid.check_clip(clip.shape)
        first = min(clip.shape[1], FRAMES + clip.shape[1] % FRAMES)
        return Posterior.of(in_chunks(self.encode_chunk, clip, first, FRAMES))

    def decode(self, latents: Array) -> Array:
        """Args:
          latents: `[B, t, h, w, c]`, not normalised.

        Returns:
          `[B, T, H, W, C]`.

        Raises:
          ValueError: latents of another shape.
        """
        self.config.grid.check_latents(latents.shape, self.config.latent_channels)
        first = min(latents.shape[1], LATENT_FRAMES + latents.shape[1] % LATENT_FRAMES)
        return in_chunks(self.decode_chunk, latents, first, LATENT_FRAMES)

    def encode_chunk(self, clip: Array, past: Past | None = None) -> tuple[Array, Past]:
        """One step of `chunks`.

        Args:
          clip: `[B, 8, H, W, C]`; the first may have 9 frames, or 1 if it is the only one.
          past: what the step before returned; None at the start of a clip.

        Returns:
          The moments `[B, t, h, w, 2 c]`, and the past of the next step.

        Raises:
          ValueError: see `encode`.
        """
        self.config.grid.check_clip(clip.shape, continued=past is not None)
        tape = Tape(past)
        return self.encoder(clip, tape), tape.past()

    def decode_chunk(self, latents: Array, past: Past | None = None) -> tuple[Array, Past]:
        """One step of `chunks`: `[B, 2, h, w, c]`; the first may have 3 latent frames, or 1 if it is the only one."""
        tape = Tape(past)
        return self.decoder(latents, tape), tape.past()
