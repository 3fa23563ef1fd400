"""ModelScope and ZeroScope of diffusers (2308.06571): text to video, and a clip to another one."""

import dataclasses

from vdm_jax.interop.pipelines.latent_diffusion import LatentDiffusion
from vdm_jax.interop.pipelines.request import Defaults, Request


class ModelScope(LatentDiffusion):
    """`TextToVideoSDPipeline`; also changes a clip, as `VideoToVideoSDPipeline` does."""

    takes = frozenset({"negative", "video", "strength"})
    strength = 0.6

    @property
    def defaults(self) -> Defaults:
        """Of `TextToVideoSDPipeline`."""
        return Defaults(16, self.side, self.side, 50, 9.0, 8.0, options={"clip_skip": 0, "eta": 0.0})

    def changing(self, request: Request) -> Request:
        """See `LatentDiffusion.changing`; the clip keeps its size if none is asked for, and is guided more."""
        request = super().changing(request)
        height, width = request.video.shape[1:3]
        guidance = 15.0 if request.guidance is None else request.guidance
        size = {"height": request.height or height, "width": request.width or width}
        return dataclasses.replace(request, guidance=guidance, **size)


class ModelScopeVideoToVideo(ModelScope):
    """`VideoToVideoSDPipeline`."""

    needs = frozenset({"video"})
