import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import EDM, VP, RectifiedFlow, noise_like
from vdm_jax.sampling import make_denoiser, told_at


@pytest.mark.parametrize("process", [RectifiedFlow(), RectifiedFlow(prediction="x0"), VP(prediction="eps"), EDM()])
def test_a_perfect_network_makes_a_perfect_denoiser(process):
    """The network outputs the target; the denoiser must return the clip, and feed what the process asks for."""
    x0 = {"a": jax.random.uniform(jax.random.key(0), (2, 3, 4)), "b": jnp.ones((2, 3, 2, 2, 1))}
    noise = noise_like(jax.random.key(1), x0)
    t = 0.4 * process.t_max
    x_t = process.q_sample(x0, noise, t)
    seen = {}

    def network(x, time, cond):
        seen.update(x=x, time=time, cond=cond)
        return process.target(x0, noise, t)

    x0_hat = make_denoiser(process, network)(x_t, t, {"hint": 1})
    for name in x0:
        np.testing.assert_allclose(x0_hat[name], x0[name], atol=2e-5 * max(1.0, process.t_max))
        np.testing.assert_array_equal(seen["x"][name], process.network_input(x_t, t)[name])
    assert seen["cond"] == {"hint": 1}
    assert seen["time"].shape == (2, 3)
    np.testing.assert_allclose(seen["time"], process.network_time(jnp.float32(t)))


def test_equal_times_are_a_scalar_time_bit_for_bit_and_bare_frame_times_are_refused():
    process = RectifiedFlow()
    denoiser = make_denoiser(process, lambda x, time, cond: jnp.sin(x + 0.01 * time[..., None]))
    x = noise_like(jax.random.key(0), jnp.zeros((2, 3, 4)))
    np.testing.assert_array_equal(denoiser(x, 0.3, {}), denoiser(x, jnp.full((2, 3), 0.3), {}))
    np.testing.assert_array_equal(denoiser(x, jnp.full(2, 0.3), {}), denoiser(x, jnp.full((2, 3), 0.3), {}))
    with pytest.raises(ValueError, match="time: shape"):
        denoiser(x, jnp.full(3, 0.3), {})


def test_listed_times_are_told_exactly_and_given_frames_what_they_always_are():
    process, seen = VP(), []
    told = told_at(process, np.float32([0.982, 0.5, 0.02]), np.float32([981.0, 499.0, 3.0]))
    denoiser = make_denoiser(process, lambda x, time, cond: seen.append(time) or x, told)
    denoiser(jnp.zeros((1, 4, 2)), jnp.array([[0.982, 0.5, 0.02, 0.0]]), {})
    np.testing.assert_array_equal(seen[0], [[981.0, 499.0, 3.0, 0.0]])
    np.testing.assert_allclose(told(jnp.float32(0.26)), 251.0)  # halfway between two


def test_what_cannot_be_listed_is_refused():
    with pytest.raises(ValueError, match="levels must be above 0"):
        told_at(VP(), np.float32([0.5, 0.5]), np.float32([1.0, 2.0]))
    with pytest.raises(ValueError, match="3,. times for .2,. levels"):
        told_at(VP(), np.float32([0.5, 0.4]), np.zeros(3, np.float32))
