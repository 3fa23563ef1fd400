import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import DDIMScheduler

from vdm_jax.diffusion import VP


def test_levels_and_told_times_are_the_trailing_timesteps_of_diffusers():
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    for steps in (7, 50, 1000):
        scheduler.set_timesteps(steps)
        process = VP()
        told = process.network_time(jnp.asarray(process.levels(steps)[:-1]))
        np.testing.assert_allclose(told, scheduler.timesteps.numpy(), atol=1e-3)


def test_given_frames_are_told_the_first_timestep():
    assert VP().network_time(jnp.float32(0.0)) == 0.0


def test_training_covers_the_table_and_nothing_below():
    process = VP()
    np.testing.assert_allclose(process.time_from_unit(np.array([0.0, 1.0])), [0.001, 1.0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prediction": "velocity"}, "prediction"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"steps": 1}, "steps"),
        ({"snr_shift": 0.0}, "snr_shift: 0.0"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "beta_start"),
        ({"prediction": "eps", "zero_terminal_snr": True}, "zero terminal SNR"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        VP(**fields)


def test_more_steps_than_entries_are_refused():
    with pytest.raises(ValueError, match="only 10 entries"):
        VP(steps=10).levels(11)
