import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import VP
from vdm_jax.sampling.known import Known
from vdm_jax.sampling.noise.similar import FrameSimilarityPrior, blur
from vdm_jax.sampling.sampler import sample
from vdm_jax.sampling.tau import from_level, uniform

PROCESS = VP(prediction="eps")
IMAGE = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
LIKE = jnp.zeros((2, 200, 8, 8, 3))
KEY = jax.random.key(1)


def test_the_picture_stays_and_the_others_have_the_moments_of_their_level():
    prior = FrameSimilarityPrior(t0=0.3, p=0.25, blur_size=5)
    x = prior.start(KEY, PROCESS, IMAGE, LIKE, frame=2)
    np.testing.assert_array_equal(x[:, 2], IMAGE)
    others = np.delete(np.asarray(x), 2, axis=1)
    alpha, sigma = (float(v) for v in PROCESS.alpha_sigma(jnp.float32(0.3)))
    soft = blur(IMAGE, 18.0, 5)
    mean = alpha * (0.75 * IMAGE + 0.25 * soft)
    variance = sigma**2 + alpha**2 * 0.25 * 0.75 * (IMAGE - soft) ** 2
    assert abs(others.mean(1) - mean).max() < 5 * float(variance.max()) ** 0.5 / 199**0.5
    np.testing.assert_allclose((others.var(1) / variance).mean(), 1.0, atol=0.02)


@pytest.mark.parametrize(("p", "whole"), [(0.0, True), (1.0, False)])
def test_p_is_the_share_that_is_blurred(p, whole):
    tiny = 1e-4  # hardly any noise
    x = FrameSimilarityPrior(t0=tiny, p=p).start(KEY, PROCESS, IMAGE, LIKE[:, :2])
    wanted = IMAGE if whole else blur(IMAGE, 18.0, 9)
    np.testing.assert_allclose(x[:, 1], wanted, atol=0.1)


def test_at_the_highest_level_it_is_not_plain_noise():
    x = FrameSimilarityPrior(p=0.0).start(KEY, PROCESS, 50 * IMAGE, LIKE)
    alpha = float(PROCESS.alpha_sigma(jnp.float32(1.0))[0])
    assert alpha > 0
    np.testing.assert_allclose(x[:, 1:].mean(1), alpha * 50 * IMAGE, atol=0.4)


def test_a_blur_is_a_mean_by_a_gaussian():
    flat = jnp.full((1, 4, 6, 1), 0.7)
    np.testing.assert_allclose(blur(flat, 2.0, 5), flat, rtol=1e-6)
    point = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4, 0].set(1.0)
    row = np.exp(-0.5 * (np.arange(-2, 3) / 1.5) ** 2)
    row /= row.sum()
    np.testing.assert_allclose(blur(point, 1.5, 5)[0, 2:7, 2:7, 0], np.outer(row, row), rtol=1e-5)


def test_sampling_goes_on_from_there_and_keeps_the_picture():
    prior = FrameSimilarityPrior(t0=0.6, p=0.5, blur_size=3)
    like = LIKE[:, :4]
    x = prior.start(KEY, PROCESS, IMAGE, like)
    tau = uniform(from_level(PROCESS.levels(5), prior.level(PROCESS)), 4)
    mask = jnp.zeros((2, 4), bool).at[:, 0].set(True)
    known = Known(mask, jnp.zeros(like.shape).at[:, 0].set(IMAGE))
    out = sample(lambda x, t, cond: jnp.zeros_like(x), PROCESS, x, tau, {}, known=known)
    np.testing.assert_array_equal(out[:, 0], IMAGE)
    np.testing.assert_allclose(out[:, 1:], 0.0, atol=1e-6)
    assert tau[0, 0] == np.float32(0.6)
    np.testing.assert_allclose(tau[:, 1], [0.6, 0.4, 0.2, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"t0": 0.0}, "t0: 0.0 must be above 0 and at most 1"),
        ({"t0": 1.5}, "t0: 1.5 must be above 0"),
        ({"p": -0.1}, "p: -0.1 must lie between 0 and 1"),
        ({"blur_sigma": 0.0}, "blur_sigma: 0.0 must be above 0"),
        ({"blur_size": 4}, "blur_size: 4 must be odd"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FrameSimilarityPrior(**fields)


def test_wrong_pictures_are_refused():
    prior = FrameSimilarityPrior()
    with pytest.raises(ValueError, match=r"image: shape \(2, 4, 8, 3\), the clip .* needs"):
        prior.start(KEY, PROCESS, IMAGE[:, :4], LIKE)
    with pytest.raises(ValueError, match="a clip of one frame, the picture itself; nothing is left to generate"):
        prior.start(KEY, PROCESS, IMAGE, LIKE[:, :1])
    with pytest.raises(ValueError, match="frame: 4 is not in a clip of 4 frames"):
        prior.start(KEY, PROCESS, IMAGE, LIKE[:, :4], frame=4)
    with pytest.raises(ValueError, match="blur_size: 17 is too wide for 8 x 8; at most 15"):
        FrameSimilarityPrior(blur_size=17).start(KEY, PROCESS, IMAGE, LIKE)
