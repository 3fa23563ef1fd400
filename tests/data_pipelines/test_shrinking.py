"""Means of blocks of pixels."""

import numpy as np
import pytest

from data_pipelines.loading.shrinking import averaged, shrink


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_rounded_means_are_the_means_rounded(factor):
    video = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), np.uint8)
    means = averaged(video, factor)
    assert (means.dtype, means.shape) == (np.float32, (3, 8 // factor, 12 // factor, 3))
    np.testing.assert_array_equal(shrink(video, factor), np.floor(means + 0.5))


def test_means_of_many_clips_are_those_of_each():
    videos = np.random.default_rng(0).normal(size=(2, 3, 8, 8, 1)).astype(np.float32)
    np.testing.assert_array_equal(averaged(videos, 2)[1], averaged(videos[1], 2))
    np.testing.assert_allclose(averaged(videos, 2)[0, 1, 2, 3, 0], videos[0, 1, 4:6, 6:8, 0].mean(), rtol=1e-6)
