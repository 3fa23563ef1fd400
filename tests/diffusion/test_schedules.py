import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion.schedules import alpha_sigma_table, interpolate_level, make_alphas_cumprod, make_betas

DIFFUSERS_NAME = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize(
    ("schedule", "start", "end"), [("linear", 1e-4, 0.02), ("scaled_linear", 0.00085, 0.012), ("cosine", 1e-4, 0.02)]
)
def test_tables_are_those_of_diffusers(schedule, start, end, zero_terminal_snr):
    theirs = diffusers.DDIMScheduler(
        beta_schedule=DIFFUSERS_NAME[schedule], beta_start=start, beta_end=end, rescale_betas_zero_snr=zero_terminal_snr
    ).alphas_cumprod.numpy()
    ours = make_alphas_cumprod(make_betas(schedule, 1000, start, end), zero_terminal_snr)
    assert ours.dtype == np.float64
    # They multiply a thousand float32 factors; the difference is theirs.
    np.testing.assert_allclose(ours, theirs, rtol=3e-5, atol=1e-7)


def test_zero_terminal_snr_ends_at_zero_and_keeps_its_start():
    betas = make_betas("linear", 1000, 1e-4, 0.02)
    plain, rescaled = make_alphas_cumprod(betas), make_alphas_cumprod(betas, zero_terminal_snr=True)
    assert rescaled[-1] == 0.0
    np.testing.assert_allclose(rescaled[0], plain[0], rtol=1e-12)
    assert (np.diff(rescaled) < 0).all()


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_interpolation_is_exact_at_entries_and_monotone_between(schedule, zero_terminal_snr):
    alphas, sigmas = alpha_sigma_table(schedule, 1000, 1e-4, 0.02, zero_terminal_snr)
    entries = np.arange(1001)
    alpha, sigma = interpolate_level(alphas, sigmas, jnp.float32(entries / 1000))
    np.testing.assert_allclose(alpha, alphas, rtol=3e-7)
    np.testing.assert_allclose(sigma, sigmas, rtol=3e-7)
    alpha, sigma = interpolate_level(alphas, sigmas, jnp.linspace(0.0, 1.0, 3777))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-6)
    ratio = np.arctan2(np.float64(sigma), np.float64(alpha))
    assert (np.diff(ratio) > 0).all()


def test_ends_are_exact():
    tables = alpha_sigma_table("linear", 1000, 1e-4, 0.02, True)
    alpha, sigma = interpolate_level(*tables, jnp.array([0.0, 1.0]))
    assert alpha.tolist() == [1.0, 0.0]
    assert sigma.tolist() == [0.0, 1.0]


def test_gradient_in_t_is_finite():
    tables = alpha_sigma_table("cosine", 1000, 1e-4, 0.02, True)
    grad = jax.vmap(jax.grad(lambda t: interpolate_level(*tables, t)[0]))(jnp.array([0.0, 0.0011, 0.5003, 0.9999]))
    assert np.isfinite(grad).all()


def test_misspelt_schedule_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        make_betas("cosin", 10)
