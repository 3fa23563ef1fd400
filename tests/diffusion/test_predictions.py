import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion.predictions import PREDICTIONS, convert, error_factor

VP_ANGLES = [0.01, 0.1, 0.8, 1.4, np.pi / 2 - 0.01]
FLOW_TIMES = [0.01, 0.2, 0.5, 0.9, 0.99]
LEVELS = [(np.cos(a), np.sin(a)) for a in VP_ANGLES] + [(1 - t, t) for t in FLOW_TIMES] + [(1.0, 0.5), (1.0, 5.0)]


def every_prediction(alpha, sigma):
    """x_t and each prediction of it in float64, rounded once."""
    rng = np.random.default_rng(0)
    x0, eps = rng.uniform(-1, 1, 64), rng.normal(size=64)
    made = {"x0": x0, "eps": eps, "v": alpha * eps - sigma * x0, "velocity": eps - x0}
    return np.float32(alpha * x0 + sigma * eps), {name: np.float32(value) for name, value in made.items()}


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: f"{level[0]:.3g},{level[1]:.3g}")
def test_all_conversions_agree(level):
    alpha, sigma = np.float32(level[0]), np.float32(level[1])
    x_t, made = every_prediction(np.float64(alpha), np.float64(sigma))
    for source, target in itertools.product(PREDICTIONS, PREDICTIONS):
        got = convert(jnp.asarray(made[source]), x_t, source, target, alpha, sigma)
        # Rounding x_t and y by half a unit in the last place is amplified by what was not predicted.
        amplified = 1.0 / min(1.0, {"x0": sigma, "eps": alpha}.get(source, 1.0))
        np.testing.assert_allclose(got, made[target], atol=1e-5 * max(1.0, 0.05 * amplified), rtol=1e-5)


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("source", ["v", "velocity"])
def test_v_and_velocity_convert_exactly_at_both_ends(alpha, sigma, source):
    x_t, made = every_prediction(alpha, sigma)
    for target in PREDICTIONS:
        got = convert(jnp.asarray(made[source]), x_t, source, target, jnp.float32(alpha), jnp.float32(sigma))
        np.testing.assert_allclose(got, made[target], atol=1e-6)


@pytest.mark.parametrize(("source", "alpha", "sigma"), [("eps", 0.0, 1.0), ("x0", 1.0, 0.0)])
def test_undefined_conversions_are_finite_with_finite_gradients(source, alpha, sigma):
    for target in PREDICTIONS:

        def total(y, target=target):
            return convert(y, jnp.ones(3), source, target, jnp.float32(alpha), jnp.float32(sigma)).sum()

        assert np.isfinite(total(jnp.full(3, 0.3)))
        assert np.isfinite(jax.grad(total)(jnp.full(3, 0.3))).all()


@pytest.mark.parametrize("level", LEVELS[1:4] + LEVELS[6:9])
def test_error_factors_are_the_effect_of_an_error(level):
    alpha, sigma = map(np.float32, level)
    x_t, made = every_prediction(np.float64(alpha), np.float64(sigma))
    for source, target in itertools.product(PREDICTIONS, PREDICTIONS):
        error = np.float32(0.125)
        wrong = convert(jnp.asarray(made[source]) + error, x_t, source, target, alpha, sigma)
        right = convert(jnp.asarray(made[source]), x_t, source, target, alpha, sigma)
        factor = error_factor(source, target, alpha, sigma)
        np.testing.assert_allclose(np.abs(wrong - right), np.full(64, factor * error), rtol=1e-3)


def test_error_factors_from_x0_have_the_published_form():
    alpha, sigma = 0.8, 0.6
    np.testing.assert_allclose(error_factor("x0", "eps", alpha, sigma), alpha / sigma, rtol=1e-6)
    np.testing.assert_allclose(error_factor("x0", "v", alpha, sigma), alpha**2 / sigma + sigma, rtol=1e-6)
    np.testing.assert_allclose(error_factor("x0", "velocity", alpha, sigma), alpha / sigma + 1, rtol=1e-6)


def test_misspelt_prediction_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'velocity'"):
        convert(jnp.ones(2), jnp.ones(2), "velocty", "x0", 1.0, 1.0)
