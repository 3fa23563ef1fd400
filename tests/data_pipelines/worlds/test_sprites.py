"""The world of sprites: reproducible, inside the frame, and its captions say what is drawn."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.worlds.drawing import shapes
from data_pipelines.worlds.sprites import world as sprites
from data_pipelines.worlds.sprites.world import Sprite, SpritesConfig

CONFIG = SpritesConfig()
EVERYTHING = SpritesConfig(shapes=sprites.SHAPES)


def draw(sprite, config=CONFIG, seed=0):
    return sprites.render(sprite, np.random.default_rng(seed), config).video


def test_clip_depends_on_its_index_alone():
    first = [sprites.clip(CONFIG, i, seed=3) for i in range(6)]
    again = {i: sprites.clip(CONFIG, i, seed=3) for i in reversed(range(6))}
    for i, example in enumerate(first):
        np.testing.assert_array_equal(example.video, again[i].video)
        assert (example.caption, example.attributes) == (again[i].caption, again[i].attributes)
    assert not np.array_equal(first[0].video, sprites.clip(CONFIG, 0, seed=4).video)


@pytest.mark.parametrize("size", [(16, 16, 8), (16, 24, 1), (31, 17, 3), (64, 64, 16)])
def test_shape_and_type(size):
    height, width, frames = size
    pixels = sprites.clip(SpritesConfig(height=height, width=width, frames=frames), 0).video
    assert pixels.shape == (frames, height, width, 3)
    assert pixels.dtype == np.uint8


def test_combinations_are_all_and_cycle():
    combos = sprites.combinations(CONFIG)
    assert len(set(combos)) == len(combos) == 8 * 4 * 4 * 2
    assert [sprites.attributes(i, CONFIG)[0] for i in range(len(combos))] == list(combos)
    assert sprites.attributes(len(combos) + 5, CONFIG)[0] == combos[5]


@pytest.mark.parametrize("shape", sprites.SHAPES)
@pytest.mark.parametrize("direction", sprites.DIRECTIONS)
def test_whole_sprite_stays_inside_and_moves_as_said(shape, direction):
    for speed, travel in zip(sprites.SPEEDS, CONFIG.travel):
        for seed in range(5):
            mass = draw(Sprite("white", shape, direction, speed), EVERYTHING, seed).astype(float)[..., 0] / 255
            total = mass.sum((1, 2))
            assert total.min() > 0.93 * total.max()  # nothing leaves the frame
            x = (mass.sum(1) @ np.arange(16)) / total
            y = (mass.sum(2) @ np.arange(16)) / total
            way = np.array([x[-1] - x[0], y[-1] - y[0]])
            np.testing.assert_allclose(way, 16 * travel * np.array(sprites.DIRECTIONS[direction]), atol=0.15)


def test_speed_means_the_same_at_every_length():
    ways = []
    for frames in (2, 5, 32):
        column = draw(Sprite("white", "square", "right", "quickly"), SpritesConfig(frames=frames)).mean((1, 3))
        ways.append(np.diff((column @ np.arange(16) / column.sum(1))[[0, -1]]))
    np.testing.assert_allclose(ways, np.full((3, 1), SpritesConfig().travel[1] * 16), atol=0.05)


@pytest.mark.parametrize(("name", "rgb"), sprites.COLOURS.items())
def test_colour_and_background(name, rgb):
    config = SpritesConfig(background=0.2)
    pixels = draw(Sprite(name, "square", "left"), config).reshape(-1, 3)
    values, counts = np.unique(pixels, axis=0, return_counts=True)
    most, second = values[np.argsort(counts)[::-1][:2]]
    assert tuple(most) == (51, 51, 51)
    assert tuple(second) == rgb


def test_coverage_is_the_area():
    for shape, area in {"square": 4, "circle": np.pi, "triangle": 2, "cross": 20 / 9, "diamond": 2}.items():
        drawn = shapes.coverage(shape, np.array([[32.3, 31.6], [30.0, 33.5]]), 20.0, 64, 64)
        assert drawn.shape == (2, 64, 64)
        np.testing.assert_allclose(drawn.sum((1, 2)), area * 20**2, rtol=0.01)


def test_coverage_moves_with_its_centre():
    for shape in sprites.SHAPES:
        here, there = shapes.coverage(shape, np.array([[10.2, 9.7], [13.2, 11.7]]), 4.0, 24, 24)
        np.testing.assert_allclose(np.roll(here, (2, 3), (0, 1)), there, atol=1e-5)


def test_later_objects_lie_on_top():
    config = SpritesConfig(objects=2)
    red, blue = Sprite("red", "square", "left"), Sprite("blue", "circle", "up")
    pixels = draw((red, blue), config)
    np.testing.assert_array_equal(pixels[..., 2].max((1, 2)), np.full(8, 255))
    alone = draw(red, config)
    covered = pixels[..., 2] > 0
    np.testing.assert_array_equal(pixels[~covered], alone[~covered])


def test_captions_are_read_back():
    for sprite in sprites.combinations(EVERYTHING):
        assert sprites.parse_caption(sprites.caption(sprite)) == sprite
    pair = sprites.attributes(7, SpritesConfig(objects=2))
    assert sprites.parse_captions(sprites.caption(pair)) == pair


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red square moves left slowly", Sprite("red", "square", "left", "slowly")),
        ("An  orange circle\nmoves up. ", Sprite("orange", "circle", "up", None)),
    ],
)
def test_captions_as_people_write_them(text, expected):
    assert sprites.parse_caption(text) == expected


def test_article_fits():
    assert sprites.caption(Sprite("orange", "ring", "down", None)) == "an orange ring moves down"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a rd square moves left slowly", "colour: unknown 'rd'; did you mean 'red'"),
        ("a red sqare moves left", "shape: unknown 'sqare'; did you mean 'square'"),
        ("a red square moves leftwards", "direction: .*'left'"),
        ("red square", "not of the form"),
        ("a red square moves left and a blue ring moves up", "speaks of 2 sprites"),
    ],
)
def test_wrong_captions_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        sprites.parse_caption(text)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fraction", [0, 0.1, 0.25, 0.6])
def test_split_holds_out_captions_but_no_word(fraction, seed):
    train, held_out = sprites.split(fraction, seed, CONFIG)
    everything = sprites.combinations(CONFIG)
    assert sorted(map(sprites.caption, train + held_out)) == sorted(map(sprites.caption, everything))
    assert len(held_out) == round(fraction * len(everything))
    for field in ("colour", "shape", "direction", "speed"):
        assert {getattr(s, field) for s in train} == {getattr(s, field) for s in everything}
    assert (train, held_out) == sprites.split(fraction, seed, CONFIG)


def test_split_depends_on_the_seed():
    assert sprites.split(0.25, 0, CONFIG) != sprites.split(0.25, 1, CONFIG)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 0.99])
def test_impossible_splits_are_refused(fraction):
    with pytest.raises(ValueError, match="held_out"):
        sprites.split(fraction, 0, CONFIG)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("height", 8),
        ("width", 256),
        ("frames", 0),
        ("objects", 5),
        ("fps", 0.0),
        ("shapes", ("sqare",)),
        ("shapes", ()),
        ("colours", ("red", "red")),
        ("size", (0.5, 0.4)),
        ("travel", (0.2, 0.6)),
        ("travel", (0.4, 0.2)),
        ("background", 0.9),
    ],
)
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(CONFIG, **{field: value})
