"""Captions: one of several by its probability, and those of mirror images."""

import collections
import json

import numpy as np
import pytest

from data_pipelines.loading.captions import drawn, mirrored
from data_pipelines.worlds.sprites import world as sprites
from data_pipelines.worlds.sprites.world import SpritesConfig
from vdm_jax.errors import RunError


@pytest.mark.parametrize(("text", "mirror"), [
    ("a red square moves left slowly", "a red square moves right slowly"),
    ("A ball at the Left, another at the RIGHT", "A ball at the Right, another at the LEFT"),
    ("leftmost, right-handed, the left-hand side", "rightmost, left-handed, the right-hand side"),
    ("it turns clockwise, then counterclockwise", "it turns counterclockwise, then clockwise"),
    ("ein Ball rollt nach links zum rechten Rand", "ein Ball rollt nach rechts zum linken Rand"),
    ("it is right of the tree", "it is left of the tree"),
    ("moves up-left", "moves up-right"),
    ("to the left the cat sits", "to the right the cat sits"),
    ("", ""),
])  # fmt: skip
def test_left_and_right_are_exchanged_and_back(text, mirror):
    assert mirrored(text) == mirror
    assert mirrored(mirror) == text


@pytest.mark.parametrize("text", [
    "a bright cleft in an upright fright", "she left the room", "it stops right away, all right", "a right angle",
    "a red square moves up", "Linksammlung und Rechtschreibung",
])  # fmt: skip
def test_what_is_no_direction_stays(text):
    assert mirrored(text) == text


def test_every_caption_of_sprites_is_that_of_the_mirror_image():
    swapped = {"left": "right", "right": "left"}
    for combination in sprites.combinations(SpritesConfig()):
        text = sprites.caption(combination)
        expected = " ".join(swapped.get(word, word) for word in text.split())
        assert mirrored(text) == expected
        assert mirrored(expected) == text


def test_captions_are_drawn_by_their_probability():
    labels = json.dumps({"captions": [["a", 0.5], ["b", 0.0], ["c", 1.5]]})
    draws = (np.arange(1000) + 0.5) / 1000
    counts = collections.Counter(drawn("own", labels, draw) for draw in draws)
    assert counts == {"a": 250, "c": 750}
    assert drawn("own", labels, 1 - 1e-17) == "c"


@pytest.mark.parametrize("labels", ["{}", '{"caption": "x"}', '{"captions": null}', '{"other": "\\"captions\\""}'])
def test_without_captions_it_is_the_one_of_the_record(labels):
    assert drawn("own", labels, 0.3) == "own"


@pytest.mark.parametrize(
    "captions", [[], "text", [["a"]], [["a", -1]], [["a", "b"]], [[1, 1]], [["a", 0]], [["a", True]], [["a", 1e999]]]
)
def test_captions_that_cannot_be_drawn_from_are_refused(captions):
    with pytest.raises(RunError, match=r"captions: .* is no list of \[text, probability\]"):
        drawn("own", json.dumps({"captions": captions}), 0.5)
