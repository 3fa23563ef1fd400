import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import EDM, VP, RectifiedFlow, noise_like

PROCESSES = [
    RectifiedFlow(),
    RectifiedFlow(prediction="x0"),
    RectifiedFlow(prediction="eps", shift=3.0),
    VP(),
    VP(prediction="eps", schedule="cosine"),
    VP(prediction="x0", zero_terminal_snr=True),
    VP(prediction="v", zero_terminal_snr=True),
    EDM(),
]
every_process = pytest.mark.parametrize(
    "process", PROCESSES, ids=lambda p: f"{type(p).__name__}-{getattr(p, 'prediction', 'F')}"
)


@pytest.fixture(scope="module")
def clip():
    return {
        "video": jax.random.uniform(jax.random.key(0), (2, 3, 4, 4, 2), minval=-1.0),
        "audio": jax.random.normal(jax.random.key(1), (2, 3, 5)),
    }


@pytest.fixture(scope="module")
def noise(clip):
    return noise_like(jax.random.key(2), clip)


def middle_times(process):
    return process.t_max * jnp.array([[0.1, 0.5, 0.9], [0.3, 0.7, 0.2]]) ** (3 if isinstance(process, EDM) else 1)


def assert_close(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@every_process
def test_level_zero_is_clean_and_levels_grow(process):
    alpha, sigma = process.alpha_sigma(jnp.linspace(0.0, process.t_max, 101))
    assert alpha[0] == 1.0
    assert sigma[0] == 0.0
    assert (np.diff(np.arctan2(np.float64(sigma), np.float64(alpha))) > 0).all()


@every_process
def test_noising_acts_frame_by_frame(process, clip, noise):
    t = middle_times(process)
    whole = process.q_sample(clip, noise, t)

    def frame(tree, b, i):
        return jax.tree.map(lambda x: x[b : b + 1, i : i + 1], tree)

    for b, i in ((0, 0), (0, 2), (1, 1)):
        alone = process.q_sample(frame(clip, b, i), frame(noise, b, i), t[b, i])
        assert_equal(alone, frame(whole, b, i))


@every_process
def test_clean_frames_are_not_touched_by_noising(process, clip, noise):
    assert_equal(process.q_sample(clip, noise, 0.0), clip)


@every_process
def test_the_target_is_believed_back(process, clip, noise):
    t = middle_times(process)
    x_t = process.q_sample(clip, noise, t)
    x0_hat = process.belief(process.target(clip, noise, t), x_t, t)
    # eps gives x0 as (x_t - sigma eps) / alpha: one rounding of x_t is worth 1 / alpha.
    assert_close(x0_hat, clip, atol=2e-5 if not isinstance(process, EDM) else 1e-4)
    assert_close(process.noise_belief(clip, x_t, t), noise, atol=2e-4)


@every_process
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_beliefs_are_finite_at_both_ends(process, clip, noise, end):
    t = end * process.t_max
    x_t = process.q_sample(clip, noise, t)
    for value in jax.tree.leaves((process.belief(noise, x_t, t), process.noise_belief(clip, x_t, t))):
        assert np.isfinite(value).all()
    assert np.isfinite(process.network_time(jnp.float32(t)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(process.network_input(x_t, t)))


@every_process
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_holds_frames_moves_frames_and_ends_exactly(process, clip, noise, eta):
    t = jnp.full((2, 3), process.t_max)
    s = jnp.array([[process.t_max, 0.5 * process.t_max, 0.0]] * 2)
    x_t, z = process.prior(jax.random.key(3), clip), noise
    x_s = process.reverse_step(x_t, clip, t, s, z, eta)
    for name, leaf in x_s.items():
        np.testing.assert_array_equal(leaf[:, 0], x_t[name][:, 0])
        np.testing.assert_array_equal(leaf[:, 2], clip[name][:, 2])
        assert np.isfinite(leaf).all()
        assert (leaf[:, 1] != x_t[name][:, 1]).any()


@every_process
def test_a_step_with_the_truth_lands_on_the_marginal(process):
    """With x0_hat = x0 every eta must give q(x_s | x0); moments over many draws."""
    x0 = jnp.full((1, 1, 40_000), 0.6)
    t, s = 0.8 * process.t_max, 0.3 * process.t_max
    x_t = process.q_sample(x0, noise_like(jax.random.key(0), x0), t)
    alpha, sigma = process.alpha_sigma(jnp.float32(s))
    for eta in (0.0, 0.6, 1.0):
        x_s = process.reverse_step(x_t, x0, t, s, noise_like(jax.random.key(1), x0), eta)
        assert abs(float(x_s.mean()) - float(alpha) * 0.6) < 0.02 * float(sigma)
        assert abs(float(x_s.std()) / float(sigma) - 1.0) < 0.015


@every_process
def test_noising_in_two_steps_is_noising_in_one(process):
    x0 = jnp.full((1, 1, 40_000), 0.6)
    s, t = 0.3 * process.t_max, 0.8 * process.t_max
    keys = jax.random.split(jax.random.key(0))
    x_s = process.q_sample(x0, noise_like(keys[0], x0), s)
    x_t = process.forward_step(x_s, s, t, noise_like(keys[1], x0))
    alpha, sigma = process.alpha_sigma(jnp.float32(t))
    assert abs(float(x_t.mean()) - float(alpha) * 0.6) < 0.02 * float(sigma)
    assert abs(float(x_t.std()) / float(sigma) - 1.0) < 0.015
    np.testing.assert_array_equal(process.forward_step(x_s, s, s, x0), x_s)


@every_process
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_levels_run_from_the_prior_to_zero(process, steps):
    levels = process.levels(steps)
    assert isinstance(levels, np.ndarray)
    assert levels.dtype == np.float32
    assert levels.shape == (steps + 1,)
    assert levels[0] == np.float32(process.t_max)
    assert levels[-1] == 0.0
    assert (np.diff(levels) < 0).all()
    with pytest.raises(ValueError, match="steps: 0"):
        process.levels(0)


@every_process
def test_sampled_times_lie_in_range(process):
    t = process.sample_time(jax.random.key(0), 512, 2)
    assert t.shape == (512, 2)
    assert t.dtype == jnp.float32
    assert (t > 0).all()
    assert (t <= process.t_max).all()


@every_process
def test_log_ratio_is_inverted(process):
    z = jnp.array([-3.0, -1.0, 0.5, 2.0])
    alpha, sigma = process.alpha_sigma(process.time_from_log_ratio(z))
    np.testing.assert_allclose(np.log(sigma / alpha), z, atol=2e-3)


@every_process
def test_prior_matches_noised_unit_variance_data(process):
    like = jnp.zeros((1, 2, 50_000))
    data = noise_like(jax.random.key(5), like)
    noised = process.q_sample(data, noise_like(jax.random.key(6), like), process.t_max)
    prior = process.prior(jax.random.key(7), like)
    assert abs(float(prior.std() / noised.std()) - 1.0) < 0.01


def test_stochastic_step_without_noise_is_refused(clip):
    with pytest.raises(ValueError, match="noise: missing"):
        RectifiedFlow().reverse_step(clip, clip, 0.5, 0.4, eta=1.0)


def test_bare_frame_times_are_refused(clip):
    with pytest.raises(ValueError, match="time: shape"):
        RectifiedFlow().q_sample(clip, clip, jnp.zeros(3))


@every_process
def test_scalar_and_per_frame_times_are_the_same_bit_for_bit(process, clip, noise):
    t, s = 0.7 * process.t_max, 0.2 * process.t_max
    full = jnp.full((2, 3), t), jnp.full((2, 3), s)
    assert_equal(process.q_sample(clip, noise, t), process.q_sample(clip, noise, full[0]))
    assert_equal(process.reverse_step(noise, clip, t, s), process.reverse_step(noise, clip, *full))


@every_process
def test_gradients_of_a_step_are_finite(process, clip, noise):
    t = jnp.array([[process.t_max, 0.5 * process.t_max, 0.0]] * 2)
    s = jnp.array([[0.5 * process.t_max, 0.0, 0.0]] * 2)

    def total(output, times):
        x0_hat = process.belief(output, noise, times)
        x_s = process.reverse_step(noise, x0_hat, times, s, noise, eta=1.0)
        return sum(leaf.sum() for leaf in jax.tree.leaves(x_s))

    for grad in jax.tree.leaves(jax.grad(total, argnums=(0, 1))(clip, t)):
        assert np.isfinite(grad).all()
