"""Cutting: boxes, sizes, and which frames make which clip."""

import numpy as np
import pytest

from data_pipelines.curation import cutting


@pytest.mark.parametrize("size", [(180, 320), (320, 180), (17, 400), (64, 64)])
@pytest.mark.parametrize("target", [(16, 16), (32, 48), (48, 32)])
def test_box_is_the_largest_centred_one(size, target):
    left, top, right, bottom = cutting.centre_box(*size, *target)
    assert (right - left) / (bottom - top) == pytest.approx(target[1] / target[0])
    assert left + right == pytest.approx(size[1])
    assert top + bottom == pytest.approx(size[0])
    assert min(left, top) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("size", [(37, 91), (91, 37), (8, 8)])
def test_resized_picture_has_the_size_and_the_middle(size):
    picture = np.zeros((*size, 3), np.uint8)
    picture[size[0] // 2 - 4 : size[0] // 2 + 5, size[1] // 2 - 4 : size[1] // 2 + 5] = 200
    small = cutting.resize_crop(picture, 16, 16)
    assert small.shape == (16, 16, 3)
    assert small.dtype == np.uint8
    assert (small[7:9, 7:9] > 190).all()


def test_circle_stays_round():
    y, x = np.mgrid[:90, :160] + 0.5
    picture = np.repeat((((x - 80) ** 2 + (y - 45) ** 2 < 30**2) * 255).astype(np.uint8)[..., None], 3, 2)
    small = cutting.resize_crop(picture, 45, 45)[..., 0] / 255
    assert small.sum(0).max() == pytest.approx(30, abs=0.5)
    assert small.sum(1).max() == pytest.approx(30, abs=0.5)


def test_shrinking_does_not_alias():
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    small = cutting.resize_crop(stripes, 16, 16)
    assert np.abs(small.astype(int) - 127).max() <= 6


def test_right_size_is_left_alone():
    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    assert cutting.resize_crop(picture, 16, 24) is picture


@pytest.mark.parametrize(("frames", "stride"), [(4, 4), (4, 1), (4, 3), (2, 5), (1, 1), (20, 4)])
@pytest.mark.parametrize("total", [3, 4, 20, 23])
def test_clips_are_the_windows(frames, stride, total):
    timed = [(k / 10, np.full((4, 4, 3), k, np.uint8)) for k in range(total)]
    cuts = list(cutting.cut_clips(timed, frames, stride, 4, 4))
    starts = list(range(0, total - frames + 1, stride))
    assert [c.pixels[:, 0, 0, 0].tolist() for c in cuts] == [list(range(s, s + frames)) for s in starts]
    assert [(c.start, c.end) for c in cuts] == [(s / 10, (s + frames - 1) / 10) for s in starts]


def test_a_clip_does_not_change_afterwards():
    timed = ((k / 10, np.full((4, 4, 3), k, np.uint8)) for k in range(6))
    first, second = list(cutting.cut_clips(timed, 4, 2, 4, 4))
    assert first.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert second.pixels[:, 0, 0, 0].tolist() == [2, 3, 4, 5]
