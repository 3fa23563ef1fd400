"""`vdm sample --flow`: what is moved by what, and one line for what is wrong."""

import argparse

import numpy as np
import pytest

from tests.cli.micro_run import refused
from vdm_jax.cli import sample_flow
from vdm_jax.cli.main import main
from vdm_jax.media.video import decode, write_mp4
from vdm_jax.sampling.noise import Warped

PROMPT = ("--prompt", "a red square moves left quickly")


def sample(run, out, *more):
    return main(["sample", str(run), "--out", str(out), *PROMPT, *map(str, more)])


def words(flow, degradation=None):
    return argparse.Namespace(run="runs/x", flow=flow, degradation=degradation, solver=None, frames=None, overlap=None)


def config(noise=None, sampled=None):
    return {
        "data": {"frames": 4, "height": 16, "width": 16},
        "objective": {"kind": "denoising", "noise": noise},
        "sample": {"solver": "ddim", "noise": sampled},
    }


def test_a_run_samples_from_noise_that_follows(captioned_run, tmp_path):
    np.save(tmp_path / "flow.npy", np.full((3, 32, 32, 2), 2.0, np.float32))
    clips = []
    for name, more, warning in (
        ("strict", ("--degradation", 0), "was never trained on warped noise"),
        ("loose", ("--degradation", 1, "--solver", "lcm"), "lcm draws plain noise at every step"),
    ):
        with pytest.warns(UserWarning, match=warning):
            assert sample(captioned_run, tmp_path / f"{name}.mp4", "--flow", tmp_path / "flow.npy", *more) == 0
        clips.append(np.asarray(decode(tmp_path / f"{name}.mp4")))
    assert all(clip.shape == (4, 16, 16, 3) for clip in clips)
    assert not np.array_equal(*clips)


def test_the_noise_of_training_is_that_of_sampling_but_for_its_degradation(recwarn):
    trained = {"kind": "warped", "scale": 2, "degradation": None}
    found = sample_flow.followed(words("digits:3"), config(trained))
    assert found.source == Warped(scale=2, degradation=0.5)
    assert found.flow.shape == (3, 32, 32, 2)
    assert found.read(5)["flow"].shape == (5, 3, 32, 32, 2)
    assert found.choices["noise"]["scale"] == 2
    asked = sample_flow.followed(words("digits:3", 0.0), config(trained, {"kind": "warped", "degradation": 0.3}))
    assert asked.source == Warped(degradation=0.0)
    assert sample_flow.followed(words("digits:3"), config(trained, {"kind": "warped", "degradation": 0.3})).source == (
        Warped(degradation=0.3)
    )
    assert sample_flow.followed(words(None), config(trained)) is None
    assert not recwarn.list


def test_a_driving_video_moves_the_noise(tmp_path):
    rows, columns = np.indices((32, 32))
    frames = [127 + 100 * np.sin((columns - 2 * t) / 4) * np.cos(rows / 5) for t in range(6)]
    write_mp4(tmp_path / "x.mp4", np.stack(frames).astype(np.uint8)[..., None].repeat(3, -1), fps=8.0)
    found = sample_flow.followed(words(str(tmp_path / "x.mp4")), config({"kind": "warped"}))
    assert found.flow.shape == (3, 32, 32, 2)
    assert abs(np.median(found.flow[..., 0]) - 2) < 0.3
    assert abs(np.median(found.flow[..., 1])) < 0.3


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (np.zeros((4, 16, 16, 2), np.float32), "--flow: 4 fields for 4 frames; expected"),
        (np.zeros((2, 16, 16, 2), np.float32), "--flow: shape .* is not .* T=4"),
        (np.full((3, 16, 16, 2), np.nan, np.float32), "is not finite"),
        (np.full((3, 16, 16, 2), 40.0, np.float32), "moves 40 pixels on a grid of 16x16"),
        (np.zeros((3, 16, 24, 2), np.float32), "--flow: a grid of 16x24 has another aspect"),
    ],
)
def test_flow_that_does_not_fit_is_refused(tmp_path, flow, message):
    np.save(tmp_path / "x.npy", flow)
    with pytest.raises(ValueError, match=message):
        sample_flow.followed(words(str(tmp_path / "x.npy")), config({"kind": "warped"}))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--flow", "absent.npy"], "--flow: no file absent.npy"),
        (["--flow", "absent.mp4"], "--flow: no file absent.mp4"),
        (["--flow", "digit:3"], "unknown 'digit'; did you mean 'digits'"),
        (["--flow", "digits"], "'digits' has no index, as in digits:3"),
        (["--flow", "digits:3", "--degradation", "1.5"], "degradation: 1.5 must lie between 0"),
        (["--degradation", "0.5"], "--degradation: says how closely --flow is followed, and there is none"),
    ],
)
def test_wrong_words_are_one_line(captioned_run, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, ["sample", captioned_run, *PROMPT, "--out", "x.mp4", *more])


def test_a_run_that_needs_a_flow_says_so():
    with pytest.raises(ValueError, match="--flow: missing; clips of runs/x start from noise that follows one"):
        sample_flow.followed(words(None), config({"kind": "warped"}, {"kind": "warped"}))
