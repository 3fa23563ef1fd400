import numpy as np
import pytest
from PIL import Image

from tests.cli.micro_run import refused
from vdm_jax.cli.main import main
from vdm_jax.media.video import decode

PROMPT = "a red square moves left quickly"


def sample(run, out, *more):
    return main(["sample", str(run), "--out", str(out), *map(str, more)])


def test_a_prompt_becomes_a_video(captioned_run, tmp_path, monkeypatch, capsys):
    assert sample(captioned_run, tmp_path / "new" / "x.mp4", "--prompt", PROMPT, "--seed", 3) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'x.mp4'}\n"
    video = np.asarray(decode(tmp_path / "new" / "x.mp4"))
    assert video.shape == (4, 16, 16, 3)
    assert sample(captioned_run, tmp_path / "y.mp4", "--prompt", PROMPT, "--seed", 3) == 0
    np.testing.assert_array_equal(decode(tmp_path / "y.mp4"), video)
    monkeypatch.chdir(captioned_run.parent)  # a relative path is a path too
    assert sample(captioned_run.name, tmp_path / "z.mp4", "--prompt", PROMPT, "--seed", 4) == 0
    assert not np.array_equal(decode(tmp_path / "z.mp4"), video)


def test_several_prompts_become_a_folder_with_a_sheet(captioned_run, tmp_path):
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n\na blue circle moves up slowly\n")
    assert sample(captioned_run, tmp_path / "out", "--prompts", tmp_path / "prompts.txt", "--prompt", "a ring") == 0
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["000.mp4", "001.mp4", "002.mp4", "contact_sheet.png"]
    assert np.ptp(np.asarray(Image.open(tmp_path / "out" / "contact_sheet.png"))) > 0


def test_choices_can_be_made_at_sampling(captioned_run, tmp_path):
    options = ["--steps", 3, "--guidance", 1.0, "--solver", "euler", "--weights", "params", "--step", 3, "--count", 2]
    assert sample(captioned_run, tmp_path / "out", "--prompt", PROMPT, *options) == 0
    clips = [np.asarray(decode(p)) for p in sorted((tmp_path / "out").glob("*.mp4"))]
    assert len(clips) == 2
    assert not np.array_equal(*clips)


def test_an_unconditional_run_needs_no_prompt(silent_run, tmp_path, capsys):
    assert sample(silent_run, tmp_path / "x.gif") == 0
    assert Image.open(tmp_path / "x.gif").n_frames == 4
    line = refused(capsys, ["sample", silent_run, "--prompt", PROMPT, "--out", tmp_path / "x.mp4"])
    assert "--prompt:" in line
    assert "is an unconditional model, it was trained without captions" in line
    assert not (tmp_path / "x.mp4").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--prompt: missing"),
        (["--prompts", "absent.txt"], "--prompts: no file absent.txt"),
        (
            ["--prompt", PROMPT, "--out", "x.mov"],
            "--out: unknown '.mov'; did you mean '.mp4'? allowed: .gif, .mp4, or a directory",
        ),
        (["--prompt", PROMPT, "--count", "2", "--out", "x.mp4"], "x.mp4 is one file for 2 clips; give a directory"),
        (["--prompt", PROMPT, "--count", "0"], "--count: 0 must be 1 or more"),
        (["--prompt", PROMPT, "--steps", "0"], "sample.steps: 0 must be 1 or more"),
        (["--prompt", PROMPT, "--solver", "unipcc"], "sample.solver: unknown 'unipcc'; did you mean 'unipc'"),
        (["--prompt", PROMPT, "--step", "4"], "step: unknown '4'"),
        (["--prompt", PROMPT, "--weights", "ema:0.99"], "0.9"),
        (["--promt", PROMPT], "did you mean --prompt?"),
        (["--prompt", PROMPT, "--height", "4"], "--height: only imported runs take it"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(captioned_run, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, ["sample", captioned_run, "--out", "out", *more])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_no_run_is_a_usage_error(tmp_path, capsys):
    line = refused(capsys, ["sample", tmp_path, "--prompt", PROMPT, "--out", tmp_path / "x.mp4"])
    assert "holds no run" in line


def test_what_was_trained_can_be_inspected(captioned_run, tmp_path, capsys):
    assert main(["inspect", str(captioned_run), "--sheet", str(tmp_path / "sheet.png"), "--verify"]) == 0
    shown = capsys.readouterr().out
    assert "steps saved: 3 6" in shown
    assert "rectified_flow" in shown
    assert "backbone/patch_in" in shown
