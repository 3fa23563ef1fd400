"""VP with a scaled signal: what it shares with VP, and what not."""

import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import VP, ScaledVP, process_from, process_to_dict

TIMES = jnp.float32([[0.0, 0.001, 0.2, 0.3995], [0.4, 0.401, 0.9, 1.0]])


def test_a_scale_of_one_is_vp():
    scaled, plain = ScaledVP(signal=1.0), VP(prediction="eps")
    for ours, theirs in zip(scaled.alpha_sigma(TIMES), plain.alpha_sigma(TIMES)):
        np.testing.assert_array_equal(ours, theirs)
    later = jnp.minimum(TIMES + 0.05, 1.0)
    for eta in (0.0, 1.0):
        for ours, theirs in zip(
            scaled.step_coefficients(later, TIMES, eta), plain.step_coefficients(later, TIMES, eta)
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_signal_falls_to_its_scale_and_stays():
    process = ScaledVP(signal=0.7, ramp=400)
    (alpha, sigma), (plain, same) = process.alpha_sigma(TIMES), VP(prediction="eps").alpha_sigma(TIMES)
    np.testing.assert_array_equal(sigma, same)
    wanted = [[1.0, 1.0, 1.0 - 0.3 * 199 / 399, 1.0 - 0.3 * 398.5 / 399], [0.7, 0.7, 0.7, 0.7]]
    np.testing.assert_allclose(alpha / plain, wanted, rtol=1e-6)
    entries = jnp.arange(1001, dtype=jnp.float32) / 1000
    for ours, table in zip(process.alpha_sigma(entries), process.table()):
        np.testing.assert_allclose(ours, table, atol=2e-7)


def test_a_network_that_knows_the_clip_leads_to_it():
    process, rng = ScaledVP(), np.random.default_rng(0)
    clean, noise = (jnp.asarray(rng.standard_normal((2, 4, 3)), jnp.float32) for _ in range(2))
    x = process.q_sample(clean, noise, TIMES)
    np.testing.assert_allclose(process.belief(noise, x, TIMES), clean, atol=2e-4)
    lower = 0.5 * TIMES
    np.testing.assert_allclose(
        process.reverse_step(x, clean, TIMES, lower), process.q_sample(clean, noise, lower), atol=2e-5
    )


def test_it_is_stored_and_checked():
    process = ScaledVP(signal=0.6, ramp=300, schedule="scaled_linear")
    assert process_from(process_to_dict(process)) == process
    for fields, why in (
        ({"signal": 0.0}, "signal: 0.0 must be above 0"),
        ({"ramp": 1}, "ramp: 1 must be 2 to steps=1000"),
        ({"prediction": "v"}, "prediction: 'v' is not what"),
    ):
        with pytest.raises(ValueError, match=why):
            ScaledVP(**fields)
