"""The world of retrieval: captions that are true, and others that nearly are."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.worlds.retrieval import oracle
from data_pipelines.worlds.retrieval import world as retrieval
from data_pipelines.worlds.retrieval.world import NEGATIVES, RetrievalConfig

CONFIG = RetrievalConfig()
CLIPS = [retrieval.clip(CONFIG, i) for i in range(24)]


def words(text):
    return sorted(map(repr, retrieval.parse_caption(text)))


def test_negatives_are_one_step_off():
    for made in CLIPS:
        true = retrieval.parse_caption(made.caption)
        assert {"colour", "shape", "direction", "count"} <= set(made.attributes["negatives"])
        for kind, text in made.attributes["negatives"].items():
            other = retrieval.parse_caption(text)
            assert words(text) != words(made.caption)
            if kind == "count":
                assert abs(len(other) - len(true)) == 1
                continue
            off = [
                sum(getattr(a, f) != getattr(b, f) for f in ("colour", "shape", "direction"))
                for a, b in zip(true, other)
            ]
            assert sorted(off) == ([1, 1] if kind.startswith("swap") else [0, 1])
            if kind.startswith("swap"):  # the same words in another order
                field = "colour" if kind == "swap" else "shape"
                assert sorted(getattr(s, field) for s in true) == sorted(getattr(s, field) for s in other)


def test_exchanges_need_two_that_differ():
    alone = retrieval.clip(dataclasses.replace(CONFIG, objects=1), 0)
    assert set(alone.attributes["negatives"]) == {"colour", "shape", "direction", "count"}
    assert any("swap_shape" not in made.attributes["negatives"] for made in CLIPS)


def test_captions_are_read_back_in_any_order():
    made = CLIPS[0]
    first, second = retrieval.parse_caption(made.caption)
    assert retrieval.caption([first, second]) == made.caption
    assert oracle.score(made.video, retrieval.caption([second, first]), CONFIG) == 1
    with pytest.raises(ValueError, match="does not begin with the number"):
        retrieval.parse_caption(made.caption.replace("two shapes", "three shapes"))


def test_the_true_caption_scores_highest():
    for made in CLIPS:
        scores = [oracle.score(made.video, text, CONFIG) for text in made.attributes["negatives"].values()]
        assert oracle.score(made.video, made.caption, CONFIG) == 1 > max(scores)


def test_the_oracle_is_right_on_real_clips_and_sceptical_about_others():
    figures = oracle.check(CONFIG, 100)
    assert {f.name: f.value for f in figures if not f.ok} == {}
    assert {f"real/negative_{kind}" for kind in NEGATIVES} < {f.name for f in figures}


def test_clip_depends_on_its_index_alone():
    again = retrieval.clip(CONFIG, 7)
    np.testing.assert_array_equal(again.video, CLIPS[7].video)
    assert (again.caption, again.attributes) == (CLIPS[7].caption, CLIPS[7].attributes)


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 200), ("frames", 1), ("objects", 0), ("negatives", ("color",)), ("size", (0.3, 0.45))],
)
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(CONFIG, **{field: value})
