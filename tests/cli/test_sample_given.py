"""Frames that are given, and long videos, of a run that was trained here."""

import numpy as np
import pytest
from PIL import Image

from tests.cli.micro_run import refused
from vdm_jax.cli.main import main
from vdm_jax.media.video import decode, write_mp4


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of flat pictures, each brighter than the one before, and the path of one of them as a picture."""
    folder = tmp_path_factory.mktemp("given")
    video = np.broadcast_to(np.arange(20, 240, 40, dtype=np.uint8)[:, None, None, None], (6, 32, 32, 3))
    write_mp4(folder / "clip.mp4", video, fps=8)
    Image.fromarray(video[5]).save(folder / "last.png")
    return folder


def sample(run, out, *more):
    return main(["sample", str(run), "--out", str(out), "--steps", "2", "--guidance", "1", *map(str, more)])


def test_given_frames_are_in_the_clip_and_it_is_said_what_the_run_was_not_trained_for(silent_run, clip, tmp_path):
    with pytest.warns(UserWarning, match=r"not trained with independent times \(process.times.independent is 0\)"):
        assert sample(silent_run, tmp_path / "x.mp4", "--video", clip / "clip.mp4", "--given", "0,3") == 0
    made = np.asarray(decode(tmp_path / "x.mp4")).astype(int)
    assert made.shape == (4, 16, 16, 3)
    assert abs(made[0] - 20).mean() < 8
    assert abs(made[3] - 140).mean() < 8
    assert abs(made[1] - 60).mean() > 8


def test_frames_are_given_of_a_clip_as_long_as_it_is_asked_for(silent_run, clip, tmp_path):
    more = ["--frames", 6, "--video", clip / "clip.mp4", "--given", "0,5"]
    with pytest.warns(UserWarning, match="not trained with independent times"):
        assert sample(silent_run, tmp_path / "x.mp4", *more) == 0
    made = np.asarray(decode(tmp_path / "x.mp4")).astype(int)
    assert made.shape == (6, 16, 16, 3)
    assert abs(made[5] - 220).mean() < 8


def test_a_long_video_begins_with_the_picture_and_goes_on_chunk_by_chunk(silent_run, clip, tmp_path):
    more = ["--image", clip / "last.png", "--frames", 7, "--overlap", 2]
    with pytest.warns(UserWarning, match="not trained with independent times"):
        assert sample(silent_run, tmp_path / "x.mp4", *more) == 0
    made = np.asarray(decode(tmp_path / "x.mp4")).astype(int)
    assert made.shape == (7, 16, 16, 3)
    assert abs(made[0] - 220).mean() < 8


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--given", "0"], "--given: 0 are frames of --video (or --image), and neither is there"),
        (["--video", "clip.mp4"], "--given: missing; say which frames of clip.mp4 are given, as in --given 0,3"),
        (["--video", "clip.mp4", "--given", "0,4"], "--given: frame 4 is not in a clip of 4 frames (0 to 3)"),
        (
            ["--frames", "6", "--video", "clip.mp4"],
            "--given: missing; say which frames of clip.mp4 are given, as in --given 0,5",
        ),
        (["--frames", "2", "--video", "clip.mp4", "--given", "0,3"], "frame 3 is not in a clip of 2 frames (0 to 1)"),
        (["--frames", "0", "--image", "a.png"], "--frames: 0 must be 1 or more"),
        (["--video", "clip.mp4", "--given", "0,1,2,3"], "--given: all 4 frames are given, nothing is left to generate"),
        (["--video", "clip.mp4", "--given", "first"], "--given: 'first' are not numbers of frames, as in 0,7"),
        (["--image", "a.png", "--given", "0,1"], "--given: 0,1 are 2 frames, and --image is one"),
        (
            ["--image", "a.png", "--video", "clip.mp4"],
            "--image: the frames come from it or from --video, not from both",
        ),
        (["--image", "absent.png"], "--image: no file absent.png"),
        (["--overlap", "2"], "--overlap: 2 needs --frames, the length of the whole video"),
        (["--overlap", "4", "--frames", "9"], "--overlap: 4 must be at least 1 and below the 4 frames of a clip"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*not trained with independent times")
def test_wrong_input_is_one_line(silent_run, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, ["sample", silent_run, "--out", "out", *more])
