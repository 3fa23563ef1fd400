"""Latte's published pipeline: the same latents in, the same latents at every step, the same clip out."""

import numpy as np
import pytest

from tests.interop.pipelines.networks import pictures, t5
from tests.interop.pipelines.oracle import (
    Run,
    check_same,
    imported,
    network,
    noise,
    run_here,
    run_there,
    scheduler,
    to_torch,
)
from vdm_jax.interop.families.autoencoders_kl import AUTOENCODER_TEMPORAL_DECODER
from vdm_jax.interop.families.encoders import T5_ENCODER
from vdm_jax.interop.families.latte import LATTE
from vdm_jax.interop.pipelines.families import open_pipeline
from vdm_jax.interop.pipelines.request import Draws, Request

diffusers = pytest.importorskip("diffusers", reason="the published pipelines are the oracle")

_TRANSFORMER = {
    "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 8, "num_layers": 2,
    "cross_attention_dim": 32, "attention_bias": True, "sample_size": 8, "patch_size": 2, "caption_channels": 16,
    "activation_fn": "gelu-approximate", "norm_type": "ada_norm_single", "norm_elementwise_affine": False,
    "norm_eps": 1e-6, "video_length": 3,
}  # fmt: skip
_TEMPORAL = {"down_block_types": ["DownEncoderBlock2D"], "block_out_channels": [32], "layers_per_block": 2}
_DDIM = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "steps_offset": 0, "set_alpha_to_one": True}
_PROMPT, _NEGATIVE = "a red  Square moves left ", "blurred blue a square moves left a"
_THERE = {"video_length": 3, "num_inference_steps": 4, "negative_prompt": _NEGATIVE, "guidance_scale": 3.0,
          "clean_caption": False}  # fmt: skip
_HERE = {"frames": 3, "steps": 4, "negative": _NEGATIVE, "guidance": 3.0}


@pytest.fixture(scope="module")
def parts():
    return {
        **t5(T5_ENCODER),
        **pictures(),
        "transformer": network(LATTE, _TRANSFORMER, 3),
        "scheduler": scheduler("sd15_ddim", **_DDIM),
    }


@pytest.fixture(scope="module")
def latte(parts, tmp_path_factory):
    pipeline = diffusers.LattePipeline(**parts)
    return pipeline, imported(pipeline, tmp_path_factory.mktemp("latte"))


def test_every_prompt_is_as_it_is_by_itself(latte):
    """A long prompt and a short one, of which the negative one is seen further than it is long, and less."""
    (pipeline, run), prompts, start = latte, (_PROMPT, "blue"), noise(2, 3, 8, 12, 4)
    size = {"height": 16, "width": 24}
    each = [
        run_there(pipeline, **_THERE, **size, prompt=prompt, latents=to_torch(start[i : i + 1]))
        for i, prompt in enumerate(prompts)
    ]
    theirs = Run(*(np.concatenate(parts, axis=axis) for axis, parts in zip((1, 0), zip(*each))))
    check_same(run_here(run, Request(**_HERE, **size, prompts=prompts), Draws(start)), theirs)
    swapped = run_there(pipeline, **_THERE, **size, prompt=prompts[1], latents=to_torch(start[:1])).visited[-1]
    assert np.abs(swapped - each[0].visited[-1]).max() > 1e-2 * np.abs(swapped).max(), "the prompt says nothing"


def test_another_scheduler_and_a_decoder_of_clips(parts, tmp_path):
    """Euler computes on x / alpha; the decoder of SVD sees two frames, then the third."""
    changed = {
        "scheduler": scheduler("sd15_euler", **_DDIM),
        "vae": network(AUTOENCODER_TEMPORAL_DECODER, _TEMPORAL, 4),
    }
    pipeline = diffusers.LattePipeline(**{**parts, **changed})
    run, start, size = imported(pipeline, tmp_path), noise(1, 3, 8, 16, 4), {"height": 8, "width": 16}
    call = {**_THERE, **size, "prompt": _PROMPT, "latents": to_torch(start)}
    theirs = run_there(pipeline, **call, decode_chunk_size=2)
    request = Request(**_HERE, **size, prompts=(_PROMPT,), options={"decode_chunk_size": 2})
    check_same(run_here(run, request, Draws(start)), theirs)


def test_published_defaults(latte):
    filled = open_pipeline(latte[1]).complete(Request((_PROMPT,), frames=3))
    assert (filled.height, filled.width, filled.steps, filled.guidance, filled.fps) == (512, 512, 50, 7.5, 8.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "frames: 16 is more than the model's 3"),
        ({"frames": 3, "width": 22}, "width: 22 cannot be represented, only multiples of 4; the nearest: 20 or 24"),
        ({"frames": 3, "strength": 0.5}, "strength: LattePipeline does not take it"),
        ({"frames": 3, "options": {"decode_chunk_size": 0}}, "decode_chunk_size: 0 must be a number of frames"),
        ({"frames": 3, "options": {"decode_chunk_size": 1.5}}, "decode_chunk_size: 1.5 must be a number of frames"),
    ],
)
def test_what_cannot_be_is_refused(latte, changes, message):
    with pytest.raises(ValueError, match=message):
        open_pipeline(latte[1]).complete(Request((_PROMPT,), **changes))
