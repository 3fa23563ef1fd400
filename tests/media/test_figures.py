import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from vdm_jax.media.figures import Figure, add_json_argument, figures_table, write_figures

KEYS = ["name", "value", "unit", "peer", "ratio", "n", "spread", "ok", "command"]


def test_json_has_exactly_the_agreed_keys(tmp_path):
    path = tmp_path / "f.json"
    write_figures(path, [Figure("step_time", np.float32(0.5), "s", peer=1.0, ratio=0.5, n=3, spread=0.01, ok=True)])
    (row,) = json.loads(path.read_text())
    assert list(row) == KEYS
    assert (row["value"], row["ok"], row["n"]) == (0.5, True, 3)
    assert row["command"]
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_json_stays_json_when_a_figure_is_not_finite(tmp_path):
    write_figures(tmp_path / "f.json", [Figure("loss", float("nan")), Figure("ratio", float("inf"), ok=False)])
    assert [row["value"] for row in json.loads((tmp_path / "f.json").read_text())] == [None, None]


def test_two_figures_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'a' is used twice"):
        write_figures(tmp_path / "f.json", [Figure("a", 1), Figure("a", 2)])
    assert not (tmp_path / "f.json").exists()


def test_table_leaves_out_empty_columns():
    table = figures_table([Figure("clips", 12), Figure("shape", "4x8x8"), Figure("intact", True)]).splitlines()
    assert table[0].split() == ["name", "value"]
    assert [line.split()[-1] for line in table[1:]] == ["12", "4x8x8", "yes"]
    assert "NO" in figures_table([Figure("agreement", 0.5, ok=False)])


def test_the_option_is_the_same_everywhere():
    parser = argparse.ArgumentParser()
    add_json_argument(parser)
    assert parser.parse_args(["--json", "x.json"]).json == Path("x.json")
    assert parser.parse_args([]).json is None
