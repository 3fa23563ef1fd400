"""Wan's published pipelines: the same latents in, the same latents at every step, the same clip out."""

import importlib
import re
from types import SimpleNamespace

import jax
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from tests.interop.pipelines import wans
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
)
from tests.interop.pipelines.wans import CLIP, FRAMES, HERE, NEGATIVE, PROMPT, SHAPE, THERE, TRANSFORMER
from vdm_jax.interop.families.encoders import CLIP_VISION
from vdm_jax.interop.families.wan import WAN
from vdm_jax.interop.imported import import_folder
from vdm_jax.interop.pipelines.families import open_pipeline
from vdm_jax.interop.pipelines.opened import open_parts
from vdm_jax.interop.pipelines.pipeline import generate
from vdm_jax.interop.pipelines.request import Draws, Request

diffusers = pytest.importorskip("diffusers", reason="the published pipelines are the oracle")
transformers = pytest.importorskip("transformers", reason="the published pipelines are the oracle")


@pytest.fixture(scope="module")
def parts():
    return wans.parts()


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


BOTH = Request(**{**HERE, "prompts": (PROMPT, "a blue square")})
DRAWN = Draws(np.repeat(noise(1, *SHAPE), 2, axis=0))


@pytest.fixture(scope="module")
def two_clips(text_to_video):
    """Of two prompts from the same noise."""
    return run_here(text_to_video[1], BOTH, DRAWN)


def test_text_to_video(text_to_video, two_clips):
    call = {**THERE, "prompt": list(BOTH.prompts), "negative_prompt": [NEGATIVE] * 2}
    theirs = run_there(text_to_video[0], **call, latents=to_torch(DRAWN.latents))
    check_same(two_clips, theirs)
    one, other = theirs.visited[-1]
    assert np.abs(one - other).max() > 1e-2 * np.abs(one).max(), "the prompt says nothing"


def test_image_to_video(parts, tmp_path):
    """2.1: the picture encoded and beside the noise, and its CLIP features."""
    options = {**TRANSFORMER, "in_channels": 10, "image_dim": 20, "added_kv_proj_dim": 32}
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    pipeline = diffusers.WanImageToVideoPipeline(
        **{**parts, "transformer": network(WAN, options, 4, 0.3), "scheduler": scheduler("wan_flow_euler")},
        image_encoder=network(CLIP_VISION, CLIP, 5, 0.3),
        image_processor=processor,
    )
    run, image, start = imported(pipeline, tmp_path), picture(24, 40, 3), noise(1, *SHAPE)
    theirs = run_there(pipeline, **THERE, image=Image.fromarray(image), latents=to_torch(start))
    check_same(run_here(run, Request(**HERE, image=image), Draws(start)), theirs)


def test_first_frame_given(text_to_video, tmp_path):
    """2.2 5B: the picture is the first latent frame, at level 0 (theirs steps it too, and pastes at the end)."""
    parts = {name: part for name, part in text_to_video[0].components.items() if part is not None}
    pipeline = diffusers.WanImageToVideoPipeline(**parts, expand_timesteps=True)
    run = imported(pipeline, tmp_path, _class_name="WanPipeline")  # as that of the 5B is published
    image, start = picture(24, 40, 3), noise(1, *SHAPE)
    theirs = run_there(pipeline, **THERE, image=Image.fromarray(image), latents=to_torch(start))
    ours = run_here(run, Request(**HERE, image=image), Draws(start))
    check_same(Run(ours.visited[:, :, 1:], ours.video), Run(theirs.visited[:, :, 1:], theirs.video))


def test_video_to_video(text_to_video):
    """Of the text-to-video run: theirs is another class with the same parts."""
    import torch

    parts, run = text_to_video[0].components, text_to_video[1]
    names = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
    pipeline = diffusers.WanVideoToVideoPipeline(**{name: parts[name] for name in names})
    video, start = picture(FRAMES, 24, 40, 3), torch.Generator().manual_seed(7)
    there = {name: value for name, value in THERE.items() if name != "num_frames"}
    theirs = run_there(
        pipeline, **there, video=[Image.fromarray(each) for each in video], strength=0.8, generator=start
    )
    drawn = torch.randn((1, 4, 3, 4, 8), generator=torch.Generator().manual_seed(7)).numpy()
    request = Request(**{**HERE, "frames": None}, video=video, strength=0.8)
    ours = run_here(run, request, Draws(np.moveaxis(drawn, 1, -1)))
    assert len(ours.visited) == 3
    check_same(ours, theirs)


def test_two_experts(parts, tmp_path):
    """2.2 14B: the second network takes the last steps, with a guidance of its own; here between two pictures."""
    options = {**TRANSFORMER, "in_channels": 10}
    networks = {f"transformer{end}": network(WAN, options, seed, 0.3) for end, seed in (("", 5), ("_2", 6))}
    pipeline = diffusers.WanImageToVideoPipeline(**{**parts, **networks}, boundary_ratio=0.8)
    run, start = imported(pipeline, tmp_path), noise(1, *SHAPE)
    first, last = picture(24, 40, 3), picture(24, 40, 3, seed=1)
    pictures = {"image": Image.fromarray(first), "last_image": Image.fromarray(last)}
    theirs = run_there(pipeline, **THERE, **pictures, guidance_scale_2=2.0, latents=to_torch(start))
    request = Request(**HERE, image=first, last_image=last, options={"guidance_2": 2.0})
    check_same(run_here(run, request, Draws(start)), theirs)
    told = np.asarray(pipeline.scheduler.timesteps)
    assert told.min() < 800 <= told.max()


def test_bfloat16(text_to_video, two_clips, tmp_path):
    """Imported as bfloat16 it computes in bfloat16: near, and not the same."""
    import_folder(text_to_video[1].parent / "published", tmp_path / "run", np.dtype(ml_dtypes.bfloat16))
    rough = run_here(tmp_path / "run", BOTH, DRAWN)
    error = np.abs(two_clips.visited - rough.visited).max() / np.abs(two_clips.visited).max()
    assert 1e-4 < error < 5e-2


def test_trained_weights_stand_in(text_to_video):
    run = text_to_video[1]
    weights = open_parts(run).weights("transformer")
    other = jax.tree.map(lambda leaf: 2 * leaf, weights)
    assert open_pipeline(run, trained={"transformer": other}).opened.weights("transformer") is other
    with pytest.raises(ValueError, match="trained: unknown 'transfomer'; did you mean 'transformer'"):
        open_pipeline(run, trained={"transfomer": other})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": picture(8, 8, 3)}, "image: WanPipeline does not take it (it takes: negative, strength, video)"),
        ({"frames": 6}, "clip: 6 frames cannot be represented; the nearest that can: 5 or 7"),
        ({"height": 20}, "height: 20 cannot be represented, only multiples of 8; the nearest: 16 or 24"),
        ({"width": 4}, "width: 4 cannot be represented, only multiples of 8; the nearest: 8"),
        ({"steps": 0}, "steps: 0 must be above 0"),
        ({"steps": 2000}, "steps: 2000 must be 1 to 1000"),
        ({"prompts": ()}, "prompts: none given"),
        ({"strength": 0.5}, "strength: needs a video to change"),
        ({"video": picture(3, 8, 8, 3)}, "frames: 5 asked for, the video has 3"),
        ({"video": picture(6, 8, 8, 3), "frames": None}, "clip: 6 frames cannot be represented"),
        ({"video": picture(5, 8, 8, 3), "strength": 0.1}, "strength: 0.1 must be at most 1 and leave a step of 4"),
        ({"options": {"guidance_2": 1.0}}, "options: 'guidance_2' is not known; it has no options"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_compiled(text_to_video, monkeypatch, changes, message):
    pipeline = open_pipeline(text_to_video[1])
    monkeypatch.setattr(type(pipeline.opened), "weights", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ValueError, match=re.escape(message)):
        generate(pipeline, Request(**{**HERE, **changes}))
