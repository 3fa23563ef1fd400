"""The oracle: right on real clips, sceptical about everything else."""

import numpy as np
import pytest

from data_pipelines.worlds.sprites import oracle
from data_pipelines.worlds.sprites import world as sprites
from data_pipelines.worlds.sprites.world import SpritesConfig
from vdm_jax.media import video as media

CONFIG = SpritesConfig()
N = 256  # each combination once


@pytest.fixture(scope="module")
def real():
    made = [sprites.clip(CONFIG, i, seed=11) for i in range(N)]
    return np.stack([e.video for e in made]), [e.caption for e in made]


def as_float(clips):
    return clips.astype(np.float32) / 127.5 - 1


def test_real_clips_are_read_right(real):
    scores = oracle.agreement(*real, CONFIG)
    assert scores["overall"] >= 0.99
    assert scores["speed"] >= 0.99


@pytest.mark.parametrize(
    "config",
    [
        SpritesConfig(shapes=sprites.SHAPES),
        SpritesConfig(background=0.25),
        SpritesConfig(height=24, width=33, frames=5),
        SpritesConfig(size=(0.3, 0.5), travel=(0.1, 0.4)),
    ],
    ids=["six-shapes", "dim-background", "oblong", "wide-ranges"],
)
def test_other_worlds_are_read_right(config):
    made = [sprites.clip(config, 7 * i, seed=2) for i in range(100)]
    assert oracle.agreement(np.stack([e.video for e in made]), [e.caption for e in made], config)["overall"] >= 0.99


def test_float_and_uint8_are_read_alike(real):
    clips, _ = real
    for a, b in zip(oracle.read(clips[:32], CONFIG), oracle.read(as_float(clips[:32]), CONFIG)):
        assert (a.colour, a.shape, a.direction, a.speed) == (b.colour, b.shape, b.direction, b.speed)
        assert a.confidence == pytest.approx(b.confidence, abs=1e-3)


def test_reading_does_not_depend_on_the_batch(real):
    clips, _ = real
    assert oracle.read(clips[:8], CONFIG) == [oracle.read(clips[i : i + 1], CONFIG)[0] for i in range(8)]


def test_reversed_time_turns_the_direction_only(real):
    clips, captions = real
    scores = oracle.agreement(clips[:, ::-1], captions, CONFIG)
    assert scores["direction"] == scores["overall"] == 0
    assert min(scores["colour"], scores["shape"], scores["speed"]) >= 0.99


def test_mirroring_turns_left_and_right_only(real):
    clips, captions = real
    scores = oracle.agreement(clips[:, :, :, ::-1], captions, CONFIG)
    assert scores["direction"] == 0.5


def test_swapped_channels_change_the_colour_only(real):
    clips, captions = real
    scores = oracle.agreement(clips[..., [1, 2, 0]], captions, CONFIG)
    assert scores["colour"] == 1 / 8  # white stays white
    assert min(scores["shape"], scores["direction"]) >= 0.99


def test_still_clips_have_no_direction(real):
    clips, _ = real
    still = np.repeat(clips[:32, :1], 8, axis=1)
    readings = oracle.read(still, CONFIG)
    assert all(r.shape is not None and r.direction is None and r.speed is None for r in readings)


@pytest.mark.parametrize("kind", ["uniform", "gauss", "black", "grey", "scrambled", "half of the frames"])
def test_nothing_is_found_where_nothing_is(real, kind):
    clips, captions = real
    rng = np.random.default_rng(0)
    if kind == "uniform":
        bad = rng.integers(0, 256, clips.shape, dtype=np.uint8)
    elif kind == "gauss":
        bad = rng.normal(size=clips.shape).astype(np.float32)
    elif kind == "scrambled":
        bad = rng.permuted(clips.reshape(N, 8, 256, 3), axis=2).reshape(clips.shape)
    elif kind == "half of the frames":
        bad = clips * (np.arange(8) % 2 == 0).astype(np.uint8)[None, :, None, None, None]
    else:
        bad = np.full_like(clips, 0 if kind == "black" else 128)
    readings = oracle.read(bad, CONFIG)
    assert sum(r.colour is not None for r in readings) <= N // 50
    assert oracle.agreement(bad, captions, CONFIG)["overall"] <= 0.02


def test_noise_and_blur_of_a_good_sample_are_forgiven(real):
    clips, captions = real
    rng = np.random.default_rng(1)
    noisy = as_float(clips) + 0.1 * rng.normal(size=clips.shape)
    blurred = as_float(clips)
    for axis in (2, 3):
        blurred = (np.roll(blurred, 1, axis) + 2 * blurred + np.roll(blurred, -1, axis)) / 4
    coded = np.stack([media.decode(media.encode_mp4(clip, 8)) for clip in clips[:64]])
    assert oracle.agreement(noisy, captions, CONFIG)["overall"] >= 0.99
    assert oracle.agreement(blurred, captions, CONFIG)["overall"] >= 0.9
    assert oracle.agreement(coded, captions[:64], CONFIG)["overall"] >= 0.9


def test_dim_samples_keep_their_colour(real):
    clips, captions = real
    assert oracle.agreement((clips * 0.5).astype(np.uint8), captions, CONFIG)["colour"] >= 0.99


def test_agree_judges_one_clip(real):
    clips, captions = real
    keys = {"colour", "shape", "direction", "speed", "overall"}
    assert oracle.agree(clips[3], captions[3], CONFIG) == dict.fromkeys(keys, True)
    without_speed = captions[3].rsplit(" ", 1)[0]
    assert oracle.agree(clips[3], without_speed, CONFIG) == dict.fromkeys(keys, True)
    other = sprites.parse_caption(captions[3])
    wrong = sprites.Sprite("blue", other.shape, other.direction, other.speed)
    verdict = oracle.agree(clips[3], wrong, CONFIG)
    assert (verdict["colour"], verdict["shape"], verdict["overall"]) == (False, True, False)


def test_nan_is_not_a_sprite():
    readings = oracle.read(np.full((2, 8, 16, 16, 3), np.nan, np.float32), CONFIG)
    assert [r.colour for r in readings] == [None, None]


@pytest.mark.parametrize(
    ("videos", "config", "message"),
    [
        (np.zeros((8, 16, 16, 3), np.uint8), CONFIG, "videos: expected"),
        (np.zeros((1, 8, 16, 16, 3), np.int32), CONFIG, "videos: expected uint8 or float"),
        (np.zeros((1, 8, 16, 16, 3), np.uint8), SpritesConfig(objects=2), "objects: 2"),
    ],
)
def test_wrong_input_is_named(videos, config, message):
    with pytest.raises(ValueError, match=message):
        oracle.read(videos, config)


def test_captions_must_match_the_clips(real):
    with pytest.raises(ValueError, match="captions: 2 for 3 clips"):
        oracle.agreement(real[0][:3], real[1][:2], CONFIG)
