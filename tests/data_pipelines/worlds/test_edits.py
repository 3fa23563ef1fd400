"""The world of edits: one thing is changed, nothing else, and it is what the instruction says."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.worlds.edits import oracle
from data_pipelines.worlds.edits import world as edits
from data_pipelines.worlds.edits.world import KINDS, EditsConfig

CONFIG = EditsConfig()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_else_changes(kind):
    for index in range(6):
        made = edits.clip(dataclasses.replace(CONFIG, kinds=(kind,)), index)
        before, after, changed = made.fields["before"], made.video, made.fields["changed"]
        np.testing.assert_array_equal((before != after).any(-1), changed)
        assert 0 < changed.mean() < 0.2
        old, new = made.attributes["before"], made.attributes["objects"]
        assert len(new) - len(old) == {"add": 1, "remove": -1}.get(kind, 0)
        differing = [(a, b) for a, b in zip(old, new) if a != b] if len(old) == len(new) else []
        assert len(differing) == (kind in ("recolour", "reshape"))
        if kind == "recolour":
            edge = 0.35 * before.max(initial=0)
            lit = (before.max(-1) > edge) == (after.max(-1) > edge)
            assert lit.mean() > 0.99  # the same shape at the same place


def test_clip_depends_on_its_index_alone_and_kinds_cycle():
    first = [edits.clip(CONFIG, i, seed=2) for i in range(8)]
    assert [e.attributes["kind"] for e in first] == list(KINDS) * 2
    for index in reversed(range(8)):
        again = edits.clip(CONFIG, index, seed=2)
        np.testing.assert_array_equal(first[index].video, again.video)
        np.testing.assert_array_equal(first[index].fields["before"], again.fields["before"])
        assert first[index].caption == again.caption


def test_a_clip_may_be_empty_before_or_after():
    config = dataclasses.replace(CONFIG, objects=1)
    gone = edits.clip(dataclasses.replace(config, kinds=("remove",)), 0)
    assert gone.video.max() == 0 < gone.fields["before"].max()
    assert gone.fields["tracks"].shape == (8, 0, 2)
    assert gone.fields["flow_visible"].all()


def test_the_oracle_is_right_on_real_pairs_and_sceptical_about_others():
    figures = oracle.check(CONFIG, 128)
    assert {f.name: f.value for f in figures if not f.ok} == {}


def test_two_edits_at_once_are_none():
    before = [edits.clip(CONFIG, i) for i in range(12)]
    before = [e.fields["before"] for e in before if "white" not in {s["colour"] for s in e.attributes["before"]}]
    assert len(before) > 3
    for video in before:
        assert oracle.read_edit(video, video, CONFIG) is None
        assert oracle.read_edit(video, video[..., [1, 2, 0]], CONFIG) is None  # both in other colours


@pytest.mark.parametrize(
    ("field", "value"),
    [("height", 8), ("frames", 1), ("objects", 4), ("objects", 3), ("kinds", ("paint",)), ("size", (0.5, 0.4))],
)
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match="^size: " if (field, value) == ("objects", 3) else f"^{field}: "):
        dataclasses.replace(CONFIG, **{field: value})
