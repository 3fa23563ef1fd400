import json
import sys

import numpy as np
import pytest

from data_pipelines.shards.manifest import load
from vdm_jax.cli.main import main
from vdm_jax.media.video import write_mp4

pytest.importorskip("apache_beam", reason="curation is a Beam graph")


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    wide = np.random.default_rng(0).integers(0, 256, (64, 110, 3), np.uint8)
    write_mp4(folder / "good.mp4", np.stack([wide[:, k : k + 90] for k in range(20)]), 10.0)
    (folder / "good.txt").write_text("noise that moves left\n")
    (folder / "broken.mp4").write_bytes(b"not a video at all")
    return folder


def test_makes_a_set_and_lists_what_was_dropped(videos, tmp_path, capsys):
    out = tmp_path / "set"
    words = ["curate", str(videos), "--out", str(out), "--frames", "4", "--size", "8", "--fps", "10", "--codec", "raw"]
    assert main([*words, "--json", str(tmp_path / "f.json")]) == 0
    shown = capsys.readouterr()
    manifest = load(out)
    assert (manifest.clip.frames, manifest.clip.height, manifest.clip.width) == (4, 8, 8)
    (dropped,) = manifest.dropped
    assert f"dropped broken.mp4: {dropped.reason}" in shown.out
    assert "curate 2/2" in shown.err
    figures = {f["name"]: f["value"] for f in json.loads((tmp_path / "f.json").read_text())}
    assert figures["dropped_sources"] == figures[f"dropped_{dropped.reason}"] == 1
    assert figures["train_clips"] == manifest.records("train") > 0
    assert figures["speed_encode"] > 0
    assert figures["core_hours"] > 0


def test_filters_a_dry_run_and_the_page(videos, tmp_path, capsys):
    out = tmp_path / "set"
    words = ["curate", str(videos), "--out", str(out), "--frames", "10", "--size", "8", "--fps", "10", "--codec", "raw"]
    page = tmp_path / "page.html"
    assert main([*words, "--filter", "motion>=0.001", "--dry-run", "--report", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "decided, nothing written" in shown
    assert "removed_by motion>=0.001" in shown
    assert "motion" in page.read_text("utf-8")
    assert not out.exists()
    assert main([*words, "--filter", "motion>=9000"]) == 1
    assert "filter motion>=9000: keeps none of" in capsys.readouterr().err
    assert main([*words, "--filter", "motoin>=0.1"]) == 2
    assert "did you mean 'motion'" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runner", "FlinkRuner"], "runner: unknown 'FlinkRuner'; did you mean 'FlinkRunner'"),
        (["--scores", "motoin"], "scores: unknown 'motoin'; did you mean 'motion'"),
        (["--scores", "motion", "--crop-bars"], "crop_bars: needs the scorer 'bars'"),
        (["--filter", "motion around 1"], "is no rule such as"),
        (["--column", "path"], "--column: 'path' is not ROLE=NAME"),
        (["--captions", "besides"], "captions: unknown 'besides'; did you mean 'beside'"),
        (["--workers", "-1"], "workers: -1 is not at least 0"),
    ],
)
def test_wrong_words_are_named_before_any_work(videos, tmp_path, capsys, words, said):
    assert main(["curate", str(videos), "--out", str(tmp_path / "set"), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["videos"]


def test_without_the_extra_it_says_what_to_install(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert main(["curate", str(videos), "--out", str(tmp_path / "set")]) == 1
    assert "pip install 'vdm_jax[curate]'" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["videos"]


def test_a_folder_without_videos_is_a_usage_error(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "absent"):
        assert main(["curate", str(tmp_path / folder), "--out", str(tmp_path / "set")]) == 2
        assert capsys.readouterr().err.startswith("vdm: inputs: ")
    assert not (tmp_path / "set").exists()


def test_nothing_usable_is_a_failure(videos, tmp_path, capsys):
    (videos / "good.mp4").unlink()
    assert main(["curate", str(videos), "--out", str(tmp_path / "set")]) == 1
    assert "broken.mp4" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
