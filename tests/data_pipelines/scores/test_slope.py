"""Slopes of luma, to the last bit."""

import numpy as np
import pytest

from data_pipelines.curation.scores.slope import slope

pytest.importorskip("cv2", reason="the extra `curate` is not installed")


def test_a_ramp_has_its_slope():
    ramp = np.tile(3 * np.arange(40, dtype=np.uint8), (20, 1))
    np.testing.assert_array_equal(slope(ramp)[:, 1:-1], 3)
    np.testing.assert_array_equal(slope(ramp.T.copy())[1:-1], 3)


def test_it_is_the_gradient_and_rounded_once():
    """So nothing is left that could be rounded otherwise elsewhere; of `cv2.magnitude`, every fourth value would be."""
    noise = np.random.default_rng(0).integers(0, 256, (61, 83), np.uint8)

    def derivative(luma):
        step = luma[:, 2:] - luma[:, :-2]
        return step[:-2] + 2 * step[1:-1] + step[2:]

    across, down = derivative(noise.astype(np.int64)), derivative(noise.T.astype(np.int64)).T
    expected = (np.sqrt(across**2 + down**2) / 8).astype(np.float32)
    assert slope(noise)[1:-1, 1:-1].tobytes() == expected.tobytes()
