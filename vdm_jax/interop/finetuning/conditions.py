"""What published networks are trained on beside a clip's latents, made of the clip itself: one entry a family.

    Wan           text (zeros behind it); image-to-video `concat` = [which frames are given, the given frames between
                  grey ones encoded], and `image` = CLIP features of the given frames where it reads them
    CogVideoX     text, padding and all; image-to-video `concat` = [first frame encoded, zeros], and `ofs` = 2
    Latte         text, zeros behind it, which is masked
    UNets         CLIP text, padding and all; that of VideoCrafter2 also fps
    SVD           `tokens` = CLIP features of the first frame, `concat` = the first frame encoded, for each frame; fps
                  less one; the first frame has no noise on it, so `augmentation` is 0

The same as the pipelines in `interop.pipelines` give the network when they sample, with the clip's own first frame for
the picture.  An import without a network to train gets text with zeros behind it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.interop.finetuning import prompts
from vdm_jax.interop.finetuning.prompts import Reading
from vdm_jax.models.autoencoders import AutoencoderKLCogVideoX
from vdm_jax.models.cogvideox import CogVideoXConfig
from vdm_jax.models.encoders.image_processing import clip_picture, svd_picture
from vdm_jax.models.latte import LatteConfig
from vdm_jax.models.unet import UNetConfig
from vdm_jax.models.wan import WanConfig

Array = jax.Array
Networks = Mapping[str, nnx.Module]
_OFS = 2.0  # what CogVideoX 1.5 is told
_PAD = {"wan": 512, "latte": 120}  # tokens of a prompt


@dataclasses.dataclass(frozen=True)
class Clips:
    """What conditions are made of, traced.

    Attributes:
      networks: `vae`, and `image_encoder` where the import has one.
      pixels: `[B, T, H, W, 3]` in [-1, 1].
      latents: of the clips, normalised, `[B, t, h, w, c]`.
      dtypes: name -> dtype in which a network computes.
    """

    networks: Networks
    pixels: Array
    latents: Array
    dtypes: Mapping[str, Any]

    def encoded(self, pixels: Array) -> Array:
        """The most likely latents of other clips, float32, not normalised."""
        vae, clip = self.networks["vae"], pixels.astype(self.dtypes["vae"])
        # In bounded memory: that of CogVideoX always is.
        posterior = vae.encode(clip) if isinstance(vae, AutoencoderKLCogVideoX) else vae.encode(clip, chunk=1)
        return posterior.mode().astype(jnp.float32)

    def picture(self, frame: int) -> Array:
        """One frame, `[B, 1, H, W, 3]`."""
        return self.pixels[:, frame][:, None]


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a network is trained on.

    Attributes:
      reading: how prompts are read; None where it reads none.
      length: tokens of a prompt; None is that of the tokenizer.
      encoders: components beside `vae` and `text_encoder`.
      given: what clips give: name -> `[B, ...]` float32.
      vector: fps -> numbers by name.
      repeats: conditions that are the same for every frame.
      front: copies of the first latent frame in front, so that frames divide into patches.
    """

    reading: Reading | None = prompts.PLAIN
    length: int | None = None
    encoders: tuple[str, ...] = ()
    given: Callable[[Clips], dict[str, Array]] = lambda clips: {}
    vector: Callable[[float], dict[str, float]] = lambda fps: {}
    repeats: tuple[str, ...] = ()
    front: Callable[[int], int] = lambda frames: 0


def needs_of(config: Any) -> Needs:
    """What a network with this config is trained on; None is no network.

    Raises:
      ValueError: it is none of those on top of this file.
    """
    for kind, needs in _FAMILIES.items():
        if isinstance(config, kind):
            return needs(config)
    raise ValueError(f"denoiser: {type(config).__name__} is not known here; known: "
                     f"{', '.join(kind.__name__ for kind in _FAMILIES)}")  # fmt: skip


def _nothing(_: None) -> Needs:
    return Needs(Reading(masked=True, zeroed=True))


def _wan(config: WanConfig) -> Needs:
    if not config.concat_channels:
        return Needs(prompts.WAN, _PAD["wan"])
    frames = (0, -1) if config.image_positions else (0,)

    def given(clips: Clips) -> dict[str, Array]:
        vae, known = clips.networks["vae"].config, jnp.zeros_like(clips.pixels)
        shape = (*clips.latents.shape[:-1], vae.grid.frames)
        mask = jnp.zeros(shape).at[:, 0].set(1.0)
        for frame in frames:
            known = known.at[:, frame].set(clips.pixels[:, frame])
        if len(frames) == 2:
            mask = mask.at[:, -1, ..., -1].set(1.0)
        found = {"concat": jnp.concatenate([mask, vae.scale.normalise(clips.encoded(known))], axis=-1)}
        if not config.image_dim:
            return found
        return {**found, "image": jnp.concatenate([_clip_tokens(clips, frame) for frame in frames], axis=1)}

    return Needs(prompts.WAN, _PAD["wan"], ("image_encoder",) if config.image_dim else (), given)


def _clip_tokens(clips: Clips, frame: int) -> Array:
    """CLIP features `[B, L, D]` of a frame, in front of the last block."""
    encoder = clips.networks["image_encoder"]
    picture = clip_picture(_eight_bits(clips.pixels[:, frame]), encoder.config.image_size)
    return encoder(picture.astype(clips.dtypes["image_encoder"]), skip=1).hidden.astype(jnp.float32)


def _eight_bits(picture: Array) -> Array:
    return jnp.round((picture + 1) * 127.5).astype(jnp.uint8)


def _cogvideox(config: CogVideoXConfig) -> Needs:
    def given(clips: Clips) -> dict[str, Array]:
        first = clips.networks["vae"].config.image_scale.normalise(clips.encoded(clips.picture(0)))
        return {"concat": jnp.zeros_like(clips.latents).at[:, :1].set(first)}

    return Needs(
        length=config.text_length,
        given=given if config.concat_channels else Needs.given,
        vector=(lambda fps: {"ofs": _OFS}) if config.offset else Needs.vector,
        front=lambda frames: -frames % config.patch[0],
    )


def _latte(_: LatteConfig) -> Needs:
    return Needs(dataclasses.replace(prompts.LATTE, zeroed=True), _PAD["latte"])


def _unet(config: UNetConfig) -> Needs:
    if "augmentation" not in config.scalars:
        return Needs(vector=(lambda fps: {"fps": fps}) if "fps" in config.scalars else Needs.vector)

    def given(clips: Clips) -> dict[str, Array]:
        encoder = clips.networks["image_encoder"]
        picture = svd_picture(clips.pixels[:, 0], encoder.config.image_size)
        projected = encoder(picture.astype(clips.dtypes["image_encoder"])).projected.astype(jnp.float32)
        first = clips.encoded(clips.picture(0))
        return {"tokens": projected[:, None], "concat": jnp.repeat(first, clips.latents.shape[1], axis=1)}

    def vector(fps: float) -> dict[str, float]:
        return {"fps": fps - 1, "augmentation": 0.0}

    return Needs(None, None, ("image_encoder",), given, vector, repeats=("concat",))


_FAMILIES: dict[type, Callable[[Any], Needs]] = {
    type(None): _nothing,
    WanConfig: _wan,
    CogVideoXConfig: _cogvideox,
    LatteConfig: _latte,
    UNetConfig: _unet,
}
