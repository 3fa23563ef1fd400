"""Filters: what they remove and why, alone and in order; splits that never divide a source."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.curation.filters import (
    BORDER,
    CAPPED,
    LEAK,
    Filter,
    Selection,
    WordFilter,
    check_columns,
    decide,
    parse_filter,
)
from data_pipelines.curation.table import ClipRow
from vdm_jax.errors import RunError


def row(source, start=0, length=2, **scores):
    return ClipRow(source, start, start + length, scores=scores)


SIX = [row(f"{k}.mp4", motion=k / 10, text=0.5 if k == 5 else 0.0, codec="h264" if k % 2 else "vp9") for k in range(6)]
ALL = Selection(val_fraction=0)


def of(*rules, **options):
    return Selection(tuple(map(parse_filter, rules)), **{"val_fraction": 0, **options})


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("motion>=0.5", Filter("motion", least=0.5)),
        (" text_area <= 7e-2 ", Filter("text_area", most=0.07)),
        ("height==720", Filter("height", 720, 720)),
        ("motion>0.3", Filter("motion", least=0.30000000000000004)),
        ("codec!=mjpeg", WordFilter("codec", "mjpeg", equal=False)),
        ("codec == h264", WordFilter("codec", "h264")),
        ("motion>=0.5 or missing", Filter("motion", least=0.5, missing=True)),
    ],
)
def test_rules_are_read_and_written(text, rule):
    assert parse_filter(text) == rule
    assert parse_filter(str(rule)) == rule


@pytest.mark.parametrize("text", ["motion>0.3", "motion<0.01", "motion>=0.5", "a<=1e-05", "a==3", "a>=0.1 or missing"])
def test_rules_are_shown_as_they_were_written(text):
    assert str(parse_filter(text)) == text


@pytest.mark.parametrize(
    ("text", "kept"), [("motion>0.3", "45"), ("motion<0.3", "012"), ("motion>=0.3", "345"), ("codec!=vp9", "135")]
)
def test_ends_of_a_range(text, kept):
    assert "".join(r.source[0] for r in decide(SIX, of(text)).kept) == kept


@pytest.mark.parametrize("text", ["motion", "motion>=", ">=3", "motion>=fast", "motion=3", "motion>=nan", "a>=1 <= 3"])
def test_what_is_no_rule(text):
    with pytest.raises(ValueError, match=r"^filter: '"):
        parse_filter(text)


def test_every_reason_is_kept_and_every_effect_counted():
    decision = decide(SIX, of("motion>=0.15", "codec==h264", "text<0.07"))
    refused = {r.source: r.refused for r in decision.rows}
    assert refused["0.mp4"] == ("motion>=0.15", "codec==h264")
    assert [r.source for r in decision.kept] == ["3.mp4"]
    assert [(str(e.rule), e.alone, e.removed) for e in decision.effects[:2]] == [
        ("motion>=0.15", 2, 2),
        ("codec==h264", 3, 2),
    ]
    assert (decision.effects[2].alone, decision.effects[2].removed) == (1, 1)
    assert decision.reasons()["codec==h264"] == 3
    assert all(r.scores == s.scores for r, s in zip(decision.rows, SIX))


def test_a_score_that_is_missing_is_counted_and_refused_unless_asked():
    rows = [*SIX, row("still.png", text=0.0)]
    decision = decide(rows, of("motion>=0"))
    assert (decision.effects[0].missing, decision.rows[-1].refused) == (1, ("motion>=0",))
    assert len(decide(rows, of("motion>=0 or missing")).kept) == 7


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        (["motoin>=1"], ValueError, "unknown 'motoin'; did you mean 'motion'"),
        (["codec>=1"], ValueError, "codec holds text"),
        (["motion!=slow"], ValueError, "motion holds numbers"),
        (["motion>=1"], RunError, r"filter motion>=1: keeps none of 6 clips; motion is from 0.0 to 0.5"),
        (["motion>=0.45", "text<0.1"], RunError, r"together they keep none of 6 clips \(motion>=0.45 removes 5, text"),
        (["seconds>=3"], RunError, "seconds is from 2.0 to 2.0"),
    ],
)
def test_filters_that_cannot_be_meant(rules, error, message):
    with pytest.raises(error, match=message):
        decide(SIX, of(*rules))


def test_columns_are_checked_before_anything_is_measured():
    check_columns([parse_filter("seconds>=1")], ["motion"])
    with pytest.raises(ValueError, match="did you mean 'motion'"):
        check_columns([parse_filter("motions>=1")], ["motion"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_clips_per_source": -1}, "max_clips_per_source: -1"),
        ({"val_fraction": 1.0}, "val_fraction: 1.0"),
        ({"hold_out": "sorce"}, "did you mean 'source'"),
        ({"filters": (Filter("a", 1), Filter("a", 1))}, "a>=1 is given twice"),
    ],
)
def test_selections_check_themselves(fields, message):
    with pytest.raises(ValueError, match=message):
        Selection(**fields)


@pytest.mark.parametrize("fields", [{"least": 2, "most": 1}, {}, {"least": float("nan")}])
def test_a_filter_needs_a_range(fields):
    with pytest.raises(ValueError, match="^filter: a"):
        Filter("a", **fields)


def test_a_source_is_capped_evenly_after_the_filters():
    rows = [row("a", 2 * k, motion=float(k >= 2)) for k in range(10)]
    decision = decide(rows, of("motion>=1", max_clips_per_source=4))
    assert [r.start for r in decision.kept] == [4, 8, 12, 16]
    assert decision.reasons() == {CAPPED: 4, "motion>=1": 2}


def test_the_tail_holds_the_end_of_each_source_out():
    rows = [row(name, k) for name in "ab" for k in range(10)]  # each clip reaches one second into the next
    decision = decide(rows, Selection(val_fraction=0.2))
    assert decision.hold_out == "tail"
    for name in "ab":
        mine = [r for r in decision.rows if r.source == name]
        assert [r.split for r in mine] == ["train"] * 7 + [""] + ["val"] * 2
        assert mine[7].refused == (BORDER,)


@settings(max_examples=50, deadline=None)
@given(st.integers(5, 12), st.integers(0, 3), st.floats(0.05, 0.6), st.integers(0, 3))
def test_no_group_is_divided_and_filters_do_not_reshuffle(groups, seed, fraction, cap):
    rows = [
        dataclasses.replace(row(f"{g}-{s}", 2 * k, motion=float(k)), group=f"g{g}")
        for g in range(groups)
        for s in range(2)
        for k in range(3)
    ]
    chosen = Selection(val_fraction=fraction, seed=seed, max_clips_per_source=cap)
    decision = decide(rows, chosen)
    splits = {}
    for r in decision.kept:
        splits.setdefault(r.group, set()).add(r.split)
    assert all(len(found) == 1 for found in splits.values())
    held_out = [g for g, found in splits.items() if found == {"val"}]
    assert len(held_out) == max(1, round(fraction * groups))
    filtered = decide(decision.rows[::-1], dataclasses.replace(chosen, filters=(parse_filter("motion>=1"),)))
    assert {r.group for r in filtered.kept if r.split == "val"} == set(held_out)


def test_what_repeats_a_held_out_clip_is_not_trained_on():
    rows = [row(f"{k}.mp4", start, duplicate_of="") for k in range(10) for start in (0, 2)]
    held_out = {r.source for r in decide(rows, Selection(val_fraction=0.2)).kept if r.split == "val"}
    first, second = sorted(held_out)
    free = sorted({r.source for r in rows} - held_out)
    alike = {(free[0], 0): f"{first}:0-2000", (free[1], 2): f"{free[2]}:0-2000", (second, 2): f"{free[3]}:2000-4000"}
    alike |= {(first, 2): f"{first}:0-2000"}
    rows = [dataclasses.replace(r, scores={"duplicate_of": alike.get((r.source, r.start), "")}) for r in rows]
    decision = decide(rows, Selection(val_fraction=0.2))
    refused = {(r.source, r.start): r.refused for r in decision.rows if r.refused}
    assert refused == {(free[0], 0): (LEAK,), (free[3], 2): (LEAK,)}
    assert {r.source for r in decision.kept if r.split == "val"} == held_out
    tail = decide([row("a", k, duplicate_of="a:0-2000" if k else "") for k in range(0, 20, 2)], Selection())
    assert sum(r.split == "train" for r in tail.rows) == 9


def test_seeds_hold_other_sources_out():
    rows = [row(f"{k}.mp4") for k in range(20)]
    chosen = [{r.source for r in decide(rows, Selection(seed=s)).kept if r.split == "val"} for s in range(3)]
    assert chosen[0] != chosen[1] or chosen[1] != chosen[2]
    assert all(len(c) == 2 for c in chosen)


def test_sources_without_clips_count_towards_what_is_held_out():
    rows = [row(f"{k}.mp4") for k in range(4)]
    assert decide(rows, Selection()).hold_out == "tail"
    decision = decide(rows, Selection(val_fraction=0.2), sources=10)
    assert decision.hold_out == "source"
    assert sum(r.split == "val" for r in decision.rows) == 2


def test_nothing_left_to_train_on_says_what_to_do():
    with pytest.raises(RunError, match="use hold_out='tail' or val_fraction=0"):
        decide([row("a")], Selection(hold_out="source"))


def test_an_empty_table_has_nothing_to_decide():
    assert not decide([], ALL).rows
