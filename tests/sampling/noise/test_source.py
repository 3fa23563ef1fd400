import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion.rectified_flow import RectifiedFlow
from vdm_jax.sampling.noise import INDEPENDENT, draw

KEYS = jax.random.split(jax.random.key(0), 3)


@dataclasses.dataclass(frozen=True)
class Shifted:
    """Plain noise of which a picture is the mean."""

    variance = 1.0
    reads = frozenset({"picture"})

    def __call__(self, rng, like, given):
        return INDEPENDENT(rng, like, given) + given["picture"]


def test_an_example_draws_the_same_whatever_batch_it_is_in():
    like = jnp.zeros((3, 2, 4, 4, 1))
    noise = draw(INDEPENDENT, KEYS, like, {})
    alone = draw(INDEPENDENT, KEYS[1:2], like[:1], {})
    np.testing.assert_array_equal(noise[1], alone[0])
    assert abs(float(noise.std()) - 1) < 0.1


def test_a_source_reads_what_it_names_and_nothing_else():
    like, picture = jnp.zeros((3, 2, 1)), jnp.arange(3.0).reshape(3, 1, 1)
    noise = draw(Shifted(), KEYS, like, {"picture": picture, "unrelated": "text"})
    np.testing.assert_allclose(
        noise - draw(INDEPENDENT, KEYS, like, {}), jnp.broadcast_to(picture, noise.shape), atol=1e-6
    )
    with pytest.raises(ValueError, match="noise: Shifted needs picture"):
        draw(Shifted(), KEYS, like, {"video": like})


def test_the_prior_takes_noise_that_was_drawn_elsewhere():
    process = RectifiedFlow()
    like = jnp.zeros((3, 2, 1))
    key = jax.random.key(5)
    noise = jax.random.normal(key, like.shape)
    np.testing.assert_array_equal(process.prior(key, like), process.prior(None, like, noise))
