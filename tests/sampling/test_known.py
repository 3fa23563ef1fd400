import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import RectifiedFlow, noise_like
from vdm_jax.sampling import Known, replace_known

PROCESS = RectifiedFlow()
FRAMES = jnp.array([[True, False, False], [False, False, True]])


@pytest.fixture(scope="module")
def x():
    return noise_like(jax.random.key(0), jnp.zeros((2, 3, 4, 4, 1)))


@pytest.fixture(scope="module")
def truth():
    return jax.random.uniform(jax.random.key(1), (2, 3, 4, 4, 1))


@pytest.fixture
def spy():
    seen = {}

    def denoiser(x, t, cond):
        seen.update(x=x, t=t)
        return jnp.tanh(x)

    return denoiser, seen


def region():
    return jnp.zeros((2, 3, 4, 4, 1), bool).at[:, :, :2].set(True)


@pytest.mark.parametrize(("way", "told"), [("clean", 0.0), ("shared", 0.6), ("renoise", 0.6)])
def test_what_the_network_sees_of_given_frames(spy, x, truth, way, told):
    denoiser, seen = spy
    noise = noise_like(jax.random.key(2), x)
    x0_hat = replace_known(denoiser, PROCESS, Known(FRAMES, truth), noise, way)(x, 0.6, {})
    shown = PROCESS.q_sample(truth, noise, 0.6) if way == "renoise" else truth
    for b, i in np.ndindex(2, 3):
        given = bool(FRAMES[b, i])
        np.testing.assert_array_equal(seen["x"][b, i], (shown if given else x)[b, i])
        assert seen["t"][b, i] == np.float32(told if given else 0.6)
        expected = truth[b, i] if given else jnp.tanh(x)[b, i]
        np.testing.assert_array_equal(x0_hat[b, i], expected)


def test_frame_masks_default_to_clean_and_regions_to_renoise(spy, x, truth):
    denoiser, seen = spy
    replace_known(denoiser, PROCESS, Known(FRAMES, truth))(x, 0.6, {})
    assert seen["t"][0, 0] == 0.0
    noise = noise_like(jax.random.key(2), x)
    x0_hat = replace_known(denoiser, PROCESS, Known(region(), truth), noise)(x, 0.6, {})
    np.testing.assert_array_equal(seen["x"][:, :, :2], PROCESS.q_sample(truth, noise, 0.6)[:, :, :2])
    np.testing.assert_array_equal(seen["x"][:, :, 2:], x[:, :, 2:])
    np.testing.assert_array_equal(x0_hat[:, :, :2], truth[:, :, :2])


def test_nothing_depends_on_x_where_it_is_known(x, truth):
    informed = replace_known(lambda x, t, cond: jnp.cumsum(x, axis=1), PROCESS, Known(FRAMES, truth))
    changed = jnp.where(FRAMES[:, :, None, None, None], 9.0, x)
    np.testing.assert_array_equal(informed(x, 0.5, {}), informed(changed, 0.5, {}))


def test_dicts_are_pasted_leaf_by_leaf(x, truth):
    clip, value = {"v": x, "a": x[..., 0, 0, 0]}, {"v": truth, "a": truth[..., 0, 0, 0]}
    x0_hat = replace_known(lambda x, t, cond: x, PROCESS, Known(FRAMES, value))(clip, 0.5, {})
    np.testing.assert_array_equal(x0_hat["a"][0, 0], value["a"][0, 0])
    np.testing.assert_array_equal(x0_hat["v"][0, 0], value["v"][0, 0])
    np.testing.assert_array_equal(x0_hat["a"][0, 1], clip["a"][0, 1])


@pytest.mark.parametrize(
    ("known", "settings", "message"),
    [
        (lambda v: Known(FRAMES.astype(jnp.float32), v), {}, "must be bool"),
        (lambda v: Known(FRAMES[:, :2], v), {}, r"does not start with \[B, T\]"),
        (lambda v: Known(FRAMES, v[..., :2, :]), {}, "value shape"),
        (lambda v: Known(FRAMES, {"video": v}), {}, "other leaves"),
        (lambda v: Known(region()[:, :, :3], v), {"way": "shared"}, "does not fit"),
        (lambda v: Known(region(), v), {"way": "clean"}, "needs a frame mask"),
        (lambda v: Known(region(), v), {}, "noise: missing"),
        (lambda v: Known(FRAMES, v), {"way": "claen"}, "did you mean 'clean'"),
    ],
)
def test_wrong_known_content_is_refused(x, truth, known, settings, message):
    with pytest.raises(ValueError, match=message):
        replace_known(lambda x, t, cond: x, PROCESS, known(truth), **settings)(x, 0.5, {})
