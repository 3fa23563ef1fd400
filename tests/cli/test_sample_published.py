"""`vdm sample` of imported runs."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from tests.cli.micro_run import refused
from vdm_jax.cli.main import main
from vdm_jax.interop.finetuning.origin import settled, write_origin
from vdm_jax.media.video import decode, write_mp4
from vdm_jax.training.checkpoint import CheckpointConfig, Checkpointer, StepMeta
from vdm_jax.training.run import assemble
from vdm_jax.training.run_config import complete, run_config_from

diffusers = pytest.importorskip("diffusers", reason="the pipeline to import is made by it")
pytest.importorskip("transformers", reason="the pipeline to import is made by it")

SIZE = ("--frames", 3, "--height", 16, "--width", 16, "--steps", 2)
PROMPT = "a red square moves left"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny Wan pipeline as diffusers saves it; not to be changed."""
    from tests.interop.pipelines import wans

    folder = tmp_path_factory.mktemp("pipeline") / "wan"
    diffusers.WanPipeline(**wans.parts()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(published):
    """The same, imported."""
    assert main(["import", str(published), "--out", str(published.parent / "run")]) == 0
    return published.parent / "run"


def sample(run, out, *more):
    return main(["sample", str(run), "--out", str(out), *map(str, more)])


def test_a_prompt_becomes_a_video_on_any_mesh(run, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n{'a blue square ' * 171}\n")
    assert sample(run, tmp_path / "x.mp4", "--prompt", PROMPT, "--negative", "blurred", "--seed", 3, *SIZE) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'x.mp4'}\n"
    video = np.asarray(decode(tmp_path / "x.mp4"))
    assert video.shape == (3, 16, 16, 3)
    many = ("--prompts", tmp_path / "prompts.txt", "--negative", "blurred", "--mesh", "data=2,context=4", "--seed", 3)
    assert sample(run, tmp_path / "out", *many, *SIZE) == 0
    assert "is over the length limit; left out: 'blue square'" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000.mp4", "001.mp4", "contact_sheet.png"]
    assert np.abs(np.int32(decode(tmp_path / "out" / "000.mp4")) - video).max() <= 8  # a rounding, through H.264


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--prompt: missing; WanPipeline needs one"),
        (["--prompt", PROMPT, "--image", "x.png"], "image: WanPipeline does not take it"),
        (["--prompt", PROMPT, "--image", "absent.png"], "--image: no file absent.png"),
        (["--prompt", PROMPT, "--image", "x.mp4"], "--image: x.mp4 is not a picture"),
        (["--prompt", PROMPT, "--video", "absent.mp4"], "--video: no file absent.mp4"),
        (
            ["--prompt", PROMPT, "--video", "x.mp4"],
            "clip: 4 frames cannot be represented; the nearest",
        ),
        (["--prompt", PROMPT, "--step", 3], "--step: RUN was imported, not trained here"),
        (["--prompt", PROMPT, "--weights", "ema"], "--weights: RUN was imported, not trained here"),
        (["--prompt", PROMPT, "--frames", 80], "clip: 80 frames cannot be represented; the nearest that can: 79 or 81"),
        (["--prompt", PROMPT, "--option", "guidance"], "--option: 'guidance' is not a name and a number"),
        (["--prompt", PROMPT, "--count", 2, "--out", "x.mp4"], "x.mp4 is one file for 2 clips; give a directory"),
        (["--prompt", PROMPT, "--mesh", "dta=2"], "--mesh: unknown 'dta'; did you mean 'data'"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(run, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("x.png")
    write_mp4("x.mp4", np.zeros((4, 16, 16, 3), np.uint8), fps=8)
    assert message.replace("RUN", str(run)) in refused(capsys, ["sample", run, "--out", "out", *more])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.mp4", "x.png"]


def test_a_pipeline_starts_from_noise_that_follows_a_flow(run, tmp_path, capsys):
    for name, fields in (("pixels", 2), ("latents", 1), ("wrong", 3)):
        np.save(tmp_path / f"{name}.npy", np.full((fields, 8, 8, 2), 2.0, np.float32))
    words = ("--prompt", PROMPT, "--negative", "blurred", "--seed", 3, *SIZE)
    clips = {}
    for name in ("pixels", "latents"):
        out = tmp_path / f"{name}.mp4"
        assert sample(run, out, *words, "--flow", tmp_path / f"{name}.npy", "--degradation", 0) == 0
        clips[name] = np.asarray(decode(out))
    assert clips["pixels"].shape == (3, 16, 16, 3)
    assert not np.array_equal(clips["pixels"], clips["latents"])
    line = refused(capsys, ["sample", run, "--out", tmp_path / "x.mp4", *words, "--flow", tmp_path / "wrong.npy"])
    assert "--flow: " in line
    assert "is not float" in line or "fields for" in line


def started(run, workdir):
    """A run at step 0 that was started from an import."""
    model = {"tokens": 512, "steps": 1, "batch_size": 1}
    written = {"init": str(run), "data": {"frames": 2, "height": 4, "width": 4}, "train": model, "mesh": {"data": 1}}
    found, origin = settled(written)
    plan = assemble(run_config_from(found), devices=jax.devices()[:1]).plan
    state = plan.start_from({**plan.init(0).params, **origin.params(plan)})
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(complete(found)))
    write_origin(workdir, origin)
    with Checkpointer(workdir / "checkpoints", CheckpointConfig()) as checkpointer:
        checkpointer.save(0, state, StepMeta({}, {}, {}))
    return workdir


def test_a_run_that_started_from_an_import_is_sampled_like_it(run, tmp_path, capsys):
    tuned = started(run, tmp_path / "tuned")
    words = ("--prompt", PROMPT, "--negative", "blurred", "--seed", 3, *SIZE)
    assert sample(run, tmp_path / "x.mp4", *words) == 0
    assert sample(tuned, tmp_path / "y.mp4", "--step", 0, "--weights", "params", *words) == 0
    assert np.abs(np.int32(decode(tmp_path / "x.mp4")) - decode(tmp_path / "y.mp4")).max() <= 8  # as above
    line = refused(capsys, ["sample", tuned, "--out", tmp_path / "z.mp4", "--prompt", PROMPT, "--solver", "ddim"])
    assert "--solver: " in line
    assert "is sampled as the import it started from" in line
    (tuned / "origin.json").write_text((tuned / "origin.json").read_text().replace(str(run), str(tmp_path / "gone")))
    line = refused(capsys, ["sample", tuned, "--out", tmp_path / "z.mp4", "--prompt", PROMPT])
    assert "decoded by the pipeline it started from, and" in line


def test_a_component_alone_is_no_pipeline(published, tmp_path, capsys):
    assert main(["import", str(published / "transformer"), "--out", str(tmp_path / "run")]) == 0
    line = refused(capsys, ["sample", tmp_path / "run", "--prompt", PROMPT, "--out", tmp_path / "x.mp4"])
    assert "holds WanTransformer3DModel alone and cannot be sampled" in line
    assert "model_index.json" in line
