"""Latte of diffusers: text to video (2401.03048).

    eps of Latte(x, t, text), guided; its variance, learned too, is not read

The prompt is seen up to its end token, and the negative one up to where the *prompt* ends, whatever its own length.
Theirs does that for a prompt by itself; several at once it lets see padding that is set to zero, so that a clip depends
on what else is made with it.  Here a prompt is always by itself.

Captions are made lower case and stripped, which is what theirs does unless `bs4` and `ftfy` are installed; with them it
also takes out URLs, file names and the like (`clean_caption`).
"""

from typing import Any

from vdm_jax.interop.finetuning.prompts import LATTE
from vdm_jax.interop.pipelines.pipeline import Pipeline
from vdm_jax.interop.pipelines.request import Conditions, Defaults, Draws, Request
from vdm_jax.interop.schedulers.plans import Plan
from vdm_jax.types import Array

TEXT = 120  # tokens of a prompt


class Latte(Pipeline):
    """`LattePipeline`.

    Options: `eta` of DDIM; `decode_chunk_size`, frames that are decoded together, which matters to an autoencoder whose
    decoder looks from frame to frame.
    """

    takes = frozenset({"negative"})

    @property
    def defaults(self) -> Defaults:
        """Of `LattePipeline`."""
        return Defaults(16, 512, 512, 50, 7.5, 8.0, options={"eta": 0.0, "decode_chunk_size": 14})

    @property
    def multiples(self) -> tuple[int, int]:
        """What height and width must be multiples of."""
        side = self.opened.part("vae").config.grid.side * self.opened.part("transformer").config.patch
        return side, side

    def complete(self, request: Request) -> Request:
        """See `Pipeline.complete`."""
        request = super().complete(request)
        self.opened.part("transformer").config.token_grid(*self.latent_shape(request)[:3])
        if (chunk := request.options["decode_chunk_size"]) < 1 or chunk != int(chunk):
            raise ValueError(f"decode_chunk_size: {chunk} must be a number of frames, 1 or more")
        return request

    def plan(self, request: Request) -> Plan:
        """See `Pipeline.plan`."""
        return self.opened.scheduler.plan(request.steps, eta=request.options["eta"])

    def conditions(self, request: Request, draws: Draws) -> Conditions:
        """What the text says."""
        text, negative, cut = self.prompts(request, LATTE, TEXT)
        null = {"tokens": negative["tokens"], "tokens_mask": text["tokens_mask"]} if request.guides else None
        return Conditions({name: text[name] for name in ("tokens", "tokens_mask")}, null, cut=cut)

    def decode(self, vae: Any, latents: Array, request: Request) -> Array:
        """See `Pipeline.decode`."""
        latents = vae.config.scale.restore(latents).astype(self.opened.part("vae").dtype)
        return vae.decode(latents, chunk=int(request.options["decode_chunk_size"]))
