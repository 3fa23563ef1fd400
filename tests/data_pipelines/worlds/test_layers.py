"""Layers: what is said of a moving object is what its pixels do."""

import numpy as np
import pytest

from data_pipelines.worlds.drawing import layers
from data_pipelines.worlds.drawing.layers import Layer

SIZE = (24, 32)


def disc(colour, start, step, radius, frames=5):
    centres = np.asarray(start, float) + np.arange(frames)[:, None] * np.asarray(step, float)
    return Layer(colour, centres, (radius, radius), lambda x, y: np.hypot(x, y) - np.float32(radius))


def paint(*objects, frames=5):
    return layers.paint(np.full((frames, *SIZE, 3), 40, np.uint8), objects)


def random_discs(seed, count=4):
    rng = np.random.default_rng(seed)
    return [
        disc(rng.uniform(80, 255, 3), rng.uniform(2, 22, 2), rng.integers(-3, 4, 2), rng.uniform(2, 7))
        for _ in range(count)
    ]


def test_coverage_is_the_area_and_the_mask_is_half_of_it():
    video, masks = paint(disc((240, 240, 240), (12.3, 11.6), (0.7, 0.3), 6.0))
    assert (video[..., 0].astype(float) - 40).sum((1, 2)) / 200 == pytest.approx(np.pi * 36, rel=0.01)
    assert (masks == 1).sum((1, 2)) == pytest.approx(np.pi * 36, rel=0.05)
    assert (video[..., 0][masks > 0] >= 140).all()
    assert (video[..., 0][masks == 0] <= 140).all()


@pytest.mark.parametrize("seed", range(8))
def test_following_the_flow_gives_the_next_frame_where_it_is_seen(seed):
    """Whole steps, so that no pixel lies between two: then colours and objects follow the flow exactly."""
    objects = random_discs(seed)
    video, masks = paint(*objects)
    fields = layers.truth(masks, objects)
    t, i, j = np.nonzero(fields["flow_visible"])
    steps = np.rint(fields["flow"][t, i, j]).astype(int)
    there = t + 1, i + steps[:, 1], j + steps[:, 0]
    np.testing.assert_array_equal(masks[there], masks[t, i, j])
    y, x = np.indices(SIZE) + 0.5
    mixed = np.zeros(masks.shape, bool)  # edges mix with what is behind them, which moves otherwise
    for layer in objects:
        for k, (cx, cy) in enumerate(layer.centres):
            mixed[k] |= np.abs(layer.distance(x - cx, y - cy)) < 0.5
    kept = ~mixed[t, i, j] & ~mixed[there]
    assert kept.mean() > 0.5
    np.testing.assert_array_equal(video[there][kept], video[t, i, j][kept])


@pytest.mark.parametrize("seed", range(8))
def test_what_is_not_seen_any_more_is_hidden_or_outside(seed):
    objects = random_discs(seed)
    _, masks = paint(*objects)
    fields = layers.truth(masks, objects)
    t, i, j = np.nonzero(~fields["flow_visible"])
    steps = np.rint(fields["flow"][t, i, j]).astype(int)
    y, x = i + steps[:, 1], j + steps[:, 0]
    outside = (y < 0) | (x < 0) | (y >= SIZE[0]) | (x >= SIZE[1])
    assert len(t) > 20
    assert (masks[t + 1, y % SIZE[0], x % SIZE[1]][~outside] > masks[t, i, j][~outside]).all()


@pytest.mark.parametrize("seed", range(4))
def test_tracks_are_seen_where_the_masks_show_them(seed):
    objects = random_discs(seed)
    _, masks = paint(*objects)
    fields = layers.truth(masks, objects)
    for n in range(len(objects)):
        for t, (x, y) in enumerate(fields["tracks"][:, n]):
            inside = 0 <= x < SIZE[1] and 0 <= y < SIZE[0]
            shown = inside and masks[t, int(y), int(x)] == n + 1
            near_edge = inside and abs(x - round(x)) + abs(y - round(y)) > 0  # its pixel's centre is another point
            assert fields["tracks_visible"][t, n] == shown or near_edge


def test_an_object_that_leaves_the_frame_is_cut_off():
    gone = disc((255, 255, 255), (4, 12), (-6, 0), 3.0)
    video, masks = paint(gone)
    assert masks[0].any()
    assert not masks[-1].any()
    assert (video[-1] == 40).all()
    assert layers.truth(masks, [gone])["tracks_visible"][:, 0].tolist() == [True, False, False, False, False]
