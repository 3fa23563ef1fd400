"""The oracle of scenes: reads transitions and defects off pixels, and other orders or labels do not fool it."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.worlds.drawing.pictures import luminance, picture
from data_pipelines.worlds.scenes import joins, light, matching
from data_pipelines.worlds.scenes import oracle as scenes_oracle
from data_pipelines.worlds.scenes import world as scenes
from data_pipelines.worlds.scenes.labels import ScenesConfig

CONFIG = ScenesConfig(height=64, width=64, frames=16, duplicates=0.0)


@pytest.fixture(scope="module")
def clips():
    made = [scenes.render(CONFIG, i, 21) for i in range(16)]
    return [(video, labels, scenes_oracle.read(video)) for video, labels in made]


def test_labels_are_read_back(clips):
    told = [verdict for _, labels, reading in clips for verdict in scenes_oracle.agree(reading, labels).items()]
    assert np.mean([right for _, right in told]) >= 0.98
    assert all(right for name, right in told if name in ("content", "letterbox", "pillarbox"))


def test_cuts_are_read_at_their_frames():
    config = dataclasses.replace(CONFIG, transitions=("cut",), defects=())
    for i in range(6):
        video, labels = scenes.render(config, i, 4)
        found = scenes_oracle.read(video).transitions
        assert [(f.kind, f.start) for f in found] == [("cut", t.start) for t in labels.transitions]


def test_another_order_is_told(clips):
    cut = [(video, labels) for video, labels, _ in clips if labels.transitions and not labels.has("dark")][:3]
    rng = np.random.default_rng(0)
    for video, labels in cut:
        reading = scenes_oracle.read(rng.permutation(video))
        assert not scenes_oracle.agree(reading, labels).get("transitions", False)


@pytest.mark.parametrize("noise", [0.0, 2.0, 8.0])
def test_what_stands_still_is_told_from_what_hardly_moves(noise):
    rng = np.random.default_rng(3)
    whole = luminance(picture(rng, 64, 68, 16))
    moves = np.stack([whole[:, :64], 0.5 * (whole[:, :64] + whole[:, 1:65]), whole[:, 1:65]])  # by half a pixel
    stands = np.stack([whole[:, :64], 0.7 * whole[:, :64] + 20, whole[:, :64]])  # in another light
    for luma, expected in ((moves, [False] * 3), (stands, [False, True, True])):
        seen = luma + noise * rng.standard_normal(luma.shape)
        assert light.stillness(seen, np.ones(luma.shape, bool)).tolist() == expected


def test_a_held_picture_is_no_still_clip_and_focus_is_no_motion():
    sharp, still = np.full(24, 0.6), np.ones(24, bool)
    still[0] = still[1] = still[2] = False  # it moves twice, and is held from then on
    assert light.freezes(still, sharp)
    assert not light.stands(still, sharp)
    sharp[8:20], still[1:3], still[[8, 20]] = 0.1, True, False  # out of focus for a while
    assert light.stands(still, sharp)
    alone = np.zeros(24, bool)
    alone[[4, 5, 9]] = True
    assert not light.freezes(alone, np.full(24, 0.6))


def test_what_is_over_exposed_is_told_by_its_channels():
    rng = np.random.default_rng(5)
    whole = picture(rng, 64, 65, 16).astype(np.float32)
    shifted = np.stack([whole[:, :64], whole[:, :64], whole[:, 1:]])  # it stands, then moves by a pixel
    video = np.clip(shifted * (2.4, 1.5, 2.4) + rng.standard_normal(shifted.shape), 0, 255)
    seen = video < 248
    little = seen.all(-1) & (np.arange(64) < 4)  # a narrow strip is too little
    channels = [(video[..., c] / 1.5, seen[..., c]) for c in range(3)]
    assert not light.stillness(luminance(video), little).any()
    assert light.stillness(luminance(video), little, channels).tolist() == [False, True, False]


def test_another_exposure_is_no_cut_and_another_shot_is():
    rng = np.random.default_rng(8)
    one, two = (picture(rng, 64, 64, 16).astype(np.float32) for _ in range(2))
    for first, second, cuts in ((one, 2.4 * one, 0), (2.4 * one, one, 0), (one, 2.4 * two, 1), (2.4 * one, two, 1)):
        video = np.minimum(np.stack([first] * 8 + [second] * 8), 255).astype(np.uint8)
        found = scenes_oracle.read(video).transitions
        assert [(f.kind, f.start) for f in found] == [("cut", 8)] * cuts


def test_frames_are_exposed_alike():
    one = picture(np.random.default_rng(9), 64, 64, 16)
    lit = np.minimum(2.2 * one.astype(np.float32), 255).astype(np.uint8)
    for pair in ((one, lit), (lit, one)):
        first, second = light.exposed_alike(np.stack(pair), np.ones((2, 64, 64), bool))
        assert np.abs(first - second).max() < 4


def test_bars_leave_no_rim_that_would_be_found_again():
    rng = np.random.default_rng(6)
    frames = luminance(np.stack([picture(rng, 64, 64, 16) for _ in range(2)]))
    whole = matching.detail(frames, np.ones((2, 32, 32), bool))
    inside = np.zeros(frames.shape, bool)
    inside[:, 16:48] = True
    seen = matching.usable(inside)
    within = matching.detail(np.where(inside, frames, 2), seen)
    assert not within[~seen].any()
    beside = slice(8, 10)
    assert abs(within[:, beside].mean() - whole[:, beside].mean()) < 0.1 * whole.std()


def test_where_frames_beyond_a_step_are_linked_it_is_no_cut():
    frames = np.array([0, 2, 3, 4, 5, 6])  # a flash is left out
    again = {1: np.array([0.3, 1, 0.1, 1, 1]), 2: np.array([0.3, np.inf, 0.2, 1]), 4: np.array([0.8, 0.9])}
    np.testing.assert_array_equal(joins._over(again, frames), [0.8, 1, 0.2, 1, 1])


def test_what_is_found_again_beyond_it_was_lost_for_other_reasons():
    again = {lag: np.ones(24 - lag) for lag in joins.LINKED}
    again[4][6:9] = again[8][2:9] = 0.1
    again[16][:] = 0.2
    (found,) = joins._breaks(again, np.arange(24), np.zeros(25, bool))
    assert (found.kind, found.start, found.stop) == ("dissolve", 7, 10)
    alone = {lag: shares.copy() for lag, shares in again.items()}
    alone[4][6:8] = alone[8][2:9] = 1
    assert not joins._breaks(alone, np.arange(24), np.zeros(25, bool))
    again[16][2] = 0.5  # frames 2 and 18 show one shot
    assert not joins._breaks(again, np.arange(24), np.zeros(25, bool))


def test_too_little_of_a_picture_tells_no_transitions():
    rng = np.random.default_rng(4)
    video = np.concatenate([np.stack([picture(rng, 64, 64, 16)] * 6) for _ in range(2)])
    assert [f.kind for f in scenes_oracle.read(video).transitions] == ["cut"]
    for left in (slice(0, 20), slice(44, 64)):
        video[:, :, left] = 2
    video[:, 28:36] = np.where(np.arange(64)[:, None] % 8 < 4, 255, 0)  # a line of something like writing
    assert scenes_oracle.read(video).transitions is None


def test_bars_are_read_beside_a_page_of_dark_paper():
    video = np.full((16, 64, 64, 3), (24, 30, 22), np.uint8)
    video[:, 30:34, 10:30:4] = 200  # letters
    assert scenes_oracle.content_box(video) == (0, 64, 0, 64)
    video[:, :12] = video[:, 52:] = 3
    assert scenes_oracle.content_box(video) == (12, 52, 0, 64)
    under_exposed = (picture(np.random.default_rng(7), 64, 64, 16) * 0.1).astype(np.uint8)
    under_exposed[:12] = under_exposed[52:] = 3
    assert scenes_oracle.content_box(np.stack([under_exposed] * 4)) == (0, 64, 0, 64)


def test_writing_that_changes_is_told_from_writing_that_stays():
    written = np.zeros((5, 8, 8), bool)
    written[1:3, 2, 1:6] = written[3:, 5, 1:6] = True
    written[2, 2, 1] = False  # a letter is missed
    assert scenes_oracle.rewritten(written).tolist() == [False, True, False, True, False]


def test_the_halves_of_a_fade_are_one():
    halves = [joins.Found("fade", 6, 19), joins.Found("fade", 6, 9)]
    assert joins._joined([*halves, joins.Found("fade", 24, 28)]) == [
        joins.Found("fade", 6, 19),
        joins.Found("fade", 24, 28),
    ]


@pytest.mark.parametrize(("index", "seed"), [(151, 1), (209, 5)])
def test_a_fade_to_white_is_seen_beside_writing(index, seed):
    video, labels = scenes.render(ScenesConfig(duplicates=0.0), index, seed)
    assert {t.kind for t in labels.transitions} == {"fade"}
    reading = scenes_oracle.read(video)
    assert "writing" in reading.defects
    assert scenes_oracle.agree(reading, labels)["transitions"]


def test_a_dissolve_has_less_contrast_than_its_shots():
    flat = np.full(24, 0.3)
    found = joins.Found("dissolve", 8, 14)
    assert not joins._dips(flat, found, (0, 24))
    mixed = flat.copy()
    mixed[8:14] = 0.3 * np.array((0.88, 0.76, 0.71, 0.71, 0.76, 0.88))
    assert joins._dips(mixed, found, (0, 24))
    flat[15:] = 0.4  # the shot after the next cut
    assert not joins._dips(flat, found, (0, 15))


def test_a_step_within_a_short_dissolve_is_no_cut():
    contrast = np.full(24, 0.3)
    assert not joins._mixed(contrast, 9, (0, 24))
    contrast[9] = 0.2  # the new shot begins with less
    assert not joins._mixed(contrast, 9, (0, 24))
    contrast[8] = 0.22
    assert joins._mixed(contrast, 9, (0, 24))
    assert not joins._mixed(contrast, 9, (8, 24))


def test_noise_shows_no_defect_but_its_own():
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), np.uint8)
    reading = scenes_oracle.read(noise)
    assert not reading.defects & {"still", "slide", "freeze", "letterbox", "pillarbox", "dark", "flash", "flicker"}


def test_the_oracle_needs_enough_to_see():
    with pytest.raises(ValueError, match="height: 32; the oracle of scenes needs at least 48"):
        scenes_oracle.check(ScenesConfig(height=32))
    with pytest.raises(ValueError, match="video: expected uint8"):
        scenes_oracle.read(np.zeros((4, 8, 8, 3), np.float32))
