"""ModelScope and ZeroScope of diffusers (2308.06571): text to video, and a clip to another one."""

import dataclasses

from vdm_jax.interop.pipelines.latent_diffusion import LatentDiffusion
from vdm_jax.interop.pipelines.request import Defaults, Request, with_video


class ModelScope(LatentDiffusion):
    """`TextToVideoSDPipeline`."""

    @property
    def defaults(self) -> Defaults:
        """Of `TextToVideoSDPipeline`."""
        return Defaults(16, self.side, self.side, 50, 9.0, 8.0, options={"eta": 0.0})


class ModelScopeVideoToVideo(LatentDiffusion):
    """`VideoToVideoSDPipeline`: the clip keeps its size if none is asked for."""

    takes = frozenset({"negative", "strength"})
    needs = frozenset({"video"})

    @property
    def defaults(self) -> Defaults:
        """Of `VideoToVideoSDPipeline`; frames and size are those of the clip."""
        return Defaults(16, self.side, self.side, 50, 15.0, 8.0, options={"eta": 0.0})

    def complete(self, request: Request) -> Request:
        """See `Pipeline.complete`."""
        if request.video is not None:
            request = with_video(request, strength=0.6)
            height, width = request.video.shape[1:3]
            request = dataclasses.replace(request, height=request.height or height, width=request.width or width)
        return super().complete(request)
