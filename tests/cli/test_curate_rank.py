import dataclasses
import json

import pytest

from data_pipelines.shards.reader import ClipSource
from data_pipelines.shards.writer import open_writer
from data_pipelines.worlds.sprites.world import SpritesConfig
from data_pipelines.worlds.write import write_world
from tests.cli.micro_run import SILENT, refused, write_config
from vdm_jax.cli import curate_rank
from vdm_jax.cli.main import main


def scored(path, train=24, val=16):
    """Sprites with a score that rises from clip to clip, and one that some clips share."""
    spare = path.with_name("unscored")
    write_world(spare, SpritesConfig(frames=4), train, val_clips=val, fields=())
    with open_writer(path, ClipSource(spare, "train").manifest.clip) as writer:
        for split in ("train", "val"):
            source = ClipSource(spare, split)
            for k in range(len(source)):
                labels = {"scores": {"motion": k / len(source), "text": float(k % 4 == 0), "kind": "a"}}
                writer.add(dataclasses.replace(source.record(k), labels=json.dumps(labels)))
        writer.finish({"pipeline": "test"}, {})
    return path


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rank")
    scored(folder / "set")
    write_config(folder / SILENT, folder / "set", captions=False)
    return folder


def rank(bench, *words):
    given = ["--config", str(bench / SILENT), "--workdir", str(bench / "work"), "--config.train.steps=2"]
    return ["curate", "rank", str(bench / "set"), *given, *words]


def test_one_model_a_threshold_is_trained_and_ranked(bench, capsys, monkeypatch):
    words = rank(bench, "--keep-high", "motion", "--fractions", "0.5", "--json", str(bench / "f.json"))
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "model 2 of 2: motion>=0.5, without 50 % of the clips" in shown
    figures = json.loads((bench / "f.json").read_text())
    assert {f["name"] for f in figures} == {"motion: everything", "motion: motion>=0.5"}
    assert sum(f["value"] for f in figures) == pytest.approx(2000)
    assert {f["n"] for f in figures} == {2}  # eight held-out clips pass, four of them a match
    folders = {p.name.rpartition("-")[0]: p for p in (bench / "work").iterdir() if p.is_dir()}
    assert len(ClipSource(folders["motion_0.5"] / "set", "train")) == 12
    assert len(ClipSource(bench / "work" / "held_out", "val")) == 8
    assert (bench / "work" / "pairs.html").stat().st_size > 10_000
    before = {path: path.stat().st_mtime_ns for path in (bench / "work").rglob("*/checkpoints/*")}
    before |= {path: path.stat().st_mtime_ns for path in (bench / "work").rglob("manifest.json")}
    monkeypatch.setattr(curate_rank, "_losses", lambda run, shards: [0.5, 0.5])
    monkeypatch.setattr(curate_rank, "_page", lambda *_: None)
    assert main(words) == 0  # goes on with what is there: nothing is written or trained again
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [f["value"] for f in json.loads((bench / "f.json").read_text())] == [1000, 1000]


def test_what_people_said_is_ranked(tmp_path, capsys):
    (tmp_path / "m.csv").write_text("first,second,winner\na,b,a\nb,c,b\nx,y,tie\n")
    assert main(["curate", "rank", "--matches", str(tmp_path / "m.csv")]) == 0
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]]
    assert [name for name, _ in lines] == ["a", "b", "c", "x", "y"]
    assert lines[3:] == [["x", "1000"], ["y", "1000"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep-high", "motoin"], "columns: unknown 'motoin'; did you mean 'motion'"),
        (["--keep-high", "kind"], "columns: kind holds text"),
        (["--keep-high", "motion", "--keep-low", "motion"], "'motion' is there twice"),
        ([], "name a score at least"),
        (["--keep-high", "motion", "--fractions", "2"], "fractions: 2.0 is not within"),
        (["--keep-high", "motion", "--prompts", "absent.txt"], "--prompts: no file absent.txt"),
        (["--matches", "m.csv", "--keep-high", "motion"], "leave the shard set out"),
    ],
)
def test_what_cannot_be_ranked_is_one_line(bench, capsys, words, message):
    assert message in refused(capsys, rank(bench, *words))


def test_too_few_held_out_clips(bench, capsys):
    words = rank(bench, "--keep-high", "motion", "--keep-low", "text", "--fractions", "0.75")
    assert "comparing takes 8; hold more out" in refused(capsys, words, status=1)
    assert "shards: missing" in refused(capsys, ["curate", "rank", "--keep-high", "motion"])


def test_a_set_without_scores_or_without_held_out_clips(bench, tmp_path, capsys):
    words = ["--keep-high", "motion", "--config", "x.py", "--workdir", str(tmp_path / "w")]
    assert "has no scores" in refused(capsys, ["curate", "rank", bench / "unscored", *words])
    write_world(tmp_path / "train", SpritesConfig(frames=2), 2, val_clips=0, held_out=0)
    assert "holds nothing out" in refused(capsys, ["curate", "rank", tmp_path / "train", *words])
