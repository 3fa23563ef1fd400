"""Wan's published pipelines: the same latents in, the same latents at every step, the same clip out."""

import importlib
from types import SimpleNamespace

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
    run_there,
    scheduler,
    to_torch,
    tokenizer,
)
from vdm_jax.interop.autoencoders_wan import AUTOENCODER_WAN
from vdm_jax.interop.encoders import CLIP_VISION, UMT5_ENCODER
from vdm_jax.interop.pipelines.request import Draws, Request
from vdm_jax.interop.wan import WAN

diffusers = pytest.importorskip("diffusers", reason="the published pipelines are the oracle")
transformers = pytest.importorskip("transformers", reason="the published pipelines are the oracle")

_TRANSFORMER = {
    "patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4,
    "text_dim": 16, "freq_dim": 32, "ffn_dim": 48, "num_layers": 2,
}  # fmt: skip
_VAE = {
    "base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False, True],
    "scale_factor_temporal": 2, "scale_factor_spatial": 4,
    "latents_mean": [0.5, -0.5, 0.0, 0.1], "latents_std": [2.0, 1.5, 2.5, 1.0],
}  # fmt: skip
_TEXT = {
    "vocab_size": 12, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
_CLIP = {
    "hidden_size": 20, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 10,
    "image_size": 16, "patch_size": 8, "hidden_act": "gelu",
}  # fmt: skip
_FRAMES, _HEIGHT, _WIDTH, _STEPS = 5, 16, 32, 4
_SHAPE = (3, 4, 8, 4)
_PROMPT, _NEGATIVE = "a red square moves left", "blurred"
_SIZE = {"height": _HEIGHT, "width": _WIDTH}
_THERE = {**_SIZE, "num_frames": _FRAMES, "num_inference_steps": _STEPS, "prompt": [_PROMPT],
          "negative_prompt": [_NEGATIVE], "guidance_scale": 3.0}  # fmt: skip
_HERE = {**_SIZE, "frames": _FRAMES, "steps": _STEPS, "prompts": (_PROMPT,), "negative": _NEGATIVE, "guidance": 3.0}


@pytest.fixture(scope="module")
def parts():
    """What all of them have."""
    return {
        "tokenizer": tokenizer(),
        "text_encoder": network(UMT5_ENCODER, _TEXT, 1, 0.3),
        "vae": network(AUTOENCODER_WAN, _VAE, 2),
        "transformer": network(WAN, _TRANSFORMER, 3, 0.3),
        "scheduler": scheduler("wan_unipc_480p"),
    }


@pytest.fixture(autouse=True)
def plain_text(monkeypatch):
    """Two of their modules call a library that mends text whether or not it is there; this text is whole."""
    for name in ("pipeline_wan_i2v", "pipeline_wan_video2video"):
        module = importlib.import_module(f"diffusers.pipelines.wan.{name}")
        monkeypatch.setattr(module, "ftfy", SimpleNamespace(fix_text=str), raising=False)


@pytest.fixture(scope="module")
def text_to_video(parts, tmp_path_factory):
    pipeline = diffusers.WanPipeline(**parts)
    return pipeline, imported(pipeline, tmp_path_factory.mktemp("wan"))


def test_text_to_video(text_to_video):
    pipeline, run = text_to_video
    prompts, start = (_PROMPT, "a blue square"), np.repeat(noise(1, *_SHAPE), 2, axis=0)
    call = {**_THERE, "prompt": list(prompts), "negative_prompt": [_NEGATIVE] * 2, "latents": to_torch(start)}
    theirs = run_there(pipeline, **call)
    check_same(run_here(run, Request(**{**_HERE, "prompts": prompts}), Draws(start)), theirs)
    one, other = theirs.visited[-1]
    assert np.abs(one - other).max() > 1e-2 * np.abs(one).max(), "the prompt says nothing"


def test_image_to_video(parts, tmp_path):
    """2.1: the picture encoded and beside the noise, and its CLIP features."""
    options = {**_TRANSFORMER, "in_channels": 10, "image_dim": 20, "added_kv_proj_dim": 32}
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    pipeline = diffusers.WanImageToVideoPipeline(
        **{**parts, "transformer": network(WAN, options, 4, 0.3), "scheduler": scheduler("wan_flow_euler")},
        image_encoder=network(CLIP_VISION, _CLIP, 5, 0.3),
        image_processor=processor,
    )
    run, image, start = imported(pipeline, tmp_path), picture(24, 40, 3), noise(1, *_SHAPE)
    theirs = run_there(pipeline, **_THERE, image=Image.fromarray(image), latents=to_torch(start))
    check_same(run_here(run, Request(**_HERE, image=image), Draws(start)), theirs)


def test_first_frame_given(text_to_video, tmp_path):
    """2.2 5B: the picture is the first latent frame, at level 0; theirs steps it all the same, and pastes at the end."""
    parts = {name: part for name, part in text_to_video[0].components.items() if part is not None}
    pipeline = diffusers.WanImageToVideoPipeline(**parts, expand_timesteps=True)
    run = imported(pipeline, tmp_path, _class_name="WanPipeline")  # as that of the 5B is published
    image, start = picture(24, 40, 3), noise(1, *_SHAPE)
    theirs = run_there(pipeline, **_THERE, image=Image.fromarray(image), latents=to_torch(start))
    ours = run_here(run, Request(**_HERE, image=image), Draws(start))
    check_same(Run(ours.visited[:, :, 1:], ours.video), Run(theirs.visited[:, :, 1:], theirs.video))


def test_video_to_video(text_to_video):
    """Of the text-to-video run: theirs is another class with the same parts."""
    import torch

    parts, run = text_to_video[0].components, text_to_video[1]
    names = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
    pipeline = diffusers.WanVideoToVideoPipeline(**{name: parts[name] for name in names})
    video, start = picture(_FRAMES, 24, 40, 3), torch.Generator().manual_seed(7)
    there = {name: value for name, value in _THERE.items() if name != "num_frames"}
    theirs = run_there(
        pipeline, **there, video=[Image.fromarray(each) for each in video], strength=0.8, generator=start
    )
    drawn = torch.randn((1, 4, 3, 4, 8), generator=torch.Generator().manual_seed(7)).numpy()
    request = Request(**{**_HERE, "frames": None}, video=video, strength=0.8)
    ours = run_here(run, request, Draws(np.moveaxis(drawn, 1, -1)))
    assert len(ours.visited) == 3
    check_same(ours, theirs)


def test_two_experts(parts, tmp_path):
    """2.2 14B: the second network takes the last steps, with a guidance of its own."""
    pipeline = diffusers.WanPipeline(**parts, transformer_2=network(WAN, _TRANSFORMER, 6, 0.3), boundary_ratio=0.8)
    run, start = imported(pipeline, tmp_path), noise(1, *_SHAPE)
    theirs = run_there(pipeline, **_THERE, guidance_scale_2=2.0, latents=to_torch(start))
    ours = run_here(run, Request(**_HERE, options={"guidance_2": 2.0}), Draws(start))
    check_same(ours, theirs)
    told = np.asarray(pipeline.scheduler.timesteps)
    assert (told >= 800).any() and (told < 800).any()
