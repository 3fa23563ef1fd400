"""Stable Video Diffusion of diffusers (2311.15127): a picture to a video.

    v of UNet([x, latents of the picture with some noise], ln sigma / 4, CLIP features of the picture, fps - 1, motion,
    noise), guided by a scale that rises from the first frame to the last

The unconditional branch has zeros for latents and features, and the same numbers.
"""

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.interop import imported
from vdm_jax.interop.pipelines.pictures import fitted
from vdm_jax.interop.pipelines.pipeline import Networks, Pipeline
from vdm_jax.interop.pipelines.request import Conditions, Defaults, Draws, Request, condition_noise
from vdm_jax.interop.schedulers.plans import Plan
from vdm_jax.models.encoders.image_processing import MEAN, STD, svd_picture
from vdm_jax.sampling import Denoiser, guided, make_denoiser

TOLD = {"fps": (5, 30), "motion_bucket_id": (0, 255)}  # in training; of a clip's frame rate one less is told


class StableVideoDiffusion(Pipeline):
    """`StableVideoDiffusionPipeline`; `guidance` is that of the last frame.

    Options: `min_guidance_scale`, that of the first; `motion_bucket_id`, how much is to move; `noise_aug_strength`, of
    the noise on the picture; `decode_chunk_size`, frames that are decoded together, 0 for all.
    `Draws.condition` is `[1, H, W, 3]`, the noise on the picture.
    """

    parts = ("image_encoder", "unet", "vae")
    denoisers = ("unet",)
    needs = frozenset({"image"})

    @functools.cached_property
    def said(self) -> Mapping[str, Any]:
        """`config.json` of the UNet."""
        return imported.records_of(self.opened.run)["unet"]["config"]

    @property
    def defaults(self) -> Defaults:
        """Of `StableVideoDiffusionPipeline`; frames are those that the UNet was trained with."""
        own = {"min_guidance_scale": 1.0, "motion_bucket_id": 127, "noise_aug_strength": 0.02, "decode_chunk_size": 0}
        return Defaults(self.said.get("num_frames", 25), 576, 1024, 25, 3.0, 7.0, options=own)

    def complete(self, request: Request) -> Request:
        """See `Pipeline.complete`."""
        if any(request.prompts):
            raise ValueError(f"prompts: {self.opened.published} does not take them (it takes: image)")
        request = super().complete(dataclasses.replace(request, prompts=request.prompts or ("",)))
        if not 0 <= request.options["decode_chunk_size"] <= request.frames:
            raise ValueError(
                f"decode_chunk_size: {request.options['decode_chunk_size']} must be 0 (all) to {request.frames} frames"
            )
        said = self.opened.settings("feature_extractor", "preprocessor_config.json")
        for name, value in {"image_mean": list(MEAN), "image_std": list(STD)}.items():
            if said.get(name, value) != value:
                raise ValueError(f"feature_extractor: {name}={said[name]!r} is not supported (only {value!r})")
        self._warn(request)
        return request

    def _warn(self, request: Request) -> None:
        """Says what the network was never told, or never shown, in training."""
        numbers = {"fps": request.fps - 1, "motion_bucket_id": request.options["motion_bucket_id"]}
        for name, value in numbers.items():
            low, high = TOLD[name]
            if not low <= value <= high:
                warnings.warn(f"{name}: the network is told {value:g}, training had {low} to {high}", stacklevel=4)
        usual = self.defaults
        asked, trained = ((r.frames, r.height, r.width) for r in (request, usual))
        if asked != trained:
            words = ("{} frames of {} x {}".format(*shape) for shape in (asked, trained))
            warnings.warn("{}: the network was trained on {}".format(*words), stacklevel=4)

    def conditions(self, request: Request, draws: Draws) -> Conditions:
        """Features and latents of the picture, and the numbers."""
        strength, size = request.options["noise_aug_strength"], (1, request.height, request.width, 3)
        noisy = fitted(request.image[None], request.height, request.width)
        noisy = noisy + np.float32(strength) * condition_noise(draws, request, size)
        features, latents = self._features(request.image), self.encode(noisy[:, None])
        concat = np.repeat(latents, request.frames, axis=1)
        numbers = {"fps": request.fps - 1, "motion": request.options["motion_bucket_id"], "augmentation": strength}
        cond = {"tokens": features, "concat": concat}
        null = {name: np.zeros_like(value) for name, value in cond.items()} if request.guides else None
        return Conditions({**cond, "vector": {name: np.float32([n]) for name, n in numbers.items()}}, null)

    def denoiser(self, networks: Networks, plan: Plan, request: Request, null: Mapping[str, Any] | None) -> Denoiser:
        """See `Pipeline.denoiser`."""
        denoiser = make_denoiser(self.process, networks["unet"], plan.told_by(self.process))
        scales = np.linspace(request.options["min_guidance_scale"], request.guidance, request.frames)
        return denoiser if null is None else guided(denoiser, jnp.asarray(scales, jnp.float32), null)

    def decode(self, vae: Any, latents: jax.Array, request: Request) -> jax.Array:
        """See `Pipeline.decode`."""
        latents = vae.config.scale.restore(latents).astype(self.opened.part("vae").dtype)
        return vae.decode(latents, chunk=int(request.options["decode_chunk_size"]) or None)

    def _features(self, picture: np.ndarray) -> np.ndarray:
        """CLIP features `[1, 1, D]` of a picture uint8 `[H, W, 3]`, which is squeezed into a square."""
        part = self.opened.part("image_encoder")
        ready = svd_picture(jnp.asarray(picture[None], jnp.float32) / 255 * 2 - 1, part.config.image_size)

        def run(params, picture):
            return part.merge(params)(picture.astype(part.dtype)).projected.astype(jnp.float32)

        return jax.device_get(self.opened.compiled(run)(self.opened.weights("image_encoder"), ready))[:, None]
