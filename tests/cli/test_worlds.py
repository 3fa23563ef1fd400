import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines.shards.reader import ClipSource
from vdm_jax.cli.main import main


def test_writes_a_set_and_says_what_is_in_it(tmp_path, capsys):
    out = tmp_path / "set"
    words = ["worlds", "sprites", "--out", str(out), "--clips", "6", "--val-clips", "2", "--size", "16x20"]
    assert main([*words, "--frames", "3", "--json", str(tmp_path / "f.json")]) == 0
    assert "train_clips" in capsys.readouterr().out
    figures = {f["name"]: f["value"] for f in json.loads((tmp_path / "f.json").read_text())}
    assert (figures["train_clips"], figures["val_clips"], figures["shape"]) == (6, 2, "3x16x20x3")
    source = ClipSource(out, "train")
    assert (len(source), source[5]["video"].shape) == (6, (3, 16, 20, 3))
    assert main([*words, "--frames", "3"]) == 2  # it is there already
    assert "exists already" in capsys.readouterr().err
    assert main([*words, "--frames", "2", "--overwrite"]) == 0
    assert ClipSource(out, "train")[0]["video"].shape[0] == 2


def test_shows_a_contact_sheet_without_writing_a_set(tmp_path):
    assert main(["worlds", "sprites", "--show", str(tmp_path / "s.png")]) == 0
    picture = np.asarray(Image.open(tmp_path / "s.png"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 8
    assert [p.name for p in tmp_path.iterdir()] == ["s.png"]


def test_a_sheet_without_a_name_has_that_of_the_world(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["worlds", "sprites", "--show", "--config.colours=red,blue", "--config.counts=1"]) == 0
    assert capsys.readouterr().out == "contact sheet: sprites.png\n"
    assert [p.name for p in tmp_path.iterdir()] == ["sprites.png"]


def test_lists_the_worlds(capsys):
    assert main(["worlds", "--list"]) == 0
    assert capsys.readouterr().out.startswith("sprites")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sprits", "--out", "x"], "world: unknown 'sprits'; did you mean 'sprites'?"),
        (["--out", "x"], "world: name one"),
        (["sprites"], "nothing to do"),
        (["sprites", "--out", "x", "--size", "big"], "'big' is neither"),
        (["sprites", "--out", "x", "--size", "8"], "height: 8 is not within 16..128"),
        (["sprites", "--out", "x", "--config.colours=('rde',)"], "colours: unknown 'rde'; did you mean 'red'?"),
        (["sprites", "--out", "x", "--config.objets=2"], "config.objets: unknown 'objets'; did you mean 'objects'?"),
        (["sprites", "--out", "x", "--fields", "flwo"], "fields: unknown 'flwo'; did you mean 'flow'?"),
        (["sprites", "--check", "--seed", "-1"], "seed: -1 is negative"),
        (["sprites", "--check", "--frames", "1"], "objects: the oracle reads one object that moves"),
        (["sprites", "--out", "x", "--codec", "h265"], "codec: unknown 'h265'; did you mean 'h264'?"),
        (["sprites", "--out", "x", "--clips", "0"], "clips: 0; at least 1"),
        (["sprites", "--out", "x", "--size", "64x"], "'64x' is neither"),
        (["sprites", "--out", "x", "--held-out", "2"], "held_out: 2.0 is not within [0, 1)"),
        (["scenes", "--out", "x", "--config.defects=blur,drk"], "config.defects: unknown 'drk'; did you mean 'dark'?"),
        (["sprites", "--show", "x.jpg"], "show: 'x.jpg' is no name of a PNG, as x.png is"),
        (["sprites", "--show", "nowhere/x.png"], "show: nowhere/x.png: there is no folder nowhere"),
    ],
)
def test_wrong_input_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["worlds", *words]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not list(tmp_path.iterdir())
