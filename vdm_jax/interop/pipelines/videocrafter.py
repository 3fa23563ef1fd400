"""VideoCrafter2 (2401.09047), which its authors publish as one file and no library as a pipeline: text to video.

eps of UNet(x, t, text, frame rate), guided, over a process whose signal is scaled (`diffusion.ScaledVP`)
"""

import dataclasses

import numpy as np

from vdm_jax.interop.pipelines.latent_diffusion import LatentDiffusion
from vdm_jax.interop.pipelines.request import Conditions, Defaults, Draws, Request


class VideoCrafter(LatentDiffusion):
    """What the authors' script does.

    Options: `eta` of DDIM; `told_fps`, the frame rate that the network is told, higher for less motion (`fps` is that
    of the file).
    """

    @property
    def defaults(self) -> Defaults:
        """Of the authors' script for 320 x 512."""
        return Defaults(16, 320, 512, 50, 12.0, 10.0, options={"eta": 1.0, "told_fps": 28.0})

    def conditions(self, request: Request, draws: Draws) -> Conditions:
        """What the text says, and the frame rate."""
        found = super().conditions(request, draws)
        told = {"fps": np.float32([request.options["told_fps"]])}
        return dataclasses.replace(found, cond={**found.cond, "vector": told})
