"""`vdm train` and `vdm sample` in two and four real processes: what one process gives, and one end for all."""

import json
import os
import re
import signal
import time

import numpy as np
import pytest
from PIL import Image

from tests.cli.micro_run import CAPTIONED, SILENT, refused, train
from tests.processes import free_port, together
from vdm_jax.cli.main import main
from vdm_jax.media.video import decode
from vdm_jax.training.checkpoint import read_meta

VDM = ("-m", "vdm_jax.cli.main")
EVERY_STEP = ("--config.log.every=1", "--config.optimizer.schedule=constant", "--config.log.eval_every=none")
PROMPT = "a red square moves left quickly"


def words(config, workdir, *more):
    """The command line of a training run."""
    return [*VDM, "train", "--config", config, "--workdir", workdir, *EVERY_STEP, *more]


def losses(workdir) -> np.ndarray:
    """The training losses, step by step."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return np.array([row["loss"] for row in rows])


def test_processes_train_what_one_process_trains(workshop, tmp_path):
    """Two processes with each clip cut over both, then four with a part of the batch each, then this one alone."""
    assert train(workshop, SILENT, tmp_path / "whole", *EVERY_STEP) == 0
    workdir = tmp_path / "run"
    more = ("--config.train.steps=3", "--config.mesh.data=1", "--config.mesh.context=2", "--config.log.sample_every=3")
    with together(words(workshop / SILENT, workdir, *more, "--config.log.eval_every=3"), 2, tmp_path / "two") as group:
        group.finish()
        assert "step programs: 1 compiled" in group.said(0)
        assert "step" not in group.said(1)  # one line of progress for a person, not one a process
    assert len(list((workdir / "samples/step_00000003").glob("*.mp4"))) == 8
    assert "eval/loss" in (workdir / "metrics.jsonl").read_text()
    with together(words(workshop / SILENT, workdir, "--config.train.steps=5"), 4, tmp_path / "four") as group:
        group.finish()
        assert "going on from step 3" in group.said(0)
    assert train(workshop, SILENT, workdir, *EVERY_STEP) == 0  # here, on eight devices
    assert len(np.unique(losses(workdir))) == 6
    np.testing.assert_allclose(losses(workdir), losses(tmp_path / "whole"), rtol=1e-5, atol=1e-5)
    positions = [read_meta(path / "checkpoints/6").data["next_index"] for path in (workdir, tmp_path / "whole")]
    assert positions == [6, 6]


@pytest.mark.parametrize("mesh", [(), ("--mesh", "data=1,context=2")], ids=["clips", "tokens"])
def test_samples_of_two_processes_are_those_of_one(captioned_run, tmp_path, mesh):
    ask = ["sample", str(captioned_run), "--prompt", PROMPT, "--prompt", "a ring", "--seed", "3", "--out"]
    with together([*VDM, *ask, tmp_path / "two", *mesh], 2, tmp_path / "logs") as group:
        assert main([*ask, str(tmp_path / "one")]) == 0
        group.finish()
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["000.mp4", "001.mp4", "contact_sheet.png"]
    sheets = [np.int32(Image.open(tmp_path / folder / "contact_sheet.png")) for folder in ("one", "two")]
    assert np.abs(sheets[0] - sheets[1]).max() <= 1  # pixels are rounded to whole numbers
    for name in ("000.mp4", "001.mp4"):
        one, two = (np.int32(decode(tmp_path / folder / name)) for folder in ("one", "two"))
        assert one.shape == two.shape == (4, 16, 16, 3)
        assert np.abs(one - two).max() <= 8  # where one pixel was rounded otherwise, so is its block in H.264
    assert group.said(0).count("000.mp4") == 1
    assert "000.mp4" not in group.said(1)


def test_when_a_process_is_killed_the_other_says_which_and_ends(workshop, tmp_path):
    workdir = tmp_path / "run"
    with together(words(workshop / CAPTIONED, workdir, "--config.train.steps=1000000"), 2, tmp_path / "logs") as group:
        group.wait_until(lambda: (workdir / "metrics.jsonl").exists() and (workdir / "metrics.jsonl").stat().st_size)
        os.kill(group[1].pid, signal.SIGKILL)
        begin = time.monotonic()
        assert group[0].wait(60) == 1
        assert time.monotonic() - begin < 30
        line = rf"vdm: multihost: process 1 of 2 \(pid {group[1].pid} on \S+\) died\n"
        assert re.search(line, group.said(0)), group.said(0)
        assert "Traceback" not in group.said(0)


def test_an_error_of_one_process_ends_all_with_its_words(workshop, copied_run, tmp_path):
    (copied_run / "metrics.jsonl").write_text("not JSON\n" + (copied_run / "metrics.jsonl").read_text())
    more = ["--config.train.steps=9", "--config", workshop / CAPTIONED]
    with together([*VDM, "train", "--workdir", copied_run, *more], 2, tmp_path / "logs") as group:
        assert group.wait() == [1, 1]
        assert re.search(r"^vdm: metrics: line 1 of \S+ is damaged", group.said(0), re.M), group.said(0)
        line = r"^vdm: multihost: process 0 of 2 \(pid \d+ on \S+\) ended: metrics: line 1 of \S+ is damaged"
        assert re.search(line, group.said(1), re.M), group.said(1)


def test_a_coordinator_that_cannot_be_reached_is_one_line(workshop, tmp_path, monkeypatch, capsys):
    address = f"127.0.0.1:{free_port()}"
    for name, value in (("COORDINATOR_ADDRESS", address), ("NUM_PROCESSES", "2"), ("PROCESS_ID", "1")):
        monkeypatch.setenv(f"JAX_{name}", value)
    monkeypatch.setenv("VDM_JOIN_SECONDS", "0.5")
    ask = ["train", "--config", workshop / CAPTIONED, "--workdir", tmp_path / "run"]
    line = refused(capsys, ask, status=1)
    assert line.startswith(f"vdm: multihost: process 1 of 2 could not reach {address} within 0.5 s: ")
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("VDM_JOIN_SECONDS", "soon")
    assert "VDM_JOIN_SECONDS: 'soon' is not a number of seconds" in refused(capsys, ask)
