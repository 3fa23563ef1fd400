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
from vdm_jax.interop.pipelines.free_noise import OPTIONS, FreeNoise
from vdm_jax.interop.pipelines.latent_diffusion import LatentDiffusion
from vdm_jax.interop.pipelines.opened import Opened, Params, Part
from vdm_jax.interop.pipelines.pictures import fitted
from vdm_jax.interop.pipelines.pipeline import Again, Networks
from vdm_jax.interop.pipelines.request import Conditions, Defaults, Draws, Request
from vdm_jax.interop.schedulers.plans import Plan
from vdm_jax.models.unet import UNet
from vdm_jax.models.unet.control import ControlledUNet
from vdm_jax.models.unet.motion import animated, animated_params
from vdm_jax.sampling import Denoiser, guided, make_denoiser
from vdm_jax.sampling.noise import NoiseSource
from vdm_jax.sampling.noise.free_init import FreeInit
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

    Options: those of `LatentDiffusion`; of FreeInit `free_init_num_iters`, how often a clip is made (1 is without it),
    `free_init_order`, `free_init_spatial` and `free_init_temporal` (see `sampling.noise.free_init`); of FreeNoise
    `free_noise_context_length`, frames of a window (0 is without it), `free_noise_context_stride`, `free_noise_pyramid`
    and `free_noise_shuffle` (see `pipelines.free_noise`).

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
        """Of `AnimateDiffPipeline`; of FreeInit and FreeNoise those of their own, but for being off."""
        free = {"free_init_num_iters": 1, "free_init_order": 4, "free_init_spatial": 0.25, "free_init_temporal": 0.25}
        return Defaults(16, self.side, self.side, 50, 7.5, 8.0, options={"clip_skip": 0, "eta": 0.0, **free, **OPTIONS})

    def complete(self, request: Request) -> Request:
        """See `Pipeline.complete`."""
        request = super().complete(request)
        self._check_free_init(request)
        if free := FreeNoise.of(request.options):
            free.warn_of(self.plan(request).solver)
        return request

    def check_frames(self, request: Request) -> None:
        """See `LatentDiffusion.check_frames`; of FreeNoise a window has to be one that the UNet can be run on."""
        if free := FreeNoise.of(request.options):
            free.check(request.frames, self.opened.part("unet").config)
            request = dataclasses.replace(request, frames=free.windows.size)
        super().check_frames(request)

    def _check_free_init(self, request: Request) -> None:
        """Raises ValueError for FreeInit of a clip to change, of another unit than ours, or with odd options."""
        times = request.options["free_init_num_iters"]
        if times < 1 or times != int(times):
            raise ValueError(f"free_init_num_iters: {times:g} must be a whole number, 1 or more")
        if times == 1:
            return
        if request.video is not None:
            raise ValueError(f"free_init_num_iters: {times:g}, but a clip to change begins with what it is (only 1)")
        plan = self.plan(request)
        if (plan.units != 1.0).any() or plan.noise_scale != 1.0:
            name = self.opened.scheduler.options.published
            raise ValueError(f"free_init_num_iters: {times:g}, but {name} begins with larger noise than what is noised "
                             "anew (only 1); import another scheduler, as DDIM (--with scheduler=DIR)")  # fmt: skip
        _free_init(request)

    def noise(self, request: Request) -> NoiseSource:
        """See `Pipeline.noise`."""
        free = FreeNoise.of(request.options)
        return free.noise(request) if free else super().noise(request)

    def call(self, name: str, network: Any) -> Any:
        """The network itself; `denoiser` puts windows in it."""
        return network

    def denoiser(self, networks: Networks, plan: Plan, request: Request, null: Mapping[str, Any] | None) -> Denoiser:
        """See `Pipeline.denoiser`."""
        unet = super().call("unet", self.in_windows(networks["unet"], request))
        return super().denoiser({"unet": unet}, plan, request, null)

    def in_windows(self, unet: UNet, request: Request) -> UNet:
        """The UNet as FreeNoise runs it, if asked for."""
        if free := FreeNoise.of(request.options):
            free.put_in(unet, request.frames)
        return unet

    def again(self, request: Request) -> Again | None:
        """See `Pipeline.again`."""
        times, process, free = int(request.options["free_init_num_iters"]), self.process, _free_init(request)
        last = np.float32(process.t_max)
        mixed = lambda latents, first, new: free.mix(process.q_sample(latents, first, last), new)  # noqa: E731
        return Again(times, mixed) if times > 1 else None


def _free_init(request: Request) -> FreeInit:
    """What a completed request says of it."""
    order, *where = (request.options[f"free_init_{name}"] for name in ("order", "spatial", "temporal"))
    return FreeInit(int(order), *where)


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

    def denoiser(self, networks: Networks, plan: Plan, request: Request, null: Mapping[str, Any] | None) -> Denoiser:
        """See `Pipeline.denoiser`."""
        unet, branch = self.in_windows(networks["unet"], request), networks["controlnet"]
        both = ControlledUNet(unet, branch, request.options["controlnet_conditioning_scale"])
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
