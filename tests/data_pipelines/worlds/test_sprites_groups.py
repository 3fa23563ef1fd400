"""Counts and stories of sprites: drawn as said, known exactly, and read back."""

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest

from data_pipelines.worlds.sprites import groups, oracle
from data_pipelines.worlds.sprites import world as sprites
from data_pipelines.worlds.sprites.world import Sprite, SpritesConfig

CONFIG = SpritesConfig(height=32, width=36, frames=10, size=(0.16, 0.19), counts=(1, 2, 3), events=(1, 2))
N = 100


@pytest.fixture(scope="module")
def real():
    return [sprites.clip(CONFIG, i, seed=5) for i in range(N)]


def test_the_plain_world_is_the_same_beside_them():
    made = [sprites.clip(SpritesConfig(), i, seed=1) for i in range(0, 256, 37)]
    assert hashlib.sha256(b"".join(one.video.tobytes() for one in made)).hexdigest()[:16] == "e5d75df8d551f6d3"
    assert made[1].caption == "a green square moves up quickly"
    assert made[1].attributes == {
        "objects": [{"colour": "green", "shape": "square", "direction": "up", "speed": "quickly"}]
    }


def test_combinations_are_all_and_soon_show_every_word():
    combos = sprites.combinations(CONFIG)
    assert len(set(combos)) == len(combos) == 8 * 4 * (4 + 12) * 2 * 3
    for field in ("colour", "shape", "direction", "speed", "count", "then"):
        assert {getattr(s, field) for s in combos[:N]} == {getattr(s, field) for s in combos}


def test_captions_are_read_back():
    for sprite in sprites.combinations(dataclasses.replace(CONFIG, shapes=sprites.SHAPES, events=(3, 1))):
        assert sprites.parse_caption(sprites.caption(sprite)) == sprite


@pytest.mark.parametrize(
    ("text", "sprite"),
    [
        ("three red squares move left slowly", Sprite("red", "square", "left", "slowly", 3)),
        ("a red square moves left, then up", Sprite("red", "square", "left", None, 1, ("up",))),
        (
            "two orange crosses move up, then left, then down quickly",
            Sprite("orange", "cross", "up", "quickly", 2, ("left", "down")),
        ),
    ],
)
def test_captions_are_english(text, sprite):
    assert (sprites.caption(sprite), sprites.parse_caption(text)) == (text, sprite)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a red square moves left, then upp", "then: unknown 'upp'; did you mean 'up'"),
        ("a red square moves left, then left", "then: 'left' follows itself"),
        ("three red sqares move left", "shape: unknown 'sqares'; did you mean 'square'"),
        ("five red squares move left", "not of the form"),
    ],
)
def test_wrong_captions_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        sprites.parse_caption(text)


def test_copies_are_whole_apart_and_go_the_way_that_is_said(real):
    for made in real:
        said = sprites.parse_caption(made.caption)
        assert len(made.attributes["objects"]) == made.fields["tracks"].shape[1] == said.count
        assert all(thing == said.words() for thing in made.attributes["objects"])
        assert set(np.unique(made.fields["masks"])) == set(range(said.count + 1))
        light = made.video.max(-1).sum((1, 2), dtype=int)
        assert light.min() > 0.9 * light.max()  # nothing leaves the frame, nothing is covered
        tracks = made.fields["tracks"]
        assert made.fields["tracks_visible"].all()
        np.testing.assert_allclose(
            tracks - tracks[:1], np.broadcast_to(tracks[:, :1] - tracks[:1, :1], tracks.shape), atol=1e-4
        )
        way = 32 * CONFIG.travel[sprites.SPEEDS.index(said.speed)]
        corners = np.linspace(0, 9, len(said.path) + 1)
        for word, (k, later) in zip(said.path, itertools.pairwise(corners)):
            k, later = int(np.ceil(k)), int(later)
            expected = np.array(sprites.DIRECTIONS[word]) * way * (later - k) / 9
            np.testing.assert_allclose(tracks[later, 0] - tracks[k, 0], expected, atol=1e-3)


def test_flow_is_the_motion_of_the_copy_that_is_seen(real):
    for made in real[:20]:
        tracks, masks = made.fields["tracks"], made.fields["masks"]
        for k in range(tracks.shape[1]):
            t, i, j = np.nonzero(masks[:-1] == k + 1)
            np.testing.assert_allclose(made.fields["flow"][t, i, j], np.diff(tracks[:, k], axis=0)[t], atol=1e-4)
        assert made.fields["flow_visible"][masks[:-1] > 0].all()


def test_several_kinds_keep_their_numbers():
    config = dataclasses.replace(CONFIG, objects=2)
    made = sprites.clip(config, 4)
    kinds = sprites.parse_captions(made.caption)
    assert kinds == sprites.attributes(4, config)
    assert made.attributes["objects"] == [kind.words() for kind in kinds for _ in range(kind.count)]


@pytest.mark.parametrize(
    "config",
    [CONFIG, SpritesConfig(events=(1, 2)), SpritesConfig(size=(0.26, 0.36), counts=(1, 2), background=0.2)],
    ids=["both", "stories", "counts"],
)
def test_the_oracle_is_right_on_real_clips_and_sceptical_about_others(config):
    figures = {f.name: f for f in oracle.check(config, 64)}
    assert {name: f.value for name, f in figures.items() if not f.ok} == {}
    assert ("real/count" in figures) == ("corrupted/one_missing" in figures) == (config.counts != (1,))
    assert ("real/then" in figures) == ("corrupted/stops_early" in figures) == (config.events != (1,))


def test_noise_is_forgiven_and_other_counts_are_not(real):
    videos = np.stack([made.video for made in real]).astype(np.float32) / 127.5 - 1
    noisy = videos + 0.1 * np.random.default_rng(0).normal(size=videos.shape)
    said = [sprites.parse_caption(made.caption) for made in real]
    assert oracle.agreement(noisy, said, CONFIG)["overall"] >= 0.99
    others = [dataclasses.replace(s, count=s.count % 3 + 1) for s in said]
    scores = oracle.agreement(videos, others, CONFIG)
    assert (scores["count"], scores["overall"], scores["then"]) == (0, 0, 1)


def test_copies_are_counted_with_their_places():
    alpha = np.zeros((2, 12, 12), np.float32)
    alpha[:, 1:4, 2:5] = alpha[:, 8:11, 6:9] = 1
    alpha[1, 8:11, 6:9] = 0
    alpha[1, 11, 11] = 1  # a speck
    both, one = groups.copies(alpha)
    assert sorted(map(tuple, both.tolist())) == [(3.5, 2.5), (7.5, 9.5)]
    np.testing.assert_allclose(one, [(3.5, 2.5)])


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("counts", {"counts": ()}),
        ("counts", {"counts": (5,)}),
        ("events", {"events": (1, 1)}),
        ("events", {"events": (4,)}),
        ("frames", {"events": (2,), "frames": 4}),
        ("size", {"counts": (3,), "size": (0.3, 0.4)}),
    ],
)
def test_wrong_settings_are_named(field, settings):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(CONFIG, **settings)
