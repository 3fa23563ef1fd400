"""AnimateDiff's published pipelines: the same noise in, the same latents at every step, the same clip out."""

import json
import shutil
from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

from tests.interop.pipelines.oracle import (
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
from tests.interop.pipelines.unets import (
    FRAMES,
    GROUPS,
    HERE,
    LATENTS,
    NEGATIVE,
    PROMPT,
    SIDE,
    THERE,
    TRUNK,
    Drawn,
    latent_diffusion,
)
from vdm_jax.cli import sample_flow
from vdm_jax.cli.main import main
from vdm_jax.interop.families.controlnet import CONTROLNET
from vdm_jax.interop.families.unet import UNET_2D
from vdm_jax.interop.families.unet_motion import MOTION_ADAPTER
from vdm_jax.interop.pipelines.animatediff import controlled
from vdm_jax.interop.pipelines.families import open_pipeline
from vdm_jax.interop.pipelines.request import Draws, Request
from vdm_jax.sampling.noise import INDEPENDENT, Rescheduled

diffusers = pytest.importorskip("diffusers", reason="the published pipelines are the oracle")

_DOWN = {**GROUPS, "down_block_types": ["DownBlock2D"], "attention_head_dim": 2}
_UNET = {**TRUNK, **_DOWN, "up_block_types": ["UpBlock2D"]}
_ADAPTER = {
    "block_out_channels": [32], "motion_layers_per_block": 1, "motion_norm_num_groups": 8,
    "motion_num_attention_heads": 2, "motion_max_seq_length": 8,
}  # fmt: skip
_BRANCH = {"conditioning_embedding_out_channels": [4, 8]}  # a latent is two pixels on each side
_STEPS = 4


@pytest.fixture(scope="module")
def parts():
    """All but the scheduler; the UNet is one of pictures."""
    return {
        **latent_diffusion(), "unet": network(UNET_2D, _UNET, 3), "motion_adapter": network(MOTION_ADAPTER, _ADAPTER, 4)
    }  # fmt: skip


def pictures(frames):
    return [Image.fromarray(frame) for frame in frames]


@pytest.fixture(scope="module")
def parted(parts, tmp_path_factory):
    """As they are published: a folder of Stable Diffusion, those of an adapter and of a scheduler."""
    folder = tmp_path_factory.mktemp("parted")
    both = ("text_encoder", "tokenizer", "vae", "unet")
    pictures = diffusers.StableDiffusionPipeline(
        **{name: parts[name] for name in both}, scheduler=scheduler("sd15_ddpm"), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pictures.save_pretrained(folder / "pictures")
    parts["motion_adapter"].save_pretrained(folder / "motion")
    scheduler("animatediff_lightning_euler").save_pretrained(folder / "euler")
    return folder


def put_together(folder, run, *words):
    others = [f"motion_adapter={folder / 'motion'}", f"scheduler={folder / 'euler'}", *words]
    asked = [word for other in others for word in ("--with", other)]
    return main(["import", str(folder / "pictures"), *asked, "--pipeline", "AnimateDiffPipeline", "--out", str(run)])


def test_text_to_video(parts, parted, tmp_path, capsys):
    """Put together from published folders."""
    assert put_together(parted, tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert "unet: UNet2DConditionModel" in said
    assert "motion_adapter: MotionAdapter" in said
    pipeline = diffusers.AnimateDiffPipeline(**parts, scheduler=scheduler("animatediff_lightning_euler"))
    start = noise(1, *LATENTS)
    call = {**THERE, "num_frames": FRAMES, "num_inference_steps": _STEPS, "latents": to_torch(start)}
    theirs = run_there(pipeline, **call)
    check_same(run_here(tmp_path / "run", Request(**HERE, frames=FRAMES, steps=_STEPS), Draws(start)), theirs)


def test_what_is_put_together_goes_out_as_a_pipeline(parted, tmp_path):
    assert put_together(parted, tmp_path / "run") == 0
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    index = json.loads((tmp_path / "out/model_index.json").read_text())
    assert index["_class_name"] == "AnimateDiffPipeline"
    assert index["motion_adapter"] == ["diffusers", "MotionAdapter"]
    assert index["scheduler"] == ["diffusers", "EulerDiscreteScheduler"]
    opened = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(opened.unet).__name__ == "UNetMotionModel"


def test_a_safety_checker_is_passed_on(parted, tmp_path):
    folder = tmp_path / "safe"
    shutil.copytree(parted / "pictures", folder)
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/model.safetensors").write_bytes(b"as it is")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert main(["import", str(folder), "--out", str(tmp_path / "run")]) == 0
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/safety_checker/model.safetensors").read_bytes() == b"as it is"
    assert (folder / "model_index.json").read_text() == (tmp_path / "out/model_index.json").read_text()


def test_what_cannot_be_put_together_is_refused(parted, tmp_path, capsys):
    for words, why in (
        (["--with", "motion_adapter"], "--with: 'motion_adapter' is not a name and a folder"),
        (["--with", f"motion_adapter={tmp_path / 'none'}"], "none: is not a directory"),
        (["--with", f"unet={parted}"], "names no class (config.json, scheduler_config.json"),
        (["--pipeline", "AnimateDiff"], "did you mean 'AnimateDiffPipeline'"),
    ):
        assert main(["import", str(parted / "pictures"), *words, "--out", str(tmp_path / "run")]) == 2
        assert why in capsys.readouterr().err
    alone = ["import", str(parted / "motion"), "--pipeline", "AnimateDiffPipeline", "--out", str(tmp_path / "run")]
    assert main(alone) == 2
    assert "is a component alone, nothing can be joined to it" in capsys.readouterr().err
    assert (
        main(["import", str(parted / "pictures"), "--pipeline", "AnimateDiffPipeline", "--out", str(tmp_path / "run")])
        == 0
    )
    with pytest.raises(ValueError, match="lacks motion_adapter; its UNet is one of pictures"):
        open_pipeline(tmp_path / "run")


def test_lcm(parts, tmp_path):
    """Each step but the last draws noise; the UNet was put together before it was saved."""
    pipeline = diffusers.AnimateDiffPipeline(**parts, scheduler=scheduler("animatelcm_lcm"))
    run, start, drawn = imported(pipeline, tmp_path), noise(1, *LATENTS), Drawn()
    call = {"num_frames": FRAMES, "num_inference_steps": _STEPS, "latents": to_torch(start)}
    theirs = run_there(pipeline, **THERE, **call, generator=drawn.generator)
    steps = np.stack([drawn.clips(*LATENTS[:3]) for _ in range(_STEPS - 1)] + [np.zeros((1, *LATENTS), np.float32)])
    check_same(run_here(run, Request(**HERE, frames=FRAMES, steps=_STEPS), Draws(start, steps)), theirs)


def test_free_init(parts, tmp_path):
    """Made twice: the second time from the low frequencies of the first one, and noise drawn there; odd sizes."""
    pipeline = diffusers.AnimateDiffPipeline(**parts, scheduler=scheduler("animatediff_ddim"))
    run, start, drawn = imported(pipeline, tmp_path), noise(1, *LATENTS), Drawn()
    pipeline.enable_free_init(num_iters=2, order=3, spatial_stop_frequency=0.6, temporal_stop_frequency=0.4)
    call = {"num_frames": FRAMES, "num_inference_steps": 2, "latents": to_torch(start), "generator": drawn.generator}
    theirs = run_there(pipeline, **THERE, **call)
    assert len(theirs.visited) == 4
    own = {"free_init_num_iters": 2, "free_init_order": 3, "free_init_spatial": 0.6, "free_init_temporal": 0.4}
    again = drawn.clips(*LATENTS[:3])[None]
    request = Request(**HERE, frames=FRAMES, steps=2, options=own)
    check_same(run_here(run, request, Draws(start, again=again)), theirs)
    opened = open_pipeline(run)
    for said, why in (
        ({"options": {"free_init_num_iters": 1.5}}, "free_init_num_iters: 1.5 must be a whole number, 1 or more"),
        ({"options": own | {"free_init_spatial": 2.0}}, "spatial: 2.0 must lie between 0 and 1"),
        ({"options": own, "video": picture(FRAMES, 24, 40, 3)}, "free_init_num_iters: 2, but a clip to change"),
    ):
        with pytest.raises(ValueError, match=why):
            opened.complete(Request(("a",), frames=FRAMES, **said))


def test_free_noise(parts, tmp_path):
    """More frames than there are positions for, in windows; the noise of the first of them comes again, shuffled."""
    pipeline = diffusers.AnimateDiffPipeline(**parts, scheduler=scheduler("animatediff_ddim"))
    run, drawn, (size, stride, frames) = imported(pipeline, tmp_path), Drawn(), (4, 3, 10)
    pipeline.enable_free_noise(size, stride)
    prompts = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": THERE["guidance_scale"]}
    theirs = run_there(pipeline, **prompts, num_frames=frames, num_inference_steps=2, generator=drawn.generator)
    first, order = drawn.clips(frames, *LATENTS[1:3]), drawn.permutations((frames - size) // stride, stride)
    own = {"free_noise_context_length": size, "free_noise_context_stride": stride}
    request = Request(**HERE, frames=frames, steps=2, options=own)
    check_same(run_here(run, request, Draws(first[:, Rescheduled(size, stride).arrange(order)])), theirs)
    opened = open_pipeline(run)
    assert opened.noise(opened.complete(request)) == Rescheduled(size, stride)
    changed = opened.complete(Request(("a",), video=picture(frames, 24, 40, 3), options=own))
    assert opened.noise(changed) == opened.noise(opened.complete(Request(("a",), frames=8))) == INDEPENDENT
    for said, why in (
        ({}, "frames: 10 is more than max_frames=8"),
        ({"free_noise_context_length": 4}, "frames: 10 leaves the last 2 in no window of 4 at stride 4"),
        ({"free_noise_context_length": 9, "free_noise_context_stride": 1}, "length: 9 is more than the 8 frames"),
        ({"free_noise_context_length": 2.5}, "free_noise_context_length: 2.5 must be a whole number of frames"),
        ({**own, "free_noise_context_stride": 5}, "free_noise_context_stride: 5 must be 1 to .*length=4"),
        ({**own, "free_noise_pyramid": 2}, "free_noise_pyramid: 2 must be 1 or 0"),
    ):
        with pytest.raises(ValueError, match=why):
            opened.complete(Request(("a",), frames=frames, options=said))
    with pytest.raises(ValueError, match="--flow: is what noise follows, and FreeNoise would shuffle it"):
        sample_flow.draws(Namespace(flow="sprites:0"), opened, Request(("a",), frames=frames, options=own))
    with pytest.warns(UserWarning, match="free_noise_shuffle: DDIM draws plain noise at every step"):
        opened.complete(Request(("a",), frames=frames, options={**own, "eta": 1.0}))


def test_controlnet(parts, tmp_path):
    """The branch is added in the middle two of four steps, at less than its strength."""
    trunk = {name: value for name, value in TRUNK.items() if name != "sample_size"}
    branch = network(CONTROLNET, {**trunk, **_DOWN, **_BRANCH}, 5)
    pipeline = diffusers.AnimateDiffControlNetPipeline(
        **parts, controlnet=branch, scheduler=scheduler("animatediff_ddim")
    )
    run, start, control = imported(pipeline, tmp_path), noise(1, *LATENTS), picture(FRAMES, 20, 30, 3)
    own = {"controlnet_conditioning_scale": 0.7, "control_guidance_start": 0.25, "control_guidance_end": 0.75}
    size = {"num_frames": FRAMES, "num_inference_steps": _STEPS, "latents": to_torch(start)}
    call = {**THERE, **size, "conditioning_frames": pictures(control)}
    theirs = run_there(pipeline, **call, **own)
    check_same(run_here(run, Request(**HERE, control=control, steps=_STEPS, options=own), Draws(start)), theirs)
    whole = run_there(pipeline, **call, controlnet_conditioning_scale=0.7)
    assert all(np.abs(whole.visited[k] - theirs.visited[k]).max() > 1e-2 for k in range(_STEPS))
    refuses(run, control)


def refuses(run, control):
    """What cannot be is refused."""
    opened = open_pipeline(run)
    filled = opened.complete(Request(("a",), control=control))
    assert (filled.frames, filled.height, filled.width, filled.guidance) == (FRAMES, SIDE, SIDE, 7.5)
    assert opened.complete(Request(("a",), control=control[:1], frames=2)).control.shape == (2, *control.shape[1:])
    for said, why in (
        ({}, "control: missing; AnimateDiffControlNetPipeline needs it"),
        ({"control": control, "frames": 5}, "frames: 5 asked for, there are 3 pictures"),
        ({"control": np.repeat(control, 3, axis=0)}, "frames: 9 is more than max_frames=8"),
        ({"control": control, "options": {"control_guidance_end": 0.0}}, "control_guidance_start: 0.0 must be"),
        ({"control": control, "strength": 0.5}, "strength: AnimateDiffControlNetPipeline does not take it"),
    ):
        with pytest.raises(ValueError, match=why):
            opened.complete(Request(("a",), **said))


@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.25, 0.75), (0.0, 0.3), (0.6, 1.0), (0.3, 0.4)])
def test_steps_with_the_branch_are_those_of_the_published_rule(ends):
    told = np.array([999.0, 700.0, 400.0, 100.0])
    options = {"control_guidance_start": ends[0], "control_guidance_end": ends[1]}
    low, high = controlled(told, Request(options=options))
    wanted = [not (step / 4 < ends[0] or (step + 1) / 4 > ends[1]) for step in range(4)]
    np.testing.assert_array_equal((told > low) & (told < high), wanted)


def test_video_to_video(parts, tmp_path):
    pipeline = diffusers.AnimateDiffVideoToVideoPipeline(**parts, scheduler=scheduler("animatediff_ddim"))
    run, video, drawn = imported(pipeline, tmp_path), picture(FRAMES, 24, 40, 3), Drawn()
    call = {"num_inference_steps": 6, "strength": 0.5, "generator": drawn.generator}
    theirs = run_there(pipeline, **THERE, video=pictures(video), height=SIDE, width=SIDE, **call)
    posterior = drawn.pictures(FRAMES, *LATENTS[1:3])[None]
    start = drawn.pictures(FRAMES, *LATENTS[1:3])[None]
    request = Request(**HERE, video=video, steps=6, strength=0.5)
    check_same(run_here(run, request, Draws(start, condition=posterior)), theirs)
    filled = open_pipeline(run).complete(Request(("a",), video=video))
    assert (filled.frames, filled.height, filled.strength) == (FRAMES, SIDE, 0.8)
