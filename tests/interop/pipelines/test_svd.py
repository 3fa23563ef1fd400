"""Stable Video Diffusion's published pipeline: the same picture and noise in, the same clip out."""

import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.interop.pipelines.oracle import Run, check_same, imported, network, noise, picture, run_here, scheduler
from tests.interop.pipelines.unets import SIDE, TRUNK, Drawn
from vdm_jax.interop.families.autoencoders_kl import AUTOENCODER_TEMPORAL_DECODER
from vdm_jax.interop.families.encoders import CLIP_VISION_PROJECTED
from vdm_jax.interop.families.unet import UNET_SPATIO_TEMPORAL
from vdm_jax.interop.pipelines.families import open_pipeline
from vdm_jax.interop.pipelines.request import Draws, Request

diffusers = pytest.importorskip("diffusers", reason="the published pipeline is the oracle")
transformers = pytest.importorskip("transformers", reason="the published pipeline is the oracle")

_FRAMES, _LATENTS = 4, (4, 8, 8, 4)
_UNET = {
    **TRUNK, "block_out_channels": [64], "down_block_types": ["DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal"], "num_attention_heads": [2], "num_frames": _FRAMES,
    "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24, "in_channels": 8,
}  # fmt: skip
_VAE = {"down_block_types": ["DownEncoderBlock2D"] * 2, "block_out_channels": [32, 32], "layers_per_block": 2}
_VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 16,
    "image_size": 224, "patch_size": 56,
}  # fmt: skip
_OPTIONS = {"min_guidance_scale": 1.5, "motion_bucket_id": 60, "noise_aug_strength": 0.1}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    pipeline = diffusers.StableVideoDiffusionPipeline(
        unet=network(UNET_SPATIO_TEMPORAL, _UNET, 1),
        vae=network(AUTOENCODER_TEMPORAL_DECODER, _VAE, 2),
        image_encoder=network(CLIP_VISION_PROJECTED, _VISION, 3),
        feature_extractor=transformers.CLIPImageProcessor(),
        scheduler=scheduler("svd_euler"),
    )
    return pipeline, imported(pipeline, tmp_path_factory.mktemp("svd"))


def run_there(pipeline: Any, start: np.ndarray, **call: Any) -> Run:
    """Its latents have frames in front of channels."""
    import torch

    visited = []

    def keep(_, step, timestep, tensors):
        visited.append(tensors["latents"].permute(0, 1, 3, 4, 2).numpy().copy())
        return {}

    pipeline.set_progress_bar_config(disable=True)
    latents = torch.from_numpy(start).permute(0, 1, 4, 2, 3)
    video = pipeline(**call, latents=latents, callback_on_step_end=keep, output_type="np").frames
    return Run(np.stack(visited), np.asarray(video))


def test_image_to_video(opened):
    """The picture has another size than the clip, frames are decoded two by two, and all numbers are not the usual."""
    pipeline, run = opened
    first, start, drawn = picture(20, 40, 3), noise(1, *_LATENTS), Drawn()
    call = {
        **_OPTIONS, "height": SIDE, "width": SIDE, "num_frames": _FRAMES, "num_inference_steps": 4, "fps": 9,
        "max_guidance_scale": 4.0, "decode_chunk_size": 2, "generator": drawn.generator,
    }  # fmt: skip
    theirs = run_there(pipeline, start, image=Image.fromarray(first), **call)
    request = Request(
        prompts=("",), image=first, height=SIDE, width=SIDE, steps=4, fps=9.0, guidance=4.0,
        options={**_OPTIONS, "decode_chunk_size": 2},
    )  # fmt: skip
    draws = Draws(start, condition=drawn.pictures(1, SIDE, SIDE, 3))
    ours = run_here(run, request, draws)
    check_same(ours, theirs)
    for change in ({"motion_bucket_id": 200}, {"fps": 20}, {"min_guidance_scale": 1.0}, {"decode_chunk_size": 4}):
        other = run_there(pipeline, start, image=Image.fromarray(first), **{**call, **change})
        told = "video" if "decode_chunk_size" in change else "visited"
        assert np.abs(getattr(other, told)[-1] - getattr(theirs, told)[-1]).max() > 3e-3, change


def test_what_cannot_be_is_refused(opened):
    pipeline = open_pipeline(opened[1])
    first = picture(20, 40, 3)
    filled = pipeline.complete(Request(image=first))
    assert (filled.frames, filled.height, filled.width, filled.steps) == (_FRAMES, 576, 1024, 25)
    assert (filled.guidance, filled.fps, filled.options["motion_bucket_id"]) == (3.0, 7.0, 127)
    for said, why in (
        ({}, "image: missing; StableVideoDiffusionPipeline needs it"),
        ({"image": first, "prompts": ("a",)}, "prompts: StableVideoDiffusionPipeline does not take them"),
        ({"image": first, "width": 31}, "width: 31 cannot be represented, only multiples of 2; the nearest: 30 or 32"),
        ({"image": first, "options": {"motion_bucket": 1}}, "did you mean 'motion_bucket_id'"),
        ({"image": first, "options": {"decode_chunk_size": 9}}, r"decode_chunk_size: 9 must be 0 \(all\) to 4 frames"),
    ):
        with pytest.raises(ValueError, match=why):
            pipeline.complete(Request(**said))


def test_what_was_never_told_in_training_is_warned_of(opened):
    pipeline = open_pipeline(opened[1])
    first = picture(20, 40, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.complete(Request(image=first, fps=6.0))
    for said, why in (
        ({"fps": 5.0}, "fps: the network is told 4, training had 5 to 30"),
        ({"options": {"motion_bucket_id": 256}}, "motion_bucket_id: the network is told 256, training had 0 to 255"),
        ({"frames": 8}, "8 frames of 576 x 1024: the network was trained on 4 frames of 576 x 1024"),
        ({"height": 512}, "4 frames of 512 x 1024: the network was trained on"),
    ):
        with pytest.warns(UserWarning, match=why):
            pipeline.complete(Request(image=first, **said))
