"""What the pipelines share that are built on Stable Diffusion (2112.10752): CLIP's prompts, frames encoded one by one.

    text     eps of UNet(x, t, text), guided
    clip     starts from a draw of the clip's posterior, noised to where a fraction `strength` of the steps is left

and the pipeline of single pictures itself.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from vdm_jax.interop import imported
from vdm_jax.interop.finetuning.prompts import PLAIN
from vdm_jax.interop.pipelines.pictures import fitted
from vdm_jax.interop.pipelines.pipeline import Pipeline
from vdm_jax.interop.pipelines.request import Conditions, Defaults, Draws, Request, condition_noise, with_video
from vdm_jax.interop.schedulers.plans import Plan


class LatentDiffusion(Pipeline):
    """Text to clips whose frames are encoded one by one.

    Options that several have: `eta`; `clip_skip`, blocks at the end of the text encoder that prompts are read below.
    `Draws.condition` is `[1, T, h, w, c]`, the draw from the posterior of a clip to change.
    """

    parts = ("text_encoder", "unet", "vae")
    denoisers = ("unet",)
    takes = frozenset({"negative"})
    strength: ClassVar[float] = 1.0  # of pipelines that change clips

    @functools.cached_property
    def said(self) -> Mapping[str, Any]:
        """`config.json` of the UNet."""
        return imported.records_of(self.opened.run)["unet"]["config"]

    @property
    def side(self) -> int:
        """Height and width of a clip that nothing is said about."""
        latents = self.said.get("sample_size") or 64
        return latents * self.opened.part("vae").config.grid.side

    def complete(self, request: Request) -> Request:
        """See `Pipeline.complete`."""
        if "video" in self.takes | self.needs and not (request.video is None and request.strength is None):
            request = self.changing(request)
        request = super().complete(request)
        self.check_frames(request)
        skip, depth = request.options.get("clip_skip") or 0, self.opened.part("text_encoder").config.depth
        if skip not in range(depth):
            raise ValueError(f"clip_skip: {skip} must be 0 to {depth - 1}; the text encoder has {depth} blocks")
        return request

    def check_frames(self, request: Request) -> None:
        """Raises ValueError for clips that the UNet cannot be run on."""
        self.opened.part("unet").config.token_grid(request.frames, request.height, request.width)

    def changing(self, request: Request) -> Request:
        """A request to change a clip, with what is then done otherwise where nothing is said.

        Raises:
          ValueError: there is no clip, or too short a one.
        """
        if request.video is None:
            raise ValueError("strength: needs a video to change")
        return with_video(request, self.strength)

    def plan(self, request: Request) -> Plan:
        """See `Pipeline.plan`; `eta` is always told, which TCD takes for its gamma."""
        plan = self.opened.scheduler.plan(request.steps, eta=request.options["eta"])
        return plan if request.strength is None else plan.part(request.strength)

    def conditions(self, request: Request, draws: Draws) -> Conditions:
        """What the text says, and the clip to change if there is one."""
        text, negative, cut = self.prompts(request, PLAIN, None)
        if skip := int(request.options.get("clip_skip") or 0):  # of the negative prompt nothing is skipped there
            text, _, _ = self.prompts(request, dataclasses.replace(PLAIN, skip=skip), None)
        null = {"tokens": negative["tokens"]} if request.guides else None
        start = None if request.video is None else self._posterior_draw(request, draws)
        return Conditions({"tokens": text["tokens"]}, null, start=start, cut=cut)

    def _posterior_draw(self, request: Request, draws: Draws) -> np.ndarray:
        clip = fitted(request.video, request.height, request.width)[None]
        scale = self.opened.part("vae").config.scale
        noise = condition_noise(draws, request, (1, *self.latent_shape(request)))
        return self.encode(clip, lambda posterior: scale.normalise(posterior.at(noise)))


class StableDiffusion(LatentDiffusion):
    """`StableDiffusionPipeline`: clips of one frame."""

    @property
    def defaults(self) -> Defaults:
        """Of `StableDiffusionPipeline`."""
        return Defaults(1, self.side, self.side, 50, 7.5, 1.0, options={"clip_skip": 0, "eta": 0.0})

    def complete(self, request: Request) -> Request:
        """See `Pipeline.complete`."""
        if request.frames not in (None, 1):
            raise ValueError(f"frames: {request.frames} asked for, but {self.opened.published} makes pictures (1)")
        return super().complete(request)
