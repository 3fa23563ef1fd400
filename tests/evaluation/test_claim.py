import json
import math

import numpy as np
import pytest

from vdm_jax.errors import RunError
from vdm_jax.evaluation.claims import Base, Check, Claim, Lab
from vdm_jax.evaluation.claims.claim import judge, state_of
from vdm_jax.evaluation.claims.methods import find_experiments, load, named, read_methods
from vdm_jax.evaluation.claims.results import Outcome, figures, write_results, write_summary

RATIO = Check("ratio", "ours over theirs", lambda m: m["ours"] / m["theirs"], most=0.5)
SEEDS = [{"ours": 1.0, "theirs": 4.0}, {"ours": 3.0, "theirs": 5.0}]  # 0.25 and 0.6


def claim(*checks):
    return Claim("ours is half of theirs", lambda lab: {}, checks)


def test_a_check_holds_on_average_or_in_every_seed():
    (verdict,) = judge(claim(RATIO), SEEDS)
    assert (verdict.values, verdict.ok) == ((0.25, 0.6), True)
    assert verdict.mean == pytest.approx(0.425)
    assert verdict.spread == pytest.approx(np.std([0.25, 0.6], ddof=1))
    strict = Check("ratio", "the same", RATIO.value, most=0.5, every_seed=True)
    assert not judge(claim(strict), SEEDS)[0].ok


def test_what_is_not_finite_meets_no_bar():
    check = Check("x", "x", lambda m: m["x"], least=0.0, most=math.inf)
    assert not judge(claim(check), [{"x": math.nan}])[0].ok
    assert not judge(claim(check), [{"x": math.inf}])[0].ok
    assert judge(claim(check), [{"x": 3.0}])[0].ok


def test_a_claim_stands_on_the_checks_that_count():
    beside = Check("beside", "also", lambda m: m["ours"], least=100.0, counts=False)
    verdicts = judge(claim(RATIO, beside), SEEDS)
    assert [v.ok for v in verdicts] == [True, False]
    assert state_of(verdicts) == "too few seeds"
    assert state_of(judge(claim(RATIO, beside), [*SEEDS, SEEDS[0]])) == "reproduced"
    assert state_of(judge(claim(RATIO, Check("c", "c", lambda m: m["ours"], least=100.0)), SEEDS)) == "failed"
    with pytest.raises(ValueError, match="at least one of them must count"):
        claim(beside)
    with pytest.raises(ValueError, match="bar"):
        Check("none", "none", lambda m: 0.0)


def test_seeds_must_measure_the_same():
    with pytest.raises(ValueError, match="measured"):
        judge(claim(RATIO), [{"ours": 1.0, "theirs": 1.0}, {"ours": 1.0}])
    with pytest.raises(ValueError, match="measured"):
        judge(claim(RATIO), [])


def test_a_base_is_trained_once_and_again_when_its_settings_change(tmp_path):
    calls = []

    def train():
        calls.append(1)
        return {"backbone": {"kernel": np.arange(4.0), "list": {"0": {"bias": np.ones(2)}}}}

    lab = Lab(0, "fast", tmp_path, say=lambda text: None)
    base = Base("toy", {"steps": 3}, train)
    first, second = lab.base(base), lab.base(base)
    assert len(calls) == 1
    np.testing.assert_array_equal(first["backbone"]["kernel"], second["backbone"]["kernel"])
    assert second["backbone"]["list"]["0"]["bias"].shape == (2,)
    lab.base(Base("toy", {"steps": 4}, train))
    assert len(calls) == 2
    base.path(tmp_path).write_bytes(b"broken")
    with pytest.raises(RunError, match="is not a base model"):
        lab.base(base)


def test_a_budget_is_one_of_two():
    assert Lab(0, "full", None).pick(1, 2) == 2
    with pytest.raises(ValueError, match=r"budget: unknown 'ful'.*full"):
        Lab(0, "ful", None)


CLAIM = """
from vdm_jax.evaluation.claims import Check, Claim
from . import config

def measure(lab):
    return {"ours": config.SIZE + lab.seed, "theirs": 10.0}

CLAIM = Claim("ours is small", measure, (Check("ratio", "share", lambda m: m["ours"] / m["theirs"], most=0.5),))
"""
INDEX = """
[one-method]
title = "One"
family = "f"
paper = "arXiv 1"
pieces = ["tau"]

[other]
title = "Other"
family = "g"
paper = "p"
pieces = []
"""


@pytest.fixture
def experiments(tmp_path):
    """Two methods, of which one is built."""
    (tmp_path / "methods.toml").write_text(INDEX)
    folder = tmp_path / "one-method"
    folder.mkdir()
    (folder / "claim.py").write_text(CLAIM)
    (folder / "config.py").write_text("SIZE = 2\n")
    return tmp_path


def test_a_method_goes_through_its_states(experiments):
    methods = read_methods(find_experiments(experiments))
    one, other = methods["one-method"], methods["other"]
    assert (one.state, other.state) == ("not run", "not started")
    with pytest.raises(ValueError, match="other: is not built yet"):
        other.claim()
    with pytest.raises(ValueError, match=r"SLUG: unknown 'one-metod'.*one-method"):
        named(methods, "one-metod")
    claim = one.claim()
    for seeds, state in (((0, 1, 2), "reproduced"), ((0, 1), "too few seeds"), ((0, 90), "failed")):
        measured = {seed: claim.measure(Lab(seed, "fast", experiments)) for seed in seeds}
        write_results(one, Outcome(claim, "fast", measured, dict.fromkeys(seeds, 1.0)))
        assert one.state == state
    content = json.loads((experiments / "one-method" / "results.json").read_text())
    assert content["checks"][0]["values"] == [0.2, 9.2]
    (figure,) = figures("one-method", Outcome(claim, "fast", measured, dict.fromkeys(seeds, 1.0)))
    assert (figure.name, figure.n, figure.ok) == ("one-method/ratio", 2, False)
    text = write_summary(experiments, list(methods.values())).read_text()
    assert "[One](one-method/README.md): failed" in text
    assert "**no**" in text
    assert "Other" not in text


def test_a_damaged_result_says_what_to_do(experiments):
    (experiments / "one-method" / "results.json").write_text("{")
    with pytest.raises(RunError, match="vdm claim one-method"):
        read_methods(experiments)["one-method"].state  # noqa: B018


def test_no_directory_of_methods(tmp_path):
    with pytest.raises(ValueError, match="methods.toml"):
        find_experiments(tmp_path)


def test_files_of_a_folder_find_their_neighbours(experiments):
    assert load(experiments / "one-method" / "claim.py").config.SIZE == 2
