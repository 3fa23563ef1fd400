"""CogVideoX of diffusers: text, pictures and clips to video (2408.06072; 2B, 5B, 1.5).

    text        v of CogVideoX(x, t, text), guided; padding of the prompt is read like the prompt
    picture     `concat` = [a draw of the picture's latents, zeros for all other frames]; 1.5 is told `ofs` = 2
    clip        starts from a draw of the clip's latents, noised to where a fraction `strength` of the steps is left

A token of 1.5 holds two latent frames: an odd number of them is led by one more, which is dropped before the decoder.

Option `dynamic_guidance` (theirs: `use_dynamic_cfg`), 0 or 1: for `guidance` w, K steps and the timestep t that the
network is told, the scale is 1 + w (1 - cos(pi ((K - t) / K)^5)) / 2.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vdm_jax.interop.finetuning.prompts import PLAIN
from vdm_jax.interop.pipelines.opened import Opened
from vdm_jax.interop.pipelines.pictures import fitted
from vdm_jax.interop.pipelines.pipeline import Networks, Pipeline
from vdm_jax.interop.pipelines.request import Conditions, Defaults, Draws, Request, condition_noise, with_video
from vdm_jax.interop.schedulers.plans import Plan
from vdm_jax.models.autoencoders import Posterior, Scale
from vdm_jax.models.cogvideox import CogVideoXConfig
from vdm_jax.sampling import Denoiser, guided, make_denoiser
from vdm_jax.types import Array

_OFFSET = 2.0  # what 1.5 is told with every picture
_LARGEST = (768, 1360)  # pixels that 1.5 was trained with; its positions go on far beyond


class CogVideoXTextToVideo(Pipeline):
    """`CogVideoXPipeline`; also changes a clip.

    `Draws.condition` is `[1, t, h, w, c]`, the draw from the posterior of a clip to change.
    """

    takes = frozenset({"negative", "video", "strength"})
    pictured = False  # whether the transformer reads a picture

    def __init__(self, opened: Opened):
        super().__init__(opened)
        if (self.config.concat_channels > 0) != self.pictured:
            reads = "reads a picture" if self.config.concat_channels else "reads no picture"
            raise ValueError(f"{opened.run}: transformer: {reads}, which does not go with {opened.published}")

    @property
    def config(self) -> CogVideoXConfig:
        """Of the transformer."""
        return self.opened.part("transformer").config

    @property
    def defaults(self) -> Defaults:
        """As published: frames and size that the transformer was trained with."""
        frames, *latents = self.config.sample
        sizes = [n * self.opened.part("vae").config.grid.side for n in latents]
        later = self.config.patch[0] > 1
        height, width = (min(n, most) for n, most in zip(sizes, _LARGEST)) if later else sizes
        frames = self.opened.part("vae").config.grid.clip_frames(frames)
        return Defaults(frames, height, width, 50, 6.0, 16.0 if later else 8.0, options={"dynamic_guidance": 0})

    @property
    def multiples(self) -> tuple[int, int]:
        """What height and width must be multiples of."""
        side = self.opened.part("vae").config.grid.side
        return side * self.config.patch[1], side * self.config.patch[2]

    def complete(self, request: Request) -> Request:
        """See `Pipeline.complete`.  A clip to change has as many frames as are asked for, or else all of its own."""
        if request.video is not None:
            request = with_video(request, strength=0.8)
        elif request.strength is not None:
            raise ValueError("strength: needs a video to change")
        request = super().complete(request)
        if request.options["dynamic_guidance"] not in (0, 1):
            raise ValueError(f"dynamic_guidance: {request.options['dynamic_guidance']} must be 0 or 1")
        self._check_positions(request)
        latents, patch = self.opened.part("vae").config.grid.latent_frames(request.frames), self.config.patch[0]
        if request.video is not None and latents % patch:
            near = max(8, request.frames // 8 * 8)  # without the frame that has a latent frame of its own
            raise ValueError(f"frames: {request.frames} of a video are {latents} latent frames, and the transformer "
                             f"takes {patch} at a time; the nearest that can be changed: {near}")  # fmt: skip
        return request

    def latent_shape(self, request: Request) -> tuple[int, int, int, int]:
        """`(t, h, w, c)`, with frames that fill up the last token's."""
        (frames, *rest), patch = super().latent_shape(request), self.config.patch[0]
        return -(-frames // patch) * patch, *rest

    def conditions(self, request: Request, draws: Draws) -> Conditions:
        """What the text says, and what there is of pictures."""
        text, negative, cut = self.prompts(request, PLAIN, self.config.text_length)
        null = {"tokens": negative["tokens"]} if request.guides else None
        start = None
        if request.video is not None:
            clip = fitted(request.video, request.height, request.width)
            start = self._drawn(clip, self.opened.part("vae").config.scale, request, draws)
        return Conditions({"tokens": text["tokens"], **self.pictures(request, draws)}, null, start=start, cut=cut)

    def pictures(self, request: Request, draws: Draws) -> dict[str, Any]:
        """What the network reads of a picture."""
        return {}

    def denoiser(self, networks: Networks, plan: Plan, request: Request, null: Mapping[str, Any] | None) -> Denoiser:
        """See `Pipeline.denoiser`."""
        if null is None or not request.options["dynamic_guidance"]:
            return super().denoiser(networks, plan, request, null)
        plain = make_denoiser(self.process, networks["transformer"], plan.told_by(self.process))
        levels = plan.levels[-2::-1]
        scales = np.float32(dynamic_scales(request.guidance, plan.told)[::-1])

        def denoiser(x, t, cond):
            return guided(plain, jnp.interp(jnp.max(t), levels, scales), null)(x, t, cond)

        return denoiser

    def decode(self, vae: Any, latents: Array, request: Request) -> Array:
        """See `Pipeline.decode`."""
        config = self.opened.part("vae").config
        latents = latents[:, latents.shape[1] - config.grid.latent_frames(request.frames) :]
        return vae.decode(config.scale.restore(latents).astype(self.opened.part("vae").dtype))

    def posterior(self, vae: Any, clip: Array) -> Posterior:
        """See `Pipeline.posterior`; its chunks are its own."""
        return vae.encode(clip)

    def _drawn(self, clip: np.ndarray, scale: Scale, request: Request, draws: Draws) -> np.ndarray:
        """A draw of the latents of pixels `[T, H, W, 3]`, `[1, t, h, w, c]` on a scale."""
        frames = self.opened.part("vae").config.grid.latent_frames(len(clip))
        noise = condition_noise(draws, request, (1, frames, *self.latent_shape(request)[1:]))
        return self.encode(clip[None], lambda posterior: scale.normalise(posterior.at(noise)))

    def _check_positions(self, request: Request) -> None:
        """Raises ValueError for sizes that the positions of the transformer do not know."""
        side, config = self.opened.part("vae").config.grid.side, self.config
        for name, latents in zip(("height", "width"), config.sample[1:]):
            size, known = getattr(request, name), latents * side
            if config.positions == "rope_learned" and size != known:
                raise ValueError(f"{name}: {size} is not {known}, the only one that its learned positions know")
            if config.patch[0] > 1 and size > known:
                raise ValueError(f"{name}: {size} is more than {known}, where its positions end")


class CogVideoXVideoToVideo(CogVideoXTextToVideo):
    """`CogVideoXVideoToVideoPipeline`."""

    takes = frozenset({"negative", "strength"})
    needs = frozenset({"video"})


class CogVideoXImageToVideo(CogVideoXTextToVideo):
    """`CogVideoXImageToVideoPipeline`: a first frame.

    `Draws.condition` is `[1, 1, h, w, c]`, the draw from its posterior.
    """

    takes = frozenset({"negative"})
    needs = frozenset({"image"})
    pictured = True

    def pictures(self, request: Request, draws: Draws) -> dict[str, Any]:
        """What the network reads of a picture."""
        clip = fitted(request.image[None], request.height, request.width)
        first = self._drawn(clip, self.opened.part("vae").config.image_scale, request, draws)
        frames, *rest = self.latent_shape(request)
        found = {"concat": np.concatenate([first, np.zeros((1, frames - 1, *rest), np.float32)], axis=1)}
        return {**found, "vector": {"ofs": np.float32([_OFFSET])}} if self.config.offset else found


def dynamic_scales(guidance: float, told: np.ndarray) -> np.ndarray:
    """Scale of guidance at each of K steps, `[K]` float64; see the module docstring.

    Args:
      guidance: w.
      told: `[K]`, the timesteps.
    """
    steps = len(told)
    phase = np.pi * ((steps - np.asarray(told, np.float64)) / steps) ** 5
    return 1.0 + guidance * (1.0 - np.cos(phase)) / 2.0
