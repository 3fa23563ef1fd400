import numpy as np
import pytest

from vdm_jax.media.colour import match_colours

DRAWN = np.random.default_rng(0)


def test_a_brightened_frame_comes_back():
    first = DRAWN.integers(0, 200, (16, 16, 3), dtype=np.uint8)
    video = np.stack([first, first + 40, first])
    matched = match_colours(video)
    np.testing.assert_array_equal(matched, np.stack([first] * 3))


def test_each_channel_gets_the_histogram_and_keeps_its_order():
    video = DRAWN.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    video[1] = video[1] // 3 + 20
    matched = match_colours(video, frame=2)
    np.testing.assert_array_equal(matched[2], video[2])
    for channel in range(3):
        quantiles = np.linspace(0.05, 0.95, 10)
        got, wanted = (np.quantile(x[..., channel], quantiles) for x in (matched[1], video[2]))
        np.testing.assert_allclose(got, wanted, atol=5)
        order = np.argsort(video[1, ..., channel], axis=None, kind="stable")
        assert (np.diff(matched[1, ..., channel].ravel()[order].astype(int)) >= 0).all()


def test_wrong_clips_are_refused():
    with pytest.raises(ValueError, match=r"video: float32 \(1, 2, 2, 3\) must be uint8"):
        match_colours(np.zeros((1, 2, 2, 3), np.float32))
    with pytest.raises(ValueError, match="frame: 1 is not in a clip of 1 frames"):
        match_colours(np.zeros((1, 2, 2, 3), np.uint8), 1)
