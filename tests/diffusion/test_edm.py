import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import EDMEulerScheduler

from vdm_jax.diffusion import EDM, noise_like
from vdm_jax.diffusion.predictions import convert

SIGMAS = jnp.array([[0.002, 0.1, 0.5, 3.0, 80.0]])


def test_preconditioning_is_that_of_the_paper():
    process, d = EDM(sigma_data=0.7), 0.7
    x = noise_like(jax.random.key(0), jnp.zeros((1, 5, 8)))
    output = noise_like(jax.random.key(1), x)
    sigma = SIGMAS[..., None]
    total = sigma**2 + d**2
    expected = d**2 / total * x + sigma * d / jnp.sqrt(total) * output
    np.testing.assert_allclose(process.belief(output, x, SIGMAS), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(process.network_input(x, SIGMAS), x / jnp.sqrt(total), rtol=1e-6)


def test_targets_and_inputs_have_unit_variance():
    process = EDM(sigma_data=0.5)
    x0 = 0.5 * noise_like(jax.random.key(0), jnp.zeros((1, 5, 20_000)))
    noise = noise_like(jax.random.key(1), x0)
    x_t = process.q_sample(x0, noise, SIGMAS)
    for clip in (process.target(x0, noise, SIGMAS), process.network_input(x_t, SIGMAS)):
        np.testing.assert_allclose(jnp.std(clip, axis=-1), 1.0, rtol=0.03)


def test_unit_data_makes_the_output_minus_v():
    process = EDM(sigma_data=1.0)
    x0, noise = noise_like(jax.random.key(0), jnp.zeros((1, 5, 8))), noise_like(jax.random.key(1), jnp.zeros((1, 5, 8)))
    alpha = 1 / jnp.sqrt(1 + SIGMAS[..., None] ** 2)
    sigma = SIGMAS[..., None] * alpha
    v = convert(x0, alpha * x0 + sigma * noise, "x0", "v", alpha, sigma)
    # The oracle divides by sigma; compare where that is harmless.
    np.testing.assert_allclose(-process.target(x0, noise, SIGMAS)[:, 1:], v[:, 1:], atol=1e-5)
    named = EDM(prediction="v", sigma_data=1.0)
    np.testing.assert_array_equal(named.target(x0, noise, SIGMAS), -process.target(x0, noise, SIGMAS))
    x_t = named.q_sample(x0, noise, SIGMAS)
    np.testing.assert_allclose(named.belief(named.target(x0, noise, SIGMAS), x_t, SIGMAS), x0, atol=2e-4)


def test_levels_are_those_of_diffusers():
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    scheduler.set_timesteps(18)
    np.testing.assert_allclose(EDM().levels(18), scheduler.sigmas.numpy(), rtol=1e-5)


def test_what_the_network_is_told():
    sigmas = jnp.array([0.0, 0.002, 80.0])
    np.testing.assert_allclose(EDM().network_time(sigmas), [0.0, 0.0, 1000.0], atol=1e-3)
    np.testing.assert_allclose(EDM(told="quarter_log").network_time(sigmas)[1:], np.log(sigmas[1:]) / 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sigma_min": 0.0}, "sigma_min"),
        ({"prediction": "eps"}, "prediction: unknown 'eps'"),
        ({"sigma_max": 0.001}, "sigma_min"),
        ({"sigma_data": -1.0}, "sigma_data"),
        ({"rho": 0.0}, "rho"),
        ({"told": "quarter"}, "did you mean 'quarter_log'"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        EDM(**fields)
