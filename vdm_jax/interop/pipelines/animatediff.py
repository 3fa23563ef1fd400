"""AnimateDiff of diffusers (2307.04725): text to video, a clip to another one, and frames that a picture each controls.

Published as a UNet of pictures with an adapter of motion modules, or as the UNet that the two make; here as there, an
adapter beside a UNet that has motion modules already is not looked at.  AnimateLCM (2402.00769) is the same with
another scheduler and fewer steps.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vdm_jax.interop.families.unet_motion import UNET_MOTION
from vdm_jax.interop.pipelines.latent_diffusion import LatentDiffusion
from vdm_jax.interop.pipelines.opened import Opened, Params, Part
from vdm_jax.interop.pipelines.pictures import fitted
from vdm_jax.interop.pipelines.pipeline import Networks
from vdm_jax.interop.pipelines.request import Conditions, Defaults, Draws, Request
from vdm_jax.interop.schedulers.plans import Plan
from vdm_jax.models.unet.control import ControlledUNet
from vdm_jax.models.unet.motion import animated, animated_params
from vdm_jax.sampling import Denoiser, guided, make_denoiser
from vdm_jax.types import Array, Clip, Condition


class Animated(Opened):
    """Parts of which the UNet of pictures has the adapter's motion modules put in."""

    def weights(self, name: str) -> Params:
        """See `Opened.weights`; a UNet that was trained here has its modules already."""
        found = super().weights(name)
        pictures = name == "unet" and name not in self.trained
        return animated_params(found, super().weights("motion_adapter")) if pictures else found


class AnimateDiff(LatentDiffusion):
    """`AnimateDiffPipeline`; also changes a clip, as `AnimateDiffVideoToVideoPipeline` does.

    Args:
      opened: its parts.

    Raises:
      ValueError: a part is missing, or the adapter does not fit the UNet.
    """

    takes = frozenset({"negative", "video", "strength"})
    strength = 0.8

    def __init__(self, opened: Opened):
        super().__init__(opened)
        unet = opened.part("unet")
        if unet.config.temporal == "none":
            if "motion_adapter" not in opened.parts:
                raise ValueError(f"{opened.run}: lacks motion_adapter; its UNet is one of pictures")
            config = animated(unet.config, opened.part("motion_adapter").config)
            parts = {**opened.parts, "unet": Part(UNET_MOTION, config, unet.dtype)}
            self.opened = Animated(opened.run, opened.index, parts, opened.mesh, opened.trained)

    @property
    def defaults(self) -> Defaults:
        """Of `AnimateDiffPipeline`."""
        return Defaults(16, self.side, self.side, 50, 7.5, 8.0, options={"clip_skip": 0, "eta": 0.0})


class AnimateDiffVideoToVideo(AnimateDiff):
    """`AnimateDiffVideoToVideoPipeline`."""

    needs = frozenset({"video"})


class AnimateDiffControlNet(AnimateDiff):
    """`AnimateDiffControlNetPipeline`.

    Options: `controlnet_conditioning_scale`, the factor of what the branch adds; `control_guidance_start` and
    `control_guidance_end`, between which fractions of the steps it is added.
    """

    parts = (*AnimateDiff.parts, "controlnet")
    denoisers = ("unet", "controlnet")
    takes = frozenset({"negative"})
    needs = frozenset({"control"})

    @property
    def defaults(self) -> Defaults:
        """Of `AnimateDiffControlNetPipeline`."""
        own = {"controlnet_conditioning_scale": 1.0, "control_guidance_start": 0.0, "control_guidance_end": 1.0}
        return dataclasses.replace(super().defaults, options={**super().defaults.options, **own})

    def complete(self, request: Request) -> Request:
        """See `Pipeline.complete`; there are as many frames as pictures that control them, or one picture for all."""
        if request.control is not None:
            have = len(request.control)
            frames = request.frames or (self.defaults.frames if have == 1 else have)
            if have not in (1, frames):
                raise ValueError(f"frames: {frames} asked for, there are {have} pictures to control them")
            control = np.repeat(request.control, frames // have, axis=0)
            request = dataclasses.replace(request, frames=frames, control=control)
        request = super().complete(request)
        start, end = (request.options[f"control_guidance_{name}"] for name in ("start", "end"))
        if not 0.0 <= start < end <= 1.0:
            raise ValueError(
                f"control_guidance_start: {start} must be at least 0 and below control_guidance_end={end}, at most 1"
            )
        return request

    def conditions(self, request: Request, draws: Draws) -> Conditions:
        """See `LatentDiffusion.conditions`; the pictures are the `hint`."""
        found = super().conditions(request, draws)
        hint = fitted(request.control, request.height, request.width)[None] / 2 + 0.5
        return dataclasses.replace(found, cond={**found.cond, "hint": hint})

    def call(self, name: str, network: Any) -> Any:
        """The network itself; the two are joined in `denoiser`."""
        return network

    def denoiser(self, networks: Networks, plan: Plan, request: Request, null: Mapping[str, Any] | None) -> Denoiser:
        """See `Pipeline.denoiser`."""
        both = ControlledUNet(
            networks["unet"], networks["controlnet"], request.options["controlnet_conditioning_scale"]
        )
        dtype, (low, high) = self.opened.part("unet").dtype, controlled(plan.told, request)

        def network(x: Clip, t: Array, cond: Condition) -> Clip:
            share = jnp.where((t > low) & (t < high), 1.0, 0.0)
            return both(x.astype(dtype), t, cond, share=share).astype(jnp.float32)

        denoiser = make_denoiser(self.process, network, plan.told_by(self.process))
        return denoiser if null is None else guided(denoiser, request.guidance, null)


def controlled(told: np.ndarray, request: Request) -> tuple[float, float]:
    """Between which timesteps the branch is added; the ends lie between those of two steps.

    Args:
      told: `[K]`, timesteps, falling.
      request: completed.
    """
    start, end = (request.options[f"control_guidance_{name}"] for name in ("start", "end"))
    steps = np.arange(len(told))
    (kept,) = np.nonzero((steps / len(told) >= start) & ((steps + 1) / len(told) <= end))
    if not len(kept):
        return np.inf, np.inf
    ends = np.concatenate([[np.inf], (told[:-1] + told[1:]) / 2, [-np.inf]])
    return float(ends[kept[-1] + 1]), float(ends[kept[0]])
