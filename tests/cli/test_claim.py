import json

import pytest

from vdm_jax.cli.main import main

INDEX = """
[quick]
title = "Quick"
family = "f"
paper = "arXiv 1"
pieces = ["tau", "guidance"]

[later]
title = "Later"
family = "g"
paper = "arXiv 2"
pieces = []
"""
CLAIM = """
import os

import numpy as np

from vdm_jax.evaluation.claims import Check, Claim


def measure(lab):
    if lab.seed == 7:
        raise ValueError("seed: 7 is not liked here")
    clip = np.full((3, 8, 8, 3), 100, np.uint8)
    lab.show("squares", [{"ours": clip, "theirs": clip}], ["a square"])
    return {"seed": lab.seed, "cpus": len(os.sched_getaffinity(0))}


CLAIM = Claim(
    "seeds stay small",
    measure,
    (
        Check("seed", "the seed", lambda m: m["seed"], most=LIMIT, every_seed=True),
        Check("cpus", "CPUs of a seed", lambda m: m["cpus"], least=1, counts=False),
    ),
)
"""


@pytest.fixture
def experiments(tmp_path):
    """A method that measures nothing much, and one that is not built."""
    (tmp_path / "methods.toml").write_text(INDEX)
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "claim.py").write_text(CLAIM.replace("LIMIT", "1"))
    return tmp_path


def claim(experiments, *words):
    return main(["claim", *words, "--experiments", str(experiments), "--cache", str(experiments / "cache")])


def test_a_claim_runs_its_seeds_and_keeps_what_they_measured(experiments, capfd):
    figures = experiments / "figures.json"
    assert claim(experiments, "quick", "--seeds", "2", "--json", str(figures)) == 0
    assert "quick: too few seeds, fast, 2 seeds" in capfd.readouterr().out
    results = json.loads((experiments / "quick" / "results.json").read_text())
    assert results["measured"]["seed"] == [0, 1]
    assert (experiments / "quick" / "squares.png").stat().st_size > 100
    names = {row["name"]: row["ok"] for row in json.loads(figures.read_text())}
    assert names == {"quick/seed": True, "quick/cpus": None}
    assert main(["methods", "--experiments", str(experiments)]) == 0
    table = capfd.readouterr().out
    assert "1 too few seeds, 1 not started" in table
    assert main(["methods", "quick", "--experiments", str(experiments)]) == 0
    assert "the seed: 0, 1 (at most 1 in every seed): ok" in capfd.readouterr().out


def test_a_claim_that_fails_says_so_and_all_of_them_make_a_page(experiments, capfd):
    (experiments / "quick" / "claim.py").write_text(CLAIM.replace("LIMIT", "0"))
    assert claim(experiments, "--all", "--seeds", "2") == 1
    assert "quick: failed" in capfd.readouterr().out
    page = (experiments / "RESULTS.md").read_text()
    assert "[Quick](quick/README.md): failed" in page
    assert "(quick/squares.png)" in page


def test_all_goes_on_after_a_claim_that_breaks(experiments, capfd):
    (experiments / "methods.toml").write_text(INDEX.replace("later", "after"))
    (experiments / "after").mkdir()
    (experiments / "after" / "claim.py").write_text(CLAIM.replace("LIMIT", "1"))
    (experiments / "quick" / "claim.py").write_text(CLAIM.replace("LIMIT", "1").replace("lab.seed == 7", "True"))
    assert claim(experiments, "--all", "--seeds", "1") == 1
    said = capfd.readouterr()
    assert "quick: seed 0 failed; its message is above; its old results stay" in said.err
    assert "after: too few seeds" in said.out
    page = (experiments / "RESULTS.md").read_text()
    assert "(after/README.md)" in page
    assert "(quick/README.md)" not in page


def test_a_seed_that_breaks_leaves_the_old_results(experiments, capfd):
    old = experiments / "quick" / "results.json"
    old.write_text('{"state": "failed"}')
    (experiments / "quick" / "claim.py").write_text(CLAIM.replace("seed == 7", "seed == 1").replace("LIMIT", "1"))
    assert claim(experiments, "quick", "--seeds", "2") == 1
    said = capfd.readouterr().err
    assert "seed: 7 is not liked here" in said
    assert "seed 1 failed" in said
    assert old.read_text() == '{"state": "failed"}'


@pytest.mark.parametrize(("words", "message"), [
    (("quik",), "SLUG: unknown 'quik'"),
    (("later",), "later: is not built yet"),
    ((), "name one method"),
    (("quick", "--all"), "name one method"),
    (("quick", "--seeds", "0"), "--seeds: 0"),
    (("quick", "--budget", "ful"), "--budget: unknown 'ful'"),
])  # fmt: skip
def test_wrong_words_are_one_line(experiments, capfd, words, message):
    assert claim(experiments, *words) == 2
    error = capfd.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_methods_are_found_by_state_and_family(experiments, capfd):
    where = ("--experiments", str(experiments))
    assert main(["methods", "--state", "not started", *where]) == 0
    assert "later" in (out := capfd.readouterr().out)
    assert "quick" not in out
    assert main(["methods", "--family", "h", *where]) == 2
    assert "--family: unknown 'h'" in capfd.readouterr().err
    assert main(["methods", "--experiments", str(experiments / "no")]) == 2
