import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion.packing import by_frame, places, shares

SEGMENTS = jnp.array([[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 2]])
SIZES = np.array([[3, 2, 1], [1, 4, 1]])


def test_each_clip_counts_its_own_frames():
    assert places(SEGMENTS).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 0]]


def test_what_exists_once_per_clip_reaches_its_frames():
    values = jax.random.normal(jax.random.key(0), (2, 3, 4))
    spread = by_frame(values, SEGMENTS)
    assert spread.shape == (2, 6, 4)
    for b in range(2):
        for t in range(6):
            np.testing.assert_array_equal(spread[b, t], values[b, SEGMENTS[b, t]])


def test_every_clip_weighs_the_same_in_a_mean():
    weights = np.asarray(shares(SEGMENTS, 3))
    frames = np.random.default_rng(0).normal(size=(2, 6))
    clips = [frames[b][np.asarray(SEGMENTS[b]) == k].mean() for b in range(2) for k in range(3)]
    np.testing.assert_allclose((weights * frames).mean(), np.mean(clips), rtol=1e-6)
    np.testing.assert_allclose([[weights[b][SEGMENTS[b] == k].sum() for k in range(3)] for b in range(2)], 2.0)
