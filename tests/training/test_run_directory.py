"""Run directories: one run, one config, one process."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import ml_collections
import pytest

from tests.training.read_only import read_only_folder
from vdm_jax.errors import RunError
from vdm_jax.training import run_directory
from vdm_jax.training.run_directory import RunDirectory, read_config, write_atomically

CONFIG = {
    "seed": 1,
    "model": {"kind": "dit", "width": 64, "patch": (1, 2, 2)},
    "train": {"steps": 100, "lr": 1e-3},
    "log": {"every": 5},
    "text": None,
}


def changed(**sections):
    return {k: {**v, **sections.get(k, {})} if isinstance(v, dict) else sections.get(k, v) for k, v in CONFIG.items()}


def test_it_holds_config_code_and_places(tmp_path):
    with RunDirectory(tmp_path / "a/run", ml_collections.ConfigDict(CONFIG)) as run:
        assert run.is_new
        assert run.changes == []
        assert run.config == json.loads(json.dumps(CONFIG)) == read_config(run.path)
        assert run.checkpoints.is_dir()
        assert run.samples.is_dir()
        assert run.tensorboard.is_dir()
    (start,) = json.loads((run.path / "code.json").read_text())
    assert start == run.code
    assert set(start) == {"vdm_jax", "revision", "uncommitted_changes", "jax", "python", "started"}


def test_every_start_is_noted(tmp_path):
    for expected in (True, False):
        with RunDirectory(tmp_path / "run", CONFIG) as run:
            assert run.is_new == expected
    assert len(json.loads((tmp_path / "run/code.json").read_text())) == 2


def test_what_may_change_on_resume_may_and_is_said(tmp_path):
    with RunDirectory(tmp_path, CONFIG):
        pass
    with RunDirectory(tmp_path, changed(train={"steps": 200}, log={"every": 7})) as run:
        assert run.changes == ["log.every: 5 -> 7", "train.steps: 100 -> 200"]
    assert read_config(tmp_path)["train"]["steps"] == 200


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (changed(train={"lr": 2e-3}), "train.lr: 0.001 -> 0.002"),
        (changed(model={"width": 128}), "model.width: 64 -> 128"),
        (changed(seed=2), "seed: 1 -> 2"),
        (changed(model={"heads": 4}), "model.heads: (absent) -> 4"),
        (changed(text={"width": 8}), "text.width: (absent) -> 8"),
    ],
)
def test_another_config_is_refused_with_the_difference(tmp_path, config, line):
    with RunDirectory(tmp_path, CONFIG):
        pass
    with pytest.raises(ValueError, match="belongs to another config") as error:
        RunDirectory(tmp_path, config)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert read_config(tmp_path) == json.loads(json.dumps(CONFIG))
    with RunDirectory(tmp_path, CONFIG):  # and the refusal left no lock behind
        pass


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(ValueError, match=r"not empty and holds no run \(no config\.json\)"):
        RunDirectory(tmp_path, CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_start_that_died_before_the_config_can_be_repeated(tmp_path):
    (tmp_path / "lock").write_text("process 1 on elsewhere\n")
    with RunDirectory(tmp_path, CONFIG) as run:
        assert run.is_new


def test_a_first_start_that_the_config_ends_leaves_nothing(tmp_path):
    def start(path, then=lambda run: None):
        with RunDirectory(path, CONFIG) as run:
            then(run)
            raise ValueError("kernel: cannot run here")

    def fails(*given):
        with pytest.raises(ValueError, match="kernel"):
            start(*given)

    fails(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fails(tmp_path / "run", lambda run: run.metrics.write_text("{}\n"))
    assert (tmp_path / "run" / "config.json").exists()
    fails(tmp_path / "run")  # goes on with what is there
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    with pytest.raises(RuntimeError), RunDirectory(tmp_path / "other", CONFIG):
        raise RuntimeError("not the user's mistake")
    assert (tmp_path / "other" / "config.json").exists()


def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path):
    code = f"""
        from vdm_jax.training.run_directory import take_lock
        from pathlib import Path
        lock = take_lock(Path({str(tmp_path / "lock")!r}))
        print("locked", flush=True)
        input()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with RunDirectory(tmp_path, CONFIG):
        pass
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunError) as error:
            RunDirectory(tmp_path, CONFIG)
        message = f"in use by process {holder.pid} on {socket.gethostname()}; stop it or choose another workdir"
        assert message in str(error.value)
        holder.kill()  # the kernel lets go of its lock, whatever the file says
    with RunDirectory(tmp_path, CONFIG) as run:
        assert (run.path / "lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_it_cannot_be_opened_twice_in_one_process_either(tmp_path):
    with RunDirectory(tmp_path, CONFIG), pytest.raises(RunError, match=f"in use by process {os.getpid()} on"):
        RunDirectory(tmp_path, CONFIG)


def test_a_read_only_workdir_is_one_line():
    with read_only_folder() as folder:
        for path in (folder, folder / "run"):
            with pytest.raises(RunError, match=f"workdir: cannot write {path}: Permission denied"):
                RunDirectory(path, CONFIG)
        assert list(folder.iterdir()) == []


def test_a_file_in_its_place_is_one_line(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="workdir: cannot write .*run: (Not a directory|File exists)"):
        RunDirectory(tmp_path / "run", CONFIG)


def test_a_damaged_config_is_one_line(tmp_path):
    with RunDirectory(tmp_path, CONFIG):
        pass
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(RunError, match=r"config\.json cannot be read"):
        RunDirectory(tmp_path, CONFIG)


def test_no_run_is_a_usage_error(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        read_config(tmp_path)


def test_an_atomic_write_that_fails_leaves_the_old_text(tmp_path, monkeypatch):
    file = tmp_path / "x.json"
    write_atomically(file, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_directory.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_directory, "write_atomically", full)
    with pytest.raises(RunError, match="workdir: cannot write .*: No space left on device"):
        RunDirectory(tmp_path / "run", CONFIG)


def test_the_code_version_is_that_of_this_checkout():
    code = run_directory.code_version()
    root = Path(__file__).parents[2]
    in_git = (root / ".git").exists()
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    expected = head.stdout.strip() if in_git and head.returncode == 0 else None
    assert code["revision"] == expected
