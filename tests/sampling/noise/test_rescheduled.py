import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion.leaves import noise_like
from vdm_jax.sampling.noise import Rescheduled, draw, noise_from

KEY = jax.random.key(7)
SOURCE = Rescheduled(window=6, stride=2)
NOISE = np.asarray(SOURCE(KEY, jnp.zeros((16, 3, 2)), {}))


def test_a_clip_of_one_window_is_the_plain_draw_bit_for_bit():
    like = jnp.zeros((6, 3, 2))
    np.testing.assert_array_equal(SOURCE(KEY, like, {}), noise_like(KEY, like))


def test_the_first_frames_are_the_plain_draw():
    np.testing.assert_array_equal(NOISE[:6], noise_like(KEY, jnp.zeros((16, 3, 2)))[:6])


def test_every_block_is_a_permutation_of_the_one_a_window_before():
    shuffled = False
    for f in range(6, 16, 2):
        block, source = NOISE[f : f + 2], NOISE[f - 6 : f - 4]
        found = [int(np.flatnonzero([(frame == old).all() for old in source])[0]) for frame in block]
        assert sorted(found) == [0, 1]
        shuffled |= found != [0, 1]
    assert shuffled


def test_every_frame_holds_the_noise_of_one_of_the_first():
    order = np.asarray(SOURCE.order(jax.random.key(1), 16))
    assert set(order) == set(range(6))
    np.testing.assert_array_equal(order[:6], range(6))


def test_frames_are_standard_normal_and_differ_between_clips():
    clips = draw(SOURCE, jax.random.split(KEY, 64), jnp.zeros((64, 16, 6, 6)), {})
    np.testing.assert_allclose(clips.std(axis=(0, 2, 3)), 1.0, atol=0.06)
    np.testing.assert_allclose(clips.mean(axis=(0, 2, 3)), 0.0, atol=0.08)
    assert (clips[0] != clips[1]).any()
    alone = draw(SOURCE, jax.random.split(KEY, 64)[3:4], jnp.zeros((1, 16, 6, 6)), {})
    np.testing.assert_array_equal(clips[3], alone[0])


def test_leaves_of_a_clip_are_shuffled_alike():
    both = SOURCE(KEY, {"a": jnp.zeros((10, 2)), "b": jnp.zeros((10, 3))}, {})
    order = np.asarray(SOURCE.order(jax.random.fold_in(KEY, 0x5C4ED), 10))
    for leaf in both.values():
        np.testing.assert_array_equal(leaf, np.asarray(leaf)[:6][order])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"window": 0}, "noise.window: 0 must be 1 or more"),
        ({"stride": 20}, "noise.stride: 20 must be 1 to window=16"),
        ({"strides": 4}, "noise.strides: unknown 'strides'; did you mean 'stride'"),
    ],
)
def test_wrong_settings_are_named(section, message):
    with pytest.raises(ValueError, match=message):
        noise_from({"kind": "rescheduled", **section}, "noise")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (4, "frames: 4 is less than the window of 6 frames"),
        (9, "frames: 9 is not the window of 6 and whole blocks of 2; the nearest that are: 8 and 10"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        SOURCE(KEY, jnp.zeros((frames, 1)), {})
