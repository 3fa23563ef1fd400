import json

import pytest

from data_pipelines.shards.reader import ClipSource
from data_pipelines.worlds.sprites.world import SpritesConfig
from data_pipelines.worlds.write import write_world
from vdm_jax.cli.main import main


@pytest.fixture
def sets(tmp_path):
    for seed, name in enumerate("ab"):
        write_world(tmp_path / name, SpritesConfig(frames=2), 4, val_clips=2, seed=seed)
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_sets_are_merged_cut_and_exported(sets, tmp_path, capsys):
    both, few, parts, tars = (str(tmp_path / name) for name in ("both", "few", "parts", "tars"))
    assert main(["shards", "merge", *sets, "--out", both]) == 0
    assert main(["shards", "head", both, "--clips", "3", "--out", few]) == 0
    assert main(["shards", "split", both, "--parts", "2", "--out", parts]) == 0
    assert main(["shards", "export-webdataset", both, "--out", tars, "--shard-mb", "0.01"]) == 0
    assert "written" in capsys.readouterr().out
    assert (len(ClipSource(both, "train")), len(ClipSource(few, "train"))) == (8, 3)
    assert len(list((tmp_path / "parts").iterdir())) == 2
    assert len(list((tmp_path / "tars").glob("train-*.tar"))) > 1


def test_verify_says_which_set_is_damaged(sets, tmp_path, capsys):
    assert main(["shards", "verify", *sets, "--json", str(tmp_path / "x.json")]) == 0
    found = {f["name"]: f["value"] for f in json.loads((tmp_path / "x.json").read_text())}
    assert (found[f"{sets[0]}/train_clips"], found[f"{sets[1]}/intact"]) == (4, True)
    victim = next((tmp_path / "b").glob("*val*"))
    victim.unlink()
    assert main(["shards", "verify", *sets]) == 1
    assert f"damaged: {victim}: No such file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verfy", "x"], "invalid choice: 'verfy'"),
        (["head", "x"], "the following arguments are required: --out"),
        (["split", "x", "--out", "y"], "the following arguments are required: --parts"),
        (["head", "x", "--out", "y", "--clip", "3"], "did you mean --clips?"),
        (["head", "x", "--out", "y", "--clips", "3", "--shard-mb", "0"], "shard_mb: 0"),
        (["verify", "absent"], "absent is not a directory"),
    ],
)
def test_wrong_words_are_one_line(words, message, capsys):
    assert main(["shards", *words]) == 2
    assert message in capsys.readouterr().err
