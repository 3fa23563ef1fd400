import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import DDIM, RectifiedFlow
from vdm_jax.diffusion.windows import Windows
from vdm_jax.sampling import sample, uniform
from vdm_jax.sampling.codenoise import codenoised

PROCESS = RectifiedFlow(prediction="x0")
WINDOWS = Windows(size=4, stride=2)
FRAMES = 8
X = jax.random.normal(jax.random.key(0), (2, FRAMES, 3))
COND = {"tokens": jnp.ones((2, 1, 1))}


def mixed(x_t, t, cond):
    """A belief that depends on all frames of a window, their order, and the prompt."""
    order = jnp.arange(1.0, x_t.shape[1] + 1)[:, None]
    tokens = cond["tokens"] if cond["tokens"].ndim == 3 else cond["tokens"].mean(1)
    return jnp.tanh(x_t + (order * x_t).mean(1, keepdims=True)) * t[..., None] + tokens


def test_one_window_is_the_denoiser_bit_for_bit():
    whole = codenoised(mixed, Windows(FRAMES, 3))
    np.testing.assert_array_equal(whole(X, 0.5, COND), mixed(X, jnp.full((2, FRAMES), 0.5), COND))


def test_windows_side_by_side_are_clips_by_themselves():
    long = codenoised(mixed, Windows(4, 4))(X, 0.5, COND)
    for part in (slice(0, 4), slice(4, 8)):
        np.testing.assert_array_equal(long[:, part], mixed(X[:, part], jnp.full((2, 4), 0.5), COND))


def test_overlaps_are_weighted_means():
    beliefs = [mixed(X[:, s : s + 4], jnp.full((2, 4), 0.5), COND) for s in (0, 2, 4)]
    long = codenoised(mixed, WINDOWS)(X, 0.5, COND)
    np.testing.assert_allclose(long[:, 2], (2 * beliefs[0][:, 2] + 1 * beliefs[1][:, 0]) / 3, rtol=1e-5)
    np.testing.assert_allclose(long[:, 3], (1 * beliefs[0][:, 3] + 2 * beliefs[1][:, 1]) / 3, rtol=1e-5)


def test_windows_that_agree_give_what_they_agree_on():
    x = jnp.broadcast_to(X[:, :1], X.shape)
    one = mixed(x[:, :4], jnp.full((2, 4), 0.5), COND)
    same = lambda x_t, t, cond: mixed(x_t, t, cond).mean(1, keepdims=True) + jnp.zeros_like(x_t)  # noqa: E731
    long = codenoised(same, WINDOWS)(x, 0.5, COND)
    np.testing.assert_allclose(long, jnp.broadcast_to(one.mean(1, keepdims=True), X.shape), rtol=1e-6)


def test_averaging_beliefs_then_a_step_is_a_step_then_averaging():
    t, s = 0.8, 0.6
    times = [jnp.full((2, n), level) for n in (FRAMES, 4) for level in (t, s)]
    after, _, _ = DDIM().step(lambda x, t: codenoised(mixed, WINDOWS)(x, t, COND), PROCESS, X, *times[:2], (), None)
    steps = [
        DDIM().step(lambda x, t: mixed(x, t, COND), PROCESS, X[:, i : i + 4], *times[2:], (), None)[0]
        for i in (0, 2, 4)
    ]
    np.testing.assert_allclose(after, WINDOWS.fuse(jnp.stack(steps, 1), FRAMES, axis=1), atol=1e-5)


def test_one_after_the_other_gives_the_same():
    plain, mapped = (codenoised(mixed, WINDOWS, one_by_one=one)(X, 0.5, COND) for one in (False, True))
    np.testing.assert_allclose(plain, mapped, rtol=1e-6)


def test_conditions_of_frames_are_cut_and_windows_may_be_told_their_own():
    per_frame = {"tokens": jnp.broadcast_to(jnp.arange(FRAMES, dtype=jnp.float32)[:, None, None], (2, FRAMES, 1, 1))}
    told = lambda x_t, t, cond: jnp.broadcast_to(cond["tokens"].mean((1, 2, 3))[:, None, None], x_t.shape)  # noqa: E731
    np.testing.assert_allclose(codenoised(told, Windows(4, 4))(X, 0.5, per_frame)[0, :, 0], [1.5] * 4 + [5.5] * 4)
    own = [{"tokens": jnp.full((1, 1, 1), float(i))} for i in range(3)]
    heard = lambda x_t, t, cond: jnp.broadcast_to(cond["tokens"], x_t.shape)  # noqa: E731
    long = codenoised(heard, WINDOWS, own)(X, 0.5, COND)
    np.testing.assert_allclose(long[0, :, 0], [0, 0, 1 / 3, 2 / 3, 1 + 1 / 3, 1 + 2 / 3, 2, 2], rtol=1e-5)


def test_it_samples():
    tau = uniform(np.linspace(1, 0, 4, dtype=np.float32), FRAMES)
    clip = sample(codenoised(mixed, WINDOWS), PROCESS, X, tau, COND)
    assert clip.shape == X.shape
    assert jnp.isfinite(clip).all()


@pytest.mark.parametrize(
    ("windows", "conditions", "cond", "message"),
    [
        (Windows(16, 4), None, COND, "frames: 8 is less than a window of 16"),
        (Windows(5, 2), None, COND, "frames: 8 leaves the last 1 in no window"),
        (WINDOWS, [COND] * 2, COND, "conditions: 2 for the 3 windows of 8 frames"),
        (WINDOWS, [{"tokens": jnp.ones((3, 1, 1))}] * 3, COND, "conditions: 3 entries of a window for 2 clips"),
        (WINDOWS, None, {"tokens": jnp.ones((2, 5, 1, 1))}, "tokens is given for 5 frames, the clip has 8"),
    ],
)
def test_what_does_not_fit_is_refused(windows, conditions, cond, message):
    with pytest.raises(ValueError, match=message):
        codenoised(mixed, windows, conditions)(X, 0.5, cond)
