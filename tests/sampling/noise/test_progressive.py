import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion.leaves import noise_like
from vdm_jax.sampling.noise import Progressive, draw, noise_from

KEY = jax.random.key(0)


def test_frames_have_unit_variance_and_the_correlation_of_the_formula():
    source = Progressive(alpha=2.0)
    noise = np.asarray(draw(source, jax.random.split(KEY, 2000), jnp.zeros((2000, 5, 8)), {}))
    assert source.variance == 1.0
    np.testing.assert_allclose(noise.var(axis=(0, 2)), 1.0, atol=0.05)
    frames = noise.transpose(1, 0, 2).reshape(5, -1)
    expected = (2 / 5**0.5) ** np.abs(np.arange(5)[:, None] - np.arange(5))
    np.testing.assert_allclose(np.corrcoef(frames), expected, atol=0.03)


def test_alpha_zero_is_the_plain_draw_bit_for_bit():
    like = jnp.zeros((4, 3))
    np.testing.assert_array_equal(Progressive(0.0)(KEY, like, {}), noise_like(KEY, like))


@pytest.mark.parametrize("alpha", [-1.0, float("inf"), float("nan")])
def test_an_alpha_that_is_none_is_named(alpha):
    with pytest.raises(ValueError, match="noise.alpha: .* must be 0 or more"):
        noise_from({"kind": "progressive", "alpha": alpha}, "noise")
