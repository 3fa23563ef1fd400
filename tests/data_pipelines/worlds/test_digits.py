"""The world of digits: reproducible, inside the frame, bouncing, and read back by its oracle."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.worlds.digits import oracle as digits_oracle
from data_pipelines.worlds.digits import world as digits
from data_pipelines.worlds.digits.world import Digit, DigitsConfig
from data_pipelines.worlds.drawing import glyphs

CONFIG = DigitsConfig()


def test_clip_depends_on_its_index_alone():
    first = [digits.clip(CONFIG, i, seed=3) for i in range(4)]
    again = {i: digits.clip(CONFIG, i, seed=3) for i in reversed(range(4))}
    for i, example in enumerate(first):
        np.testing.assert_array_equal(example.video, again[i].video)
        assert (example.caption, example.attributes) == (again[i].caption, again[i].attributes)
    assert not np.array_equal(first[0].video, digits.clip(CONFIG, 0, seed=4).video)


@pytest.mark.parametrize("size", [(16, 16, 1), (128, 64, 3), (31, 47, 5)])
def test_digits_stay_inside_and_are_painted_where_the_masks_are(size):
    config = DigitsConfig(height=size[0], width=size[1], frames=size[2])
    for index in range(3):
        made = digits.clip(config, index)
        assert made.video.shape == (size[2], *size[:2], 3)
        masks = made.fields["masks"]
        assert (made.video.max(-1)[masks > 0] >= 127).all()
        assert made.fields["tracks"].min() >= 0
        assert (made.fields["tracks"].max((0, 1)) <= [size[1], size[0]]).all()


def test_motion_is_straight_between_the_walls_and_folded_at_them():
    config = DigitsConfig(digits=1, frames=40)
    for index in range(12):
        made = digits.clip(config, index)
        steps = np.diff(made.fields["tracks"][:, 0], axis=0)
        speed = np.abs(steps)
        free = np.isclose(speed, np.median(speed, 0), atol=1e-3)
        assert free.mean() > 0.7
        turns, bounces = (np.diff(np.sign(steps), axis=0) != 0).sum(), made.attributes["objects"][0]["bounces"]
        assert bounces - 2 <= turns <= bounces  # those within the last step are not seen as such
        towards = digits.HEADINGS[made.attributes["objects"][0]["heading"]]
        np.testing.assert_array_equal(np.sign(steps[0]), towards)


def test_the_same_digit_is_written_differently_and_digits_differ():
    rng = np.random.default_rng(0)
    x = np.linspace(-1, 1, 24, dtype=np.float32)
    drawn = [
        [glyphs.write(d, rng, glyphs.Hand()).distance(x[None], x[:, None], 1.0) <= 0 for _ in range(6)]
        for d in range(10)
    ]
    for kind in drawn:
        assert len({picture.tobytes() for picture in kind}) == 6
    means = np.array([np.mean(kind, 0) for kind in drawn])
    apart = np.abs(means[:, None] - means).mean((2, 3))[~np.eye(10, dtype=bool)]
    assert apart.min() > 0.05


def test_captions_are_read_back():
    for combo in digits.combinations(CONFIG):
        assert digits.parse_caption(digits.caption([combo])) == (combo,)
    made = digits.clip(CONFIG, 5)
    assert [d.colour for d in digits.parse_caption(made.caption)] == [o["colour"] for o in made.attributes["objects"]]
    assert digits.clip(dataclasses.replace(CONFIG, frames=1), 0).caption.count("moves") == 0


def test_held_out_digits_are_not_in_training():
    train, val = digits.hold_out(CONFIG, 0.25, 0)
    seen = {part for i in range(120) for part in train(i, 0).caption.split(" and ")}
    assert not seen & {part for i in range(60) for part in val(i, 1).caption.split(" and ")}


def test_the_oracle_is_right_on_real_clips_and_sceptical_about_others():
    figures = digits_oracle.check(CONFIG, 40)
    assert {f.name: f.value for f in figures if not f.ok} == {}


def test_the_oracle_says_what_it_sees():
    made = digits.clip(CONFIG, 3, seed=1)
    readings = digits_oracle.read(made.video[None], CONFIG)[0]
    assert digits_oracle.agree(readings, made.caption)
    first = digits.parse_caption(made.caption)[0]
    other = Digit(first.colour, next(n for n in glyphs.NAMES if n != first.digit), first.heading)
    assert not digits_oracle.agree(readings, made.caption.replace(digits.caption([first]), digits.caption([other])))
    assert digits_oracle.read(np.zeros((1, 4, 32, 32, 3), np.uint8), CONFIG) == [[]]


@pytest.mark.parametrize(
    ("field", "value"),
    [("height", 8), ("digits", 4), ("colours", ("red",)), ("colours", ("red", "pink")), ("size", (0.5, 0.4)),
     ("size", (0.4, 0.6)), ("speed", (0.6, 0.3)), ("speed", (1.0, 9.0))],
)  # fmt: skip
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(CONFIG, **{field: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a red tree moves to the upper left", "digit: unknown 'tree'; did you mean 'three'"),
        ("red three", "not of the form"),
    ],
)
def test_wrong_captions_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        digits.parse_caption(text)
