"""Ranking: Elo by hand, thresholds that remove what they say, and the threshold that removes the defects wins."""

import json
import math

import numpy as np
import pytest

from data_pipelines.curation.filters import Filter, Selection, decide
from data_pipelines.curation.ranking import (
    ALL,
    Match,
    direction,
    elo,
    groups,
    play,
    rank_filters,
    read_matches,
    variants,
)
from data_pipelines.curation.scores.protocol import Column
from data_pipelines.curation.table import ClipRow
from vdm_jax.errors import RunError


def rows(values, name="motion"):
    return [ClipRow(f"{k:04d}.mp4", 0, 1, scores={name: v}) for k, v in enumerate(values)]


def test_one_match_by_hand():
    best, worst = elo([Match("a", "b", 1.0)], k=32)
    assert (best.name, best.elo, best.spread, best.matches, best.won) == ("a", 1016.0, 0.0, 1, 1.0)
    assert (worst.name, worst.elo, worst.won) == ("b", 984.0, 0.0)


def test_the_order_of_matches_is_averaged():
    matches = [Match("a", "b", 1.0), Match("b", "a", 1.0)]
    change = 16 - 32 / (1 + 10 ** (-32 / 400))  # winning first and losing to somebody who is now below
    ratings = {r.name: r for r in elo(matches, k=32, orders=4000)}
    # Either order brings both back to nearly where they were, from opposite sides.
    assert abs(ratings["a"].elo - 1000) < 0.15
    assert ratings["a"].spread == pytest.approx(abs(change), rel=0.02)
    assert sum(r.elo for r in ratings.values()) == pytest.approx(2000)


def test_known_strengths_are_found_in_order():
    rng = np.random.default_rng(0)
    strength = {"a": 0.0, "b": 100.0, "c": 250.0, "d": 400.0}
    matches = []
    for _ in range(400):
        x, y = rng.choice(sorted(strength), 2, replace=False)
        wins = rng.random() < 1 / (1 + 10 ** ((strength[y] - strength[x]) / 400))
        matches.append(Match(str(x), str(y), float(wins)))
    ratings = elo(matches, orders=200, k=4)
    assert [r.name for r in ratings] == ["d", "c", "b", "a"]
    assert elo(matches, orders=200, k=4) == ratings
    assert elo(matches[::-1], orders=200, k=4)[0].elo == pytest.approx(ratings[0].elo, abs=1)
    assert sum(r.matches for r in ratings) == 800


def test_players_who_never_met_are_not_ranked_together():
    matches = [Match("a", "b", 1), Match("b", "c", 0), Match("x", "y", 0.5)]
    assert groups(matches) == [["a", "b", "c"], ["x", "y"]]
    with pytest.raises(ValueError, match="'a' and 'x' were never compared"):
        elo(matches)
    with pytest.raises(ValueError, match="nothing can be ranked"):
        elo([])
    with pytest.raises(ValueError, match="orders: 0"):
        elo(matches[:1], orders=0)


@pytest.mark.parametrize(("first", "second", "score"), [("a", "a", 1), ("a", "b", 2), ("a", "b", math.nan)])
def test_what_is_no_match(first, second, score):
    with pytest.raises(ValueError, match="^match:"):
        Match(first, second, score)


@pytest.mark.parametrize("higher_is", ["better", "worse"])
def test_variants_remove_what_they_say(higher_is):
    clips = rows([k / 100 for k in range(200)])
    found = variants(clips, "motion", higher_is)
    assert found[0].name == ALL
    assert [v.removed for v in found] == [0, 0.125, 0.25, 0.5]
    for variant in found[1:]:
        kept = decide(clips, Selection((variant.rule,), val_fraction=0)).kept
        assert len(kept) == round(200 * (1 - variant.removed))
        worst_first = sorted(r.value("motion") for r in kept)
        assert (worst_first[-1] == 1.99) == (higher_is == "better")


def test_values_that_many_clips_share():
    clips = rows([0.0] * 150 + [0.5] * 30 + [1.0] * 20, "text")
    found = variants(clips, "text", "worse", (0.05, 0.125, 0.2, 0.5))
    assert [(v.name, v.removed) for v in found] == [(ALL, 0.0), ("text<=0.5", 0.1), ("text<=0", 0.25)]
    assert [v.removed for v in variants(clips, "text", "better", (0.125,))] == [0.0, 0.75]
    assert [v.rule for v in variants(clips, "text", "better", (0.125,))][1] == Filter("text", least=0.5)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("motoin", [1.0, 2.0], "did you mean 'motion'"),
        ("motion", [1.0, 1.0], "all clips have the same motion, 1.0"),
        ("motion", ["a", "b"], "holds text"),
    ],
)
def test_scores_that_cannot_be_ranked(column, values, message):
    with pytest.raises(ValueError, match=message):
        variants(rows(values), column, "better")
    with pytest.raises(ValueError, match=r"fractions: 1.5"):
        variants(rows([1, 2]), "motion", "better", (1.5,))
    with pytest.raises(ValueError, match="1 of 3 clips have no motion"):
        variants([*rows([1, 2]), ClipRow("x", 0, 1)], "motion", "better")


def test_the_direction_of_a_score():
    columns = [Column("motion", "speed", higher_is="better"), Column("brightness", "mean luma")]
    assert direction("motion", columns) == "better"
    with pytest.raises(ValueError, match="neither better nor worse"):
        direction("brightness", columns)
    with pytest.raises(ValueError, match="did you mean 'motion'"):
        direction("motions", columns)


def test_the_threshold_that_removes_the_defects_wins():
    """A toy model is as good as its clips are clean and many; a quarter of the clips are defective."""
    rng = np.random.default_rng(1)
    still = rng.random(400) < 0.25
    clips = rows(np.where(still, rng.uniform(0, 0.1, 400), rng.uniform(0.1, 1, 400)).tolist())
    defective = {row.source for row, bad in zip(clips, still) if bad}
    trained = []

    def train(variant):
        trained.append(variant.name)
        kept = clips if variant.rule is None else decide(clips, Selection((variant.rule,), val_fraction=0)).kept
        share = sum(row.source in defective for row in kept) / len(kept)
        quality = -share - 0.1 * (1 - len(kept) / len(clips))
        return quality + 0.05 * rng.normal(size=40)

    def judge(_, first, second):
        return float(first > second)

    ratings = rank_filters(clips, {"motion": "better"}, train, judge)["motion"]
    assert ratings[-1].name == ALL
    best = next(v for v in variants(clips, "motion", "better") if v.name == ratings[0].name)
    assert best.removed == 0.25
    assert len(trained) == len(set(trained)) == 4


def test_results_must_be_of_the_same_prompts():
    assert len(play({"a": [1, 2], "b": [3, 4], "c": [5, 6]}, lambda k, x, y: 0.5)) == 6
    for models in ({"a": [1]}, {"a": [1], "b": [1, 2]}):
        with pytest.raises(ValueError, match="^models:"):
            play(models, lambda k, x, y: 0.5)


def test_matches_are_read(tmp_path):
    (tmp_path / "m.csv").write_text("first,second,winner\na,b,a\nb,c,second\na,c,tie\n")
    assert read_matches(tmp_path / "m.csv") == [Match("a", "b", 1.0), Match("b", "c", 0.0), Match("a", "c", 0.5)]
    (tmp_path / "m.jsonl").write_text(json.dumps({"first": "a", "second": "b", "winner": "b"}))
    assert read_matches(tmp_path / "m.jsonl") == [Match("a", "b", 0.0)]


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("m.txt", "", ValueError, "is no file"),
        ("m.csv", "a,b\n", ValueError, r"no column 'first' \(its columns: a, b\)"),
        ("m.csv", "first,second,winner\na,b,c\n", ValueError, "row 1: 'c' won 'a' against 'b'"),
        ("m.csv", "first,second,winner\na,a,a\n", ValueError, "row 1"),
        ("m.csv", "first,second,winner\na,b\n", RunError, "2 values for 3 columns"),
    ],
)
def test_what_is_no_list_of_matches(tmp_path, name, text, error, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message):
        read_matches(tmp_path / name)
