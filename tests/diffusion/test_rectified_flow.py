import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from vdm_jax.diffusion import RectifiedFlow, resolution_shift
from vdm_jax.diffusion.rectified_flow import shift_time
from vdm_jax.diffusion.time_sampling import Uniform


def test_shift_multiplies_the_noise_to_signal_ratio():
    u = np.linspace(0.05, 0.95, 7)
    t = shift_time(u, 3.0)
    np.testing.assert_allclose(t / (1 - t), 3.0 * u / (1 - u), rtol=1e-9)
    assert shift_time(0.0, 3.0) == 0.0
    assert shift_time(1.0, 3.0) == 1.0
    np.testing.assert_allclose(shift_time(shift_time(u, 3.0), 1 / 3.0), u)


def test_levels_are_those_of_diffusers():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    sigmas = np.linspace(1.0, 0.0, 9)[:-1]
    scheduler.set_timesteps(sigmas=shift_time(sigmas, 3.0))
    np.testing.assert_allclose(RectifiedFlow(shift=3.0).levels(8), scheduler.sigmas.numpy(), rtol=1e-6)


def test_shift_moves_training_times_and_can_be_overridden_for_sampling():
    plain, shifted = (RectifiedFlow(shift=s, times=Uniform()) for s in (1.0, 4.0))
    key = jax.random.key(0)
    np.testing.assert_allclose(
        shifted.sample_time(key, 64, 2), shift_time(plain.sample_time(key, 64, 2), 4.0), rtol=1e-5
    )
    np.testing.assert_array_equal(shifted.levels(5, shift=1.0), plain.levels(5))


def test_resolution_shift_keeps_the_uncertainty_of_a_mean():
    """m equal pixels averaged at time t' are as noisy as n at t."""
    shift = resolution_shift(4096, 1024)
    t = 0.3
    moved = shift_time(t, shift)
    np.testing.assert_allclose(moved / (1 - moved) / np.sqrt(4096), t / (1 - t) / np.sqrt(1024))
    with pytest.raises(ValueError, match="tokens"):
        resolution_shift(0, 10)


def test_velocity_is_the_derivative_of_the_path():
    process = RectifiedFlow()
    x0, eps = jnp.full((1, 1, 3), 0.4), jnp.full((1, 1, 3), -1.1)
    _, slope = jax.jvp(lambda t: process.q_sample(x0, eps, t), (jnp.float32(0.3),), (jnp.float32(1.0),))
    np.testing.assert_allclose(slope, process.target(x0, eps, 0.3), rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prediction": "velocty"}, "did you mean 'velocity'"),
        ({"prediction": "v"}, "prediction"),
        ({"shift": 0.0}, "shift"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        RectifiedFlow(**fields)
