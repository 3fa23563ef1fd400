import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion.leaves import expand, frame_times, leading_shape, map_frames, noise_like, select_frames


def test_per_frame_quantities_reach_leaves_of_any_rank():
    clip = {"video": jnp.ones((2, 3, 4, 5, 1)), "audio": jnp.ones((2, 3, 7)), "score": jnp.ones((2, 3))}
    scale = jnp.arange(6.0).reshape(2, 3)
    scaled = map_frames(lambda x, s: s * x, (clip,), (scale,))
    for name, leaf in scaled.items():
        assert leaf.shape == clip[name].shape
        assert np.array_equal(leaf, np.broadcast_to(expand(scale, leaf), leaf.shape))


def test_select_frames_is_exact_even_next_to_nan():
    yes, no = jnp.full((1, 2, 3), 0.1), jnp.full((1, 2, 3), jnp.nan)
    picked = select_frames(jnp.array([[True, False]]), yes, no)
    assert np.array_equal(picked[:, 0], yes[:, 0])
    assert np.isnan(picked[:, 1]).all()


def test_noise_differs_between_leaves_and_is_standard_normal():
    like = {"a": jnp.zeros((2, 3, 4000)), "b": jnp.zeros((2, 3, 4000))}
    noise = noise_like(jax.random.key(0), like)
    assert abs(np.corrcoef(noise["a"].ravel(), noise["b"].ravel())[0, 1]) < 0.03
    assert abs(float(noise["a"].mean())) < 0.03
    assert abs(float(noise["a"].std()) - 1.0) < 0.03
    assert np.array_equal(
        noise_like(jax.random.key(1), like["a"]), noise_like(jax.random.key(1), {"a": like["a"]})["a"]
    )


@pytest.mark.parametrize("t", [0.5, np.full(2, 0.5), np.full((2, 1), 0.5), np.full((2, 3), 0.5)])
def test_times_broadcast(t):
    assert np.array_equal(frame_times(t, jnp.zeros((2, 3, 4))), np.full((2, 3), 0.5, np.float32))


def test_a_bare_time_per_frame_is_refused():
    with pytest.raises(ValueError, match=r"time: shape \(3,\)"):
        frame_times(np.zeros(3), jnp.zeros((2, 3, 4)))


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"a": jnp.zeros((2, 3)), "b": jnp.zeros((2, 4))}, r"'b'.*\(2, 4\)"),
        (jnp.zeros(3), "no \\[B, T\\]"),
        ({}, "no arrays"),
    ],
)
def test_clips_without_common_frames_are_refused(clip, message):
    with pytest.raises(ValueError, match=message):
        leading_shape(clip)
