"""ModelScope's published pipelines: the same noise in, the same latents at every step, the same clip out."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.interop.pipelines.oracle import (
    Run,
    check_same,
    imported,
    network,
    noise,
    picture,
    run_here,
    scheduler,
    to_torch,
)
from tests.interop.pipelines.unets import (
    FRAMES,
    GROUPS,
    HERE,
    LATENTS,
    SIDE,
    THERE,
    TRUNK,
    Drawn,
    latent_diffusion,
)
from vdm_jax.interop.families.unet import UNET_3D
from vdm_jax.interop.pipelines.families import open_pipeline
from vdm_jax.interop.pipelines.request import Draws, Request

diffusers = pytest.importorskip("diffusers", reason="the published pipelines are the oracle")

_UNET = {
    **TRUNK, **GROUPS, "down_block_types": ["DownBlock3D"], "up_block_types": ["UpBlock3D"],
    "attention_head_dim": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def parts():
    return {**latent_diffusion(), "unet": network(UNET_3D, _UNET, 3, 0.2), "scheduler": scheduler("modelscope_ddim")}


def run_there(pipeline: Any, **call: Any) -> Run:
    """These tell of steps in a way of their own."""
    visited = []

    def keep(step, time, latents):
        visited.append(np.moveaxis(latents.numpy().copy(), 1, -1))

    pipeline.set_progress_bar_config(disable=True)
    video = pipeline(**call, callback=keep, output_type="np").frames
    return Run(np.stack(visited), np.asarray(video))


def test_text_to_video(parts, tmp_path):
    pipeline = diffusers.TextToVideoSDPipeline(**parts)
    run, start = imported(pipeline, tmp_path), noise(1, *LATENTS)
    call = {**THERE, "num_frames": FRAMES, "num_inference_steps": 4, "latents": to_torch(start)}
    theirs = run_there(pipeline, **call)
    check_same(run_here(run, Request(**HERE, frames=FRAMES, steps=4), Draws(start)), theirs)
    other = run_there(pipeline, **{**call, "prompt": ["a blue square"]}).visited[-1]
    assert np.abs(other - theirs.visited[-1]).max() > 1e-2 * np.abs(other).max(), "the prompt says nothing"


def test_video_to_video(parts, tmp_path):
    pipeline = diffusers.VideoToVideoSDPipeline(**{**parts, "scheduler": scheduler("sd15_dpm")})
    run, video, drawn = imported(pipeline, tmp_path), picture(FRAMES, SIDE, SIDE + 8, 3), Drawn()
    frames = [Image.fromarray(each) for each in video]
    call = {"num_inference_steps": 6, "strength": 0.7, "generator": drawn.generator}
    theirs = run_there(pipeline, **THERE, video=frames, **call)
    size = (SIDE // 2, SIDE // 2 + 4)
    posterior, start = (drawn.pictures(FRAMES, *size)[None] for _ in range(2))
    request = Request(**HERE, video=video, steps=6, strength=0.7)
    check_same(run_here(run, request, Draws(start, condition=posterior)), theirs)


def test_what_cannot_be_is_refused(parts, tmp_path):
    text = open_pipeline(imported(diffusers.TextToVideoSDPipeline(**parts), tmp_path / "text"))
    clip = open_pipeline(imported(diffusers.VideoToVideoSDPipeline(**parts), tmp_path / "clip"))
    filled = text.complete(Request(("a",)))
    assert (filled.frames, filled.height, filled.width, filled.steps, filled.guidance) == (16, 16, 16, 50, 9.0)
    for pipeline in (text, clip):  # weights are published with the first alone
        filled = pipeline.complete(Request(("a",), video=picture(2, 8, 6, 3)))
        assert (filled.frames, filled.height, filled.width, filled.guidance, filled.strength) == (2, 8, 6, 15.0, 0.6)
    for pipeline, said, why in (
        (text, {"height": 17}, "height: 17 cannot be represented"),
        (text, {"strength": 0.5}, "strength: needs a video to change"),
        (text, {"image": picture(8, 6, 3)}, "image: TextToVideoSDPipeline does not take it"),
        (text, {"video": picture(2, 8, 6, 3), "frames": 3}, "frames: 3 asked for, the video has 2"),
        (clip, {}, "video: missing; VideoToVideoSDPipeline needs it"),
    ):
        with pytest.raises(ValueError, match=why):
            pipeline.complete(Request(("a",), **said))
