import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion.schedules import (
    alpha_sigma_table,
    interpolate_level,
    invert_level,
    make_alphas_cumprod,
    make_betas,
)

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
    if not zero_terminal_snr:
        np.testing.assert_array_equal(ours, theirs)
    # They rescale in float32, and multiply the thousand factors again; the difference is theirs.
    np.testing.assert_allclose(ours, theirs, rtol=3e-5, atol=1e-7)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_shifted_tables_are_those_of_cogvideox(shift):
    theirs = diffusers.CogVideoXDDIMScheduler(rescale_betas_zero_snr=True, snr_shift_scale=shift).alphas_cumprod.numpy()
    ours = make_alphas_cumprod(make_betas("scaled_linear", 1000, 0.00085, 0.012), True, shift)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_levels_are_found_by_their_ratio(zero_terminal_snr):
    tables = alpha_sigma_table("linear", 1000, 1e-4, 0.02, zero_terminal_snr)
    largest = 4096.0 if zero_terminal_snr else tables[1][-1] / tables[0][-1]
    ratio = np.append(0.0, np.geomspace(1e-3, largest, 400))
    alpha, sigma = interpolate_level(*tables, jnp.float32(invert_level(*tables, ratio)))
    near_prior = 1e-3 if zero_terminal_snr else 0.0  # t has 1e-7 of the table, of which this is the last 1e-4
    np.testing.assert_allclose(sigma / alpha, ratio, rtol=1e-5 + near_prior)
    entries = tables[1][1:-1] / tables[0][1:-1]
    np.testing.assert_allclose(invert_level(*tables, entries), np.arange(1, 1000) / 1000, rtol=1e-9)


def test_a_ratio_that_no_level_has_is_named():
    tables = alpha_sigma_table("linear", 1000, 1e-4, 0.02, False)
    with pytest.raises(ValueError, match="sigma: 700 lies outside the levels of the table, 0 to 157"):
        invert_level(*tables, np.array([1.0, 700.0]))


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
