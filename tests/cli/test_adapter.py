"""`vdm train` with `config.adapter`, and what such a run can be asked for."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from safetensors.numpy import load_file

from tests.cli.micro_run import SILENT, refused, train
from vdm_jax.cli.main import main
from vdm_jax.media.video import decode
from vdm_jax.training.checkpoint import restore_weights

KNOWN = '{"kind": "denoising", "known_way": "shared", "masks": [{"kind": "ends", "first": 1}]}'
ADAPTER = "--config.adapter={'kind': 'first_frame'}"


@pytest.fixture(scope="module")
def folder(workshop, tmp_path_factory):
    """A config, a run of it, and an adapter that was trained on that run."""
    folder = tmp_path_factory.mktemp("adapter")
    text = (workshop / SILENT).read_text()
    text = text.replace('"patch": (2, 4, 4)', '"patch": (1, 8, 8), "attention": "factorised"')
    text = text.replace('"eval_every": 6', '"eval_every": None')
    (folder / "base.py").write_text(text)
    section = f'"init": {str(folder / "base")!r}, "objective": {KNOWN},'
    (folder / "adapted.py").write_text(text.replace('"process"', f'{section} "process"', 1))
    assert train(folder, "base.py", "base", "--config.train.steps=1") == 0
    assert train(folder, "adapted.py", "run", "--config.train.steps=2", ADAPTER, "--config.train.frozen=bfloat16") == 0
    return folder


def weights_of(run, which="params"):
    return flatten_dict(restore_weights((run / "checkpoints").absolute(), which).state)


def test_the_base_stays(folder):
    base, found = weights_of(folder / "base", "ema:0.9"), weights_of(folder / "run")
    own = {path for path in found if "first_frame" in path}
    assert found.keys() - own == base.keys()
    for path, leaf in base.items():  # held in two bytes each
        assert found[path].dtype == jnp.bfloat16
        np.testing.assert_allclose(found[path].astype("f4"), leaf, rtol=2**-8, atol=1e-30)
    assert json.loads((folder / "run/config.json").read_text())["adapter"]["kind"] == "first_frame"


def test_a_run_goes_on_from_an_adapted_one(folder):
    assert train(folder, "adapted.py", "second", "--config.train.steps=1", f"--config.init={folder / 'run'}") == 0
    assert json.loads((folder / "second/origin.json").read_text())["adapted"] == {"kind": "first_frame", "frame": 0}
    first, second = weights_of(folder / "run", "ema:0.9"), weights_of(folder / "second")
    changed = {path for path in first if (first[path].astype("f4") != second[path].astype("f4")).any()}
    assert changed
    assert all("first_frame" in path for path in changed)


def test_clips_begin_with_the_picture_and_stay_near_it(folder, tmp_path):
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(tmp_path / "a.png")
    more = ["--image", str(tmp_path / "a.png"), "--steps", "2", "--similar", "0.3,0.5", "--match-colours"]
    assert main(["sample", str(folder / "run"), "--out", str(tmp_path / "x.mp4"), *more]) == 0
    assert abs(np.asarray(decode(tmp_path / "x.mp4")).astype(int) - 200).max() < 8


def test_it_goes_out_alone(folder, tmp_path, capsys):
    assert main(["export", str(folder / "run"), "--format", "adapter", "--out", str(tmp_path / "out")]) == 0
    tensors = load_file(tmp_path / "out/adapter.safetensors")
    average = weights_of(folder / "run", "ema:0.9")
    assert tensors.keys() == {".".join(path[1:]) for path in average if "first_frame" in path}
    name = "units.spatial.attention.first_frame.out.kernel"
    np.testing.assert_array_equal(tensors[name], average["backbone", *name.split(".")])
    about = json.loads((tmp_path / "out/adapter.json").read_text())
    assert about["adapter"] == {"kind": "first_frame", "frame": 0}
    assert about["base"]["init"] == str(folder / "base")
    for style in ("torch", "diffusers"):
        line = refused(capsys, ["export", folder / "run", "--format", style, "--out", tmp_path / style])
        assert "first_frame" in line or "no published class" in line
    line = refused(capsys, ["export", folder / "base", "--format", "adapter", "--out", tmp_path / "no"])
    assert "trained no adapter (config.adapter)" in line


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config.init=None"], "config.adapter: is for weights that are there already; config.init must name them"),
        (["--config.adapter={'kind': 'first_fram'}"], "config.adapter.kind: unknown 'first_fram'; did you mean"),
        (["--config.adapter={'kind': 'first_frame', 'frame': 4}"], "frame: 4 is not in a clip of 4 frames (0 to 3)"),
        (["--config.data.frames=1"], "config.adapter.frame: is all there is of a clip of one frame"),
        (["--config.adapter={'kind': 'image_tokens'}"], "without image, the model reads latents of 3 channels"),
    ],
)
def test_wrong_sections_are_refused(folder, capsys, more, message):
    config = ["train", "--config", folder / "adapted.py", "--workdir", folder / "other"]
    assert message in refused(capsys, [*config, *([] if "adapter=" in more[0] else [ADAPTER]), *more])
    assert not (folder / "other").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--similar", "0.5,0.5"], "--similar: clips start from a frame that is given; --image or --video gives it"),
        (["--match-colours"], "--match-colours: are those of a frame that is given"),
        (["--image", "a.png", "--similar", "0.5"], "--similar: '0.5' are not a level and a share, as in 0.8,0.5"),
        (["--image", "a.png", "--similar", "0,1"], "--similar.t0: 0.0 must be above 0 and at most 1"),
    ],
)
def test_wrong_choices_of_sampling_are_refused(folder, capsys, more, message):
    assert message in refused(capsys, ["sample", folder / "run", "--out", "x.mp4", *more])
