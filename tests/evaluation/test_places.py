import numpy as np

from vdm_jax.evaluation.places import bright_places


def test_each_channel_has_a_place_of_its_own():
    video = np.full((2, 3, 6, 8, 2), -1.0)
    video[:, :, 1, 6, 0] = 1.0
    video[:, :, 2:4, 0:2, 1] = 1.3  # beyond white
    found = bright_places(video)
    assert found.shape == (2, 3, 2, 2)
    np.testing.assert_allclose(found[..., 0, :], np.broadcast_to([6.5, 1.5], (2, 3, 2)), rtol=1e-6)
    np.testing.assert_allclose(found[..., 1, :], np.broadcast_to([1.0, 3.0], (2, 3, 2)), rtol=1e-6)
    np.testing.assert_allclose(bright_places(video, 2.0), 2 * found, rtol=1e-6)


def test_what_is_half_as_bright_counts_a_quarter_or_a_half():
    row = np.array([-1.0, 1.0, 0.0, -1.0]).reshape(1, 4, 1)
    np.testing.assert_allclose(bright_places(row), [[(1.5 + 0.25 * 2.5) / 1.25, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(bright_places(row, power=1.0), [[(1.5 + 0.5 * 2.5) / 1.5, 0.5]], rtol=1e-6)
