import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.cli.micro_run import CAPTIONED, SILENT, refused, train
from vdm_jax.cli.inspect_run import committed_steps
from vdm_jax.cli.main import main
from vdm_jax.media.video import decode


def rows(run):
    """The lines of metrics.jsonl that hold a training loss, by step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in lines if "loss" in row}


def checkpointed(run):
    return committed_steps(run / "checkpoints")


def test_a_run_leaves_everything_it_can_be_gone_on_with(captioned_run):
    assert checkpointed(captioned_run) == [3, 6]
    names = {p.name for p in captioned_run.iterdir()}
    assert {"config.json", "code.json", "tokenizer.json", "metrics.jsonl", "tb", "checkpoints", "samples"} <= names
    assert sorted(rows(captioned_run)) == [2, 4, 6]
    config = json.loads((captioned_run / "config.json").read_text())
    assert config["optimizer"]["weight_decay"] is not None  # defaults are written out
    assert any("eval/loss" in line for line in (captioned_run / "metrics.jsonl").read_text().splitlines())


def test_starting_again_goes_on_and_gives_what_one_run_would_have_given(workshop, tmp_path, capsys):
    more = ("--config.train.steps=9", "--config.log.eval_every=none", "--config.optimizer.schedule=constant")
    assert train(workshop, CAPTIONED, tmp_path / "whole", *more) == 0
    # The same in two parts; the first is stopped by its number of steps, which may change.
    assert train(workshop, CAPTIONED, tmp_path / "parts", *more, "--config.train.steps=4") == 0
    capsys.readouterr()
    assert train(workshop, CAPTIONED, tmp_path / "parts", *more) == 0
    shown = capsys.readouterr().err
    assert "train.steps: 4 -> 9" in shown
    assert "going on from step 4" in shown
    whole, parts = rows(tmp_path / "whole"), rows(tmp_path / "parts")
    assert [parts[step]["loss"] for step in (6, 8, 9)] == [whole[step]["loss"] for step in (6, 8, 9)]
    assert len(json.loads((tmp_path / "parts" / "code.json").read_text())) == 2


def test_a_finished_run_has_nothing_to_do(workshop, copied_run, capsys):
    before = (copied_run / "metrics.jsonl").read_text()
    assert train(workshop, CAPTIONED, copied_run) == 0
    assert "trained to step 6" in capsys.readouterr().out
    assert (copied_run / "metrics.jsonl").read_text() == before


def test_samples_are_drawn_while_training_by_training_captions_if_none_are_held_out(workshop, tmp_path):
    words = ["--clips", "24", "--val-clips", "0", "--frames", "4"]
    assert main(["worlds", "sprites", "--out", str(tmp_path / "set"), *words]) == 0
    more = (f"--config.data.shards={tmp_path / 'set'}", "--config.train.steps=1", "--config.log.sample_every=1")
    assert train(workshop, CAPTIONED, tmp_path / "run", *more) == 0
    folder = tmp_path / "run" / "samples" / "step_00000001"
    videos = sorted(folder.glob("*.mp4"))
    assert len(videos) == 8
    assert np.asarray(decode(videos[0])).shape == (4, 16, 16, 3)
    assert (folder / "contact_sheet.png").stat().st_size > 0


def test_an_unconditional_run_needs_no_tokenizer(silent_run):
    assert checkpointed(silent_run) == [2]
    assert not (silent_run / "tokenizer.json").exists()


def test_another_config_in_the_same_workdir_shows_the_difference(workshop, captioned_run, capsys):
    more = ["--config.optimizer.learning_rate=0.01", "--config.model.dim=32"]
    words = ["train", "--config", workshop / CAPTIONED, "--workdir", captioned_run, *more]
    line = refused(capsys, words)
    assert "belongs to another config (model.dim: 16 -> 32; optimizer.learning_rate: 0.001 -> 0.01)" in line
    line = refused(capsys, ["train", "--config", workshop / SILENT, "--workdir", captioned_run])
    assert "belongs to another config" in line
    assert checkpointed(captioned_run) == [3, 6]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config.train.stepps=3"], "unknown 'train.stepps'; did you mean 'train.steps'"),
        (["--config.train.batch_size=12"], "batch_size: 12 does not divide into data 8"),
        (["--config.train.batch_size=32"], "split 'train' has only 24 clips"),
        (["--config.mesh.tensor=3"], "does not fit 8 devices"),
        (["--config.mesh.tensor=4"], "heads: 2 does not divide by tensor 4; the nearest tensor that does is 2"),
        (["--config.data.frames=5"], "config.data.frames: 5 is not divisible by the patch 2; the nearest that is: 4"),
        (["--config.data.frames=6"], "data.frames: 6, but the clips of"),
        (["--config.data.height=32"], "data.height: 32, but the clips of"),
        (["--config.data.shards=absent"], "absent"),
        (["--config.sample.ema=0.5"], "config.sample.ema: 0.5 is not one of config.ema.decays (0.9,)"),
        (["--config.train.dropout.vector=0.5"], "unknown 'train.dropout.vector'"),
        (["--confg", "x"], "unrecognized arguments"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_leaves_nothing(workshop, tmp_path, capsys, more, message):
    workdir = tmp_path / "run"
    line = refused(capsys, ["train", "--config", workshop / CAPTIONED, "--workdir", workdir, *more])
    assert message in line
    assert not workdir.exists()


def test_a_misspelt_key_in_the_file_names_the_nearest(workshop, tmp_path, capsys):
    text = (workshop / CAPTIONED).read_text()
    (tmp_path / "mine.py").write_text(text.replace('"optimizer"', '"optimiser"'))
    line = refused(capsys, ["train", "--config", tmp_path / "mine.py", "--workdir", tmp_path / "run"])
    assert "config.optimiser: unknown 'optimiser'; did you mean 'optimizer'" in line
    (tmp_path / "broken.py").write_text("def get_config(:\n")
    assert main(["train", "--config", str(tmp_path / "broken.py"), "--workdir", str(tmp_path / "run")]) != 0
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_left_alone(workshop, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    line = refused(capsys, ["train", "--config", workshop / CAPTIONED, "--workdir", tmp_path])
    assert "is not empty and holds no run" in line
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_tokenizer_is_a_failure_of_one_line(workshop, copied_run, capsys):
    (copied_run / "tokenizer.json").write_text("{")
    words = ["train", "--config", workshop / CAPTIONED, "--workdir", copied_run]
    assert "tokenizer.json: not a tokenizer that can be read" in refused(capsys, words, status=1)


def test_ctrl_c_saves_and_says_how_to_go_on(workshop, tmp_path):
    workdir = tmp_path / "run"
    words = ["--config", str(workshop / CAPTIONED), "--config.train.steps=1000000", "--config.log.every=1"]
    more = ["--config.log.eval_every=none", "--config.checkpoint.every=1000000", "--config.optimizer.schedule=constant"]
    command = [sys.executable, "-m", "vdm_jax.cli.main", "train", *words, *more, "--workdir", str(workdir)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    metrics = workdir / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=300)
    assert process.returncode == 130, shown
    assert "Traceback" not in shown
    step = checkpointed(workdir)[-1]
    assert f"stopped by Ctrl-C: step {step} is saved; to go on, start again: vdm train --config" in shown
    assert f"--workdir {workdir}" in shown
    assert max(rows(workdir)) <= step
    assert main(["train", *words, *more, f"--config.train.steps={step + 1}", "--workdir", str(workdir)]) == 0
    assert checkpointed(workdir)[-1] == step + 1


def test_a_run_mixes_sets_and_says_what_it_leaves_out(workshop, tmp_path, capsys):
    """Two sets at two rates, of which one is too slow for what is asked for; decoded by a worker process."""
    for name, fps in (("films", "8"), ("slow", "4")):
        words = ["--clips", "24", "--val-clips", "0", "--frames", "4", "--fps", fps]
        assert main(["worlds", "sprites", *words, "--out", str(workshop / name)]) == 0
    sets = f"--config.data.sets={ ({name: str(workshop / name) for name in ('films', 'slow')}) }"
    more = [sets, "--config.train.steps=2", "--config.log.eval_every=none", "--config.log.sample_every=none"]
    more += [f"--config.data.shards={workshop / 'films'}", "--config.data.weights={'films': 1, 'slow': 3}"]
    capsys.readouterr()
    assert train(workshop, CAPTIONED, tmp_path / "run", *more, "--config.data.fps=8") == 2
    assert "data.max_unusable: 0, but 24 clips fill no bucket: 24 of " in capsys.readouterr().err
    more += ["--config.data.fps=8", "--config.data.max_unusable=24", "--config.data.workers=1"]
    assert train(workshop, CAPTIONED, tmp_path / "run", *more) == 0
    assert f"left out, as data.max_unusable allows: 24 of {workshop / 'slow'} too slow (0, 1, 2, ...)" in (
        capsys.readouterr().err
    )
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert kept["weights"] == {"films": 1, "slow": 3}
