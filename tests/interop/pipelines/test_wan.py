"""Wan's published pipelines: the same latents in, the same latents at every step, the same clip out."""

import numpy as np
import pytest

from tests.interop.pipelines.oracle import (
    check_same,
    imported,
    network,
    noise,
    run_here,
    run_there,
    scheduler,
    to_torch,
    tokenizer,
)
from vdm_jax.interop.autoencoders_wan import AUTOENCODER_WAN
from vdm_jax.interop.encoders import UMT5_ENCODER
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
