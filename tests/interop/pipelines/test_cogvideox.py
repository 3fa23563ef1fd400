"""CogVideoX's published pipelines: the same noise in, the same latents at every step, the same clip out."""

import functools
from pathlib import Path

import numpy as np
import pytest

from tests.interop.parity import published
from tests.interop.pipelines.networks import t5
from tests.interop.pipelines.oracle import (
    check_same,
    imported,
    network,
    noise,
    picture,
    run_here,
    scheduler,
)
from tests.interop.pipelines.oracle import run_there as run_any
from tests.interop.pipelines.unets import Drawn
from vdm_jax.interop.families.autoencoders_cogvideox import AUTOENCODER_COGVIDEOX
from vdm_jax.interop.families.cogvideox import COGVIDEOX
from vdm_jax.interop.families.encoders import T5_ENCODER
from vdm_jax.interop.pipelines.cogvideox import dynamic_scales
from vdm_jax.interop.pipelines.families import PIPELINES
from vdm_jax.interop.pipelines.opened import Opened, Part
from vdm_jax.interop.pipelines.request import Draws, Request

diffusers = pytest.importorskip("diffusers", reason="the published pipelines are the oracle")
Image = pytest.importorskip("PIL.Image", reason="published pipelines take its pictures")

_LENGTH = 6
_TRANSFORMER = {
    "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 4, "out_channels": 4, "time_embed_dim": 16,
    "text_embed_dim": 16, "num_layers": 2, "sample_width": 12, "sample_height": 8, "sample_frames": 9,
    "max_text_seq_length": _LENGTH,
}  # fmt: skip
_ROPE = {"use_rotary_positional_embeddings": True}
_LEARNED = {**_ROPE, "use_learned_positional_embeddings": True, "in_channels": 8}
_LATER = {**_ROPE, "patch_size_t": 2, "patch_bias": False, "sample_width": 14, "sample_height": 14}
_LATER_PICTURE = {**_LATER, "in_channels": 8, "ofs_embed_dim": 16}
_VAE = {
    "down_block_types": ["CogVideoXDownBlock3D"] * 3, "up_block_types": ["CogVideoXUpBlock3D"] * 3,
    "block_out_channels": [8, 8, 16], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4,
    "scaling_factor": 0.7,
}  # fmt: skip
_PROMPT, _NEGATIVE, _SHAPE = "a red square moves", "blurred", (3, 8, 12, 4)
_SIZE = {"height": 32, "width": 48}
_THERE = {**_SIZE, "num_inference_steps": 4, "prompt": [_PROMPT], "negative_prompt": [_NEGATIVE],
          "guidance_scale": 3.0, "max_sequence_length": _LENGTH}  # fmt: skip
_HERE = {**_SIZE, "steps": 4, "prompts": (_PROMPT,), "negative": _NEGATIVE, "guidance": 3.0}
_IMAGE, _VIDEO = picture(8, 8, 3), picture(11, 8, 8, 3)
run_there = functools.partial(run_any, channels=2)


def made(kind, transformer, plan, **vae):
    """A tiny published pipeline."""
    parts = {
        **t5(T5_ENCODER),
        "vae": network(AUTOENCODER_COGVIDEOX, {**_VAE, **vae}, 2),
        "transformer": network(COGVIDEOX, {**_TRANSFORMER, **transformer}, 3),
        "scheduler": scheduler(plan),
    }
    return getattr(diffusers, f"CogVideoX{kind}Pipeline")(**parts)


def frames_first(drawn, count=1, shape=_SHAPE):
    """`[count, 1, t, h, w, c]`, drawn as `[1, t, c, h, w]` each."""
    return np.stack([drawn.pictures(*shape)[None] for _ in range(count)])


def drawn_by_dpm(drawn, steps, shape=_SHAPE):
    """What the published SDE solver uses: between the first step and the last, the second of two draws."""
    draws = frames_first(drawn, 2 * steps - 2, shape)
    return np.concatenate([draws[:1], draws[2:-1:2], draws[-1:]])


@pytest.fixture(scope="module")
def of_2b(tmp_path_factory):
    pipeline = made("", {}, "cogvideox_2b_ddim")
    return pipeline, imported(pipeline, tmp_path_factory.mktemp("cogvideox"))


def test_text_to_video(of_2b):
    import torch

    pipeline, run = of_2b
    prompts, start = (_PROMPT, "a blue square"), noise(2, *_SHAPE)
    latents = torch.from_numpy(np.ascontiguousarray(np.moveaxis(start, -1, 2)))
    call = {**_THERE, "prompt": list(prompts), "negative_prompt": [_NEGATIVE] * 2, "latents": latents}
    theirs = run_there(pipeline, **call)
    check_same(run_here(run, Request(**{**_HERE, "prompts": prompts}), Draws(start)), theirs)
    swapped = run_there(pipeline, **{**call, "prompt": list(prompts[::-1])}).visited[-1]
    assert np.abs(swapped - theirs.visited[-1]).max() > 1e-2 * np.abs(swapped).max(), "the prompt says nothing"


def test_dynamic_guidance_and_draws_at_every_step(tmp_path):
    """5B with the solver that its authors took, whose guidance grows as the steps go by."""
    pipeline = made("", _ROPE, "cogvideox_5b_dpm")
    run, call = imported(pipeline, tmp_path), {**_THERE, "num_frames": 9}
    drawn = Drawn()
    theirs = run_there(pipeline, **call, use_dynamic_cfg=True, generator=drawn.generator)
    (start,), steps = frames_first(drawn), drawn_by_dpm(drawn, 4)
    request = Request(**_HERE, frames=9, options={"dynamic_guidance": 1})
    check_same(run_here(run, request, Draws(start, steps)), theirs)
    plain = run_there(pipeline, **call, generator=Drawn().generator).visited
    assert np.abs(plain - theirs.visited).max() > 1e-2 * np.abs(plain).max(), "the scale says nothing"


def test_image_to_video(tmp_path):
    pipeline, drawn, image = made("ImageToVideo", _LEARNED, "cogvideox_5b_ddim"), Drawn(), picture(24, 40, 3)
    run = imported(pipeline, tmp_path)
    call = {"image": Image.fromarray(image), "num_frames": 9, "generator": drawn.generator}
    theirs = run_there(pipeline, **_THERE, **call)
    posterior, (start,) = drawn.clips(1, 8, 12), frames_first(drawn)
    check_same(run_here(run, Request(**_HERE, image=image), Draws(start, condition=posterior)), theirs)


def test_image_to_video_of_later_version(tmp_path):
    """Two latent frames a token: a frame more than the clip has, and scaled the other way."""
    pipeline = made("ImageToVideo", _LATER_PICTURE, "cogvideox_5b_dpm", invert_scale_latents=True)
    run, drawn, image = imported(pipeline, tmp_path), Drawn(), picture(32, 48, 3)
    call = {"image": Image.fromarray(image), "num_frames": 9, "generator": drawn.generator}
    theirs = run_there(pipeline, **_THERE, **call)
    shape = (4, *_SHAPE[1:])
    posterior, (start,) = drawn.clips(1, 8, 12), frames_first(drawn, 1, shape)
    draws = Draws(start, drawn_by_dpm(drawn, 4, shape), posterior)
    check_same(run_here(run, Request(**_HERE, frames=9, image=image), draws), theirs)
    assert theirs.video.shape[1] == 9


def test_video_to_video(of_2b):
    """Of the text-to-video run: theirs is another class with the same parts."""
    pipeline = diffusers.CogVideoXVideoToVideoPipeline(**of_2b[0].components)
    drawn, video = Drawn(), picture(9, 24, 40, 3)
    call = {"video": [Image.fromarray(each) for each in video], "strength": 0.8, "generator": drawn.generator}
    theirs = run_there(pipeline, **_THERE, **call)
    posterior, (start,) = drawn.clips(3, 8, 12), frames_first(drawn)
    ours = run_here(of_2b[1], Request(**_HERE, video=video, strength=0.8), Draws(start, condition=posterior))
    assert len(ours.visited) == 3
    check_same(ours, theirs)


def of_published(kind, transformer, vae="CogVideoX-2b-vae"):
    """A pipeline of full size, of which there are no weights."""
    configs = {"text_encoder": (T5_ENCODER, "CogVideoX-text_encoder"), "transformer": (COGVIDEOX, transformer),
               "vae": (AUTOENCODER_COGVIDEOX, vae)}  # fmt: skip
    parts = {n: Part(family, family.config(published(name)), np.float32) for n, (family, name) in configs.items()}
    name = f"CogVideoX{kind}Pipeline"
    return PIPELINES[name](Opened(Path("run"), {"_class_name": name}, parts))


@pytest.mark.parametrize(
    ("kind", "transformer", "size", "latents"),
    [
        ("", "CogVideoX-2b", (49, 480, 720, 8.0), (13, 60, 90, 16)),
        ("ImageToVideo", "CogVideoX-5b-I2V", (49, 480, 720, 8.0), (13, 60, 90, 16)),
        ("", "CogVideoX1.5-5B", (81, 768, 1360, 16.0), (22, 96, 170, 16)),
    ],
)
def test_published_defaults(kind, transformer, size, latents):
    pipeline = of_published(kind, transformer)
    found = pipeline.complete(Request((_PROMPT,), image=_IMAGE if kind else None))
    assert (found.frames, found.height, found.width, found.fps) == size
    assert (found.steps, found.guidance, found.strength) == (50, 6.0, None)
    assert pipeline.latent_shape(found) == latents


def test_a_video_is_changed_whole_by_default():
    found = of_published("", "CogVideoX-2b").complete(Request((_PROMPT,), video=picture(17, 8, 8, 3)))
    assert (found.frames, found.strength) == (17, 0.8)


@pytest.mark.parametrize(
    ("kind", "transformer", "changes", "message"),
    [
        ("", "CogVideoX-2b", {"frames": 10}, "10 frames cannot be represented; the nearest that can: 9 or 16"),
        ("", "CogVideoX-2b", {"height": 472}, "height: 472 .* only multiples of 16; the nearest: 464 or 480"),
        ("", "CogVideoX-2b", {"image": _IMAGE}, "image: CogVideoXPipeline does not take it"),
        ("", "CogVideoX-2b", {"strength": 0.5}, "strength: needs a video to change"),
        ("", "CogVideoX-2b", {"video": _VIDEO, "strength": 2.0}, "strength: 2.0 must be above 0 and at most 1"),
        ("", "CogVideoX-2b", {"video": _VIDEO, "frames": 16}, "frames: 16 asked for, the video has 11"),
        ("", "CogVideoX-2b", {"video": _VIDEO}, "11 frames cannot be represented; the nearest that can: 9 or 16"),
        ("", "CogVideoX-2b", {"options": {"dynamic_guidance": 2}}, "dynamic_guidance: 2 must be 0 or 1"),
        ("", "CogVideoX-2b", {"options": {"dynamic_guidence": 1}}, "did you mean 'dynamic_guidance'"),
        ("VideoToVideo", "CogVideoX-2b", {}, "video: missing; CogVideoXVideoToVideoPipeline needs it"),
        ("", "CogVideoX1.5-5B", {"video": _VIDEO, "frames": 9}, "9 of a video are 3 latent frames.* changed: 8"),
        ("", "CogVideoX1.5-5B", {"width": 2416}, "width: 2416 is more than 2400, where its positions end"),
        ("ImageToVideo", "CogVideoX-5b-I2V", {}, "image: missing; CogVideoXImageToVideoPipeline needs it"),
        ("ImageToVideo", "CogVideoX-5b-I2V", {"image": _IMAGE, "width": 704}, "width: 704 is not 720, the only one"),
    ],
)
def test_what_cannot_be_is_refused(kind, transformer, changes, message):
    with pytest.raises(ValueError, match=message):
        of_published(kind, transformer).complete(Request((_PROMPT,), **changes))


def test_a_transformer_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="transformer: reads a picture, which does not go with CogVideoXPipeline"):
        of_published("", "CogVideoX1.5-5B-I2V")
    with pytest.raises(ValueError, match="transformer: reads no picture"):
        of_published("ImageToVideo", "CogVideoX-5b")


def test_dynamic_scales():
    """Between 1 and 1 + w; the last timesteps are below K, where it rises at last."""
    scales = dynamic_scales(6.0, np.array([999, 10, 5, 0]))
    assert ((scales >= 1.0) & (scales <= 7.0)).all()
    assert dynamic_scales(6.0, np.zeros(1)) == [7.0]
