import json

import numpy as np
import pytest

from data_pipelines.shards.manifest import load
from vdm_jax.cli.main import main
from vdm_jax.media.video import write_mp4


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_mp4(folder / "good.mp4", np.random.default_rng(0).integers(0, 256, (20, 16, 24, 3), np.uint8), 10.0)
    (folder / "good.txt").write_text("noise\n")
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


def test_a_folder_without_videos_is_a_usage_error(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "absent"):
        assert main(["curate", str(tmp_path / folder), "--out", str(tmp_path / "set")]) == 2
        assert capsys.readouterr().err.startswith("vdm: videos: ")
    assert not (tmp_path / "set").exists()


def test_nothing_usable_is_a_failure(videos, tmp_path, capsys):
    (videos / "good.mp4").unlink()
    assert main(["curate", str(videos), "--out", str(tmp_path / "set")]) == 1
    assert "broken.mp4" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
