"""Stable Diffusion's published pipeline: pictures are clips of one frame."""

import numpy as np
import pytest

from tests.interop.pipelines.oracle import Run, check_same, imported, network, noise, run_here, scheduler
from tests.interop.pipelines.unets import GROUPS, HERE, LATENTS, NEGATIVE, PROMPT, TRUNK, latent_diffusion
from vdm_jax.interop.families.unet import UNET_2D
from vdm_jax.interop.pipelines.families import open_pipeline
from vdm_jax.interop.pipelines.request import Draws, Request

diffusers = pytest.importorskip("diffusers", reason="the published pipeline is the oracle")

_UNET = {
    **TRUNK, **GROUPS, "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "attention_head_dim": 2
}  # fmt: skip


def test_text_to_picture(tmp_path, monkeypatch):
    """Two prompts at once, of velocities, as version 2.1 has them, read below the last block."""
    import torch

    pipeline = diffusers.StableDiffusionPipeline(
        **latent_diffusion(), unet=network(UNET_2D, _UNET, 3, 0.2), scheduler=scheduler("sd21_ddim"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    # The pipeline asks for the tower inside, which since version 5 of transformers is the encoder itself.
    monkeypatch.setattr(type(pipeline.text_encoder), "text_model", property(lambda self: self), raising=False)
    run, start, visited = imported(pipeline, tmp_path), noise(2, 1, *LATENTS[1:]), []

    def keep(_, step, timestep, tensors):
        visited.append(tensors["latents"].permute(0, 2, 3, 1)[:, None].numpy().copy())
        return {}

    pipeline.set_progress_bar_config(disable=True)
    prompts = (PROMPT, "a blue square")
    said = {"prompt": list(prompts), "negative_prompt": [NEGATIVE] * 2, "guidance_scale": 3.0, "num_inference_steps": 4,
            "clip_skip": 1}  # fmt: skip
    first = torch.from_numpy(start[:, 0]).permute(0, 3, 1, 2)
    made = pipeline(**said, latents=first, callback_on_step_end=keep, output_type="np").images
    theirs = Run(np.stack(visited), made[:, None])
    skips = {"options": {"clip_skip": 1}}
    check_same(run_here(run, Request(**{**HERE, "prompts": prompts}, steps=4, **skips), Draws(start)), theirs)
    with pytest.raises(ValueError, match=r"frames: 4 asked for, but StableDiffusionPipeline makes pictures \(1\)"):
        open_pipeline(run).complete(Request(prompts, frames=4))
    with pytest.raises(ValueError, match="clip_skip: 2 must be 0 to 1; the text encoder has 2 blocks"):
        open_pipeline(run).complete(Request(prompts, options={"clip_skip": 2}))
