"""Single-step and multistep solvers on the same checks; what is special to multistep is in test_multistep.py."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import DDIMScheduler, EDMEulerScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from tests.diffusion import exact_gaussian
from vdm_jax.diffusion import DDIM, EDM, VP, ClipRange, DPMSolverPP2M, Euler, Heun, RectifiedFlow, UniPC, noise_like

PROCESSES = [RectifiedFlow(), VP(), VP(zero_terminal_snr=True, prediction="x0"), EDM()]
SOLVERS = [DDIM(), DDIM(eta=1.0), Euler(), Heun(), DPMSolverPP2M(), DPMSolverPP2M(sde=True), UniPC()]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=["flow", "vp", "vp-ztsnr", "edm"])
every_solver = pytest.mark.parametrize("solver", SOLVERS, ids=str)


def march(solver, process, denoise, x, tau, rng=None):
    """Takes x along rows of levels, `[K + 1]` or `[K + 1, B, T]`, one jitted scan; returns every x."""

    @jax.jit
    def run(x):
        def body(carry, row):
            x, state = carry
            index, t, s = row
            t, s = (jnp.broadcast_to(v, jax.tree.leaves(x)[0].shape[:2]) for v in (t, s))
            noise = noise_like(jax.random.fold_in(rng, index), x) if solver.stochastic else None
            x, x0_hat, state = solver.step(denoise, process, x, t, s, state, noise)
            return (x, state), (x, x0_hat)

        rows = (jnp.arange(len(tau) - 1), jnp.asarray(tau[:-1]), jnp.asarray(tau[1:]))
        return jax.lax.scan(body, (x, solver.init(x)), rows)[1]

    return run(x)


def exact(process):
    return lambda x, t: exact_gaussian.denoise(process, x, t)


@functools.cache
def flow_error(solver, process, steps):
    x = process.prior(jax.random.key(0), jnp.zeros((1, 2, 500)))
    visited, _ = march(solver, process, exact(process), x, process.levels(steps))
    t_max = jnp.full((1, 2), process.t_max)
    return float(jnp.sqrt(jnp.mean((visited[-1] - exact_gaussian.flow(process, x, t_max, 0.0 * t_max)) ** 2)))


@every_process
@pytest.mark.parametrize("solver", [DDIM(), Euler(), Heun(), DPMSolverPP2M(), UniPC()], ids=str)
def test_error_against_the_exact_flow_falls_with_the_order(process, solver):
    order = 1 if isinstance(solver, (DDIM, Euler)) else 2
    coarse, fine = flow_error(solver, process, 20), flow_error(solver, process, 80)
    # Four times the steps: a first-order error falls to 1/4, a second-order one to 1/16 (slack for the last step).
    assert fine < coarse * (0.35 if order == 1 else 0.2)
    if order == 2:
        assert fine < 0.3 * flow_error(DDIM(), process, 80)


@every_process
@pytest.mark.parametrize("solver", [DDIM(eta=1.0), DPMSolverPP2M(sde=True)], ids=str)
def test_stochastic_samples_have_the_distribution_of_the_data(process, solver):
    """The deterministic solvers are held to more, the exact flow, above."""
    x = process.prior(jax.random.key(0), jnp.zeros((1, 1, 20_000)))
    visited, _ = march(solver, process, exact(process), x, process.levels(150), jax.random.key(1))
    assert abs(float(visited[-1].mean()) - exact_gaussian.MEAN) < 0.02
    assert abs(float(visited[-1].std()) - exact_gaussian.STD) < 0.02


@every_process
@every_solver
def test_frames_are_held_moved_and_ended_each_by_itself(process, solver):
    """One step from mixed levels: held frames bit for bit, clean ones x0_hat exactly, nothing NaN."""
    hi, mid, t_max = 0.5 * process.t_max, 0.2 * process.t_max, process.t_max
    t = jnp.array([[t_max, t_max, hi, hi, 0.0]])
    s = jnp.array([[t_max, mid, mid, 0.0, 0.0]])
    x = {"a": noise_like(jax.random.key(0), jnp.zeros((1, 5, 3, 2))), "b": noise_like(jax.random.key(1), t)}

    def network(x, t):
        return jax.tree.map(jnp.tanh, x)

    @jax.jit
    def step(x):
        return solver.step(network, process, x, t, s, solver.init(x), noise_like(jax.random.key(2), x))

    x_s, x0_hat, _ = step(x)
    for name in x:
        np.testing.assert_array_equal(x_s[name][:, [0, 4]], x[name][:, [0, 4]])
        np.testing.assert_array_equal(x_s[name][:, 3], x0_hat[name][:, 3])
        assert np.isfinite(x_s[name]).all()
        assert (x_s[name][:, 1:3] != x[name][:, 1:3]).any()


@every_solver
def test_frames_on_different_schedules_do_not_disturb_each_other(solver):
    """With a denoiser that acts per frame, a staircase gives each frame what it gets alone (where deterministic)."""
    process = VP(zero_terminal_snr=True, prediction="x0")
    levels = process.levels(6)
    rows = np.clip(np.arange(9)[:, None] - np.array([0, 1, 2]), 0, 6)
    tau = np.broadcast_to(levels[rows][:, None], (9, 1, 3))
    x = process.prior(jax.random.key(0), jnp.zeros((1, 3, 8)))
    together, _ = march(solver, process, exact(process), x, tau, jax.random.key(1))
    alone, _ = march(solver, process, exact(process), x, levels, jax.random.key(1))
    assert np.isfinite(together).all()
    if not solver.stochastic:
        np.testing.assert_allclose(together[-1], alone[-1], rtol=1e-5, atol=1e-6)


@every_process
def test_euler_is_ddim(process):
    x = process.prior(jax.random.key(0), jnp.zeros((2, 3, 4)))
    network = lambda x, t: 0.8 * jnp.tanh(x)  # noqa: E731
    tau = process.levels(9)
    (ddim, _), (euler, _) = (march(solver, process, network, x, tau) for solver in (DDIM(), Euler()))
    np.testing.assert_allclose(euler, ddim, rtol=2e-5, atol=2e-6 * process.t_max)


def test_euler_on_the_rectified_flow_follows_the_velocity():
    process = RectifiedFlow()
    x = noise_like(jax.random.key(0), jnp.zeros((2, 3, 4)))
    velocity = jnp.cos(x)
    t, s = jnp.full((2, 3), 0.7), jnp.full((2, 3), 0.45)
    stepped, _, _ = Euler().step(lambda x, t: process.belief(velocity, x, t), process, x, t, s, (), None)
    np.testing.assert_allclose(stepped, x - 0.25 * velocity, atol=1e-6)


def test_bounds_on_ddim_leave_the_noise_alone():
    """x_s = alpha_s clip(x0_hat) + sigma_s eps_hat, with the eps_hat of the belief before it was clipped."""
    process = VP()
    t, s = jnp.full((1, 1), 0.6), jnp.full((1, 1), 0.4)
    x, x0_hat = jnp.array([[[0.3, -1.0]]]), jnp.array([[[0.5, 2.0]]])
    stepped, kept, _ = DDIM(bound=ClipRange(1.0)).step(lambda x, t: x0_hat, process, x, t, s, (), None)
    alpha, sigma = (v[..., None] for v in process.alpha_sigma(s))
    eps_hat = process.noise_belief(x0_hat, x, t)
    np.testing.assert_allclose(stepped, alpha * jnp.clip(x0_hat, -1.0, 1.0) + sigma * eps_hat, rtol=1e-6)
    np.testing.assert_allclose(kept, [[[0.5, 1.0]]])


def test_heun_takes_its_slope_in_the_clock_it_is_given():
    """With sigma / alpha as the clock, the step of EDM's algorithm 1 on x / alpha."""
    process = VP(beta_start=0.00085, beta_end=0.012)
    x, t, s = jnp.array([[[0.3, -1.0]]]), jnp.full((1, 1), 0.6), jnp.full((1, 1), 0.4)
    stepped, x0, _ = Heun(clock="ratio").step(lambda x, t: jnp.tanh(x), process, x, t, s, (), None)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = process.alpha_sigma(0.6), process.alpha_sigma(0.4)
    y, before, after = x / alpha_t, sigma_t / alpha_t, sigma_s / alpha_s
    slope = (y - x0) / before
    guess = y + (after - before) * slope
    slope = 0.5 * (slope + (guess - jnp.tanh(alpha_s * guess)) / after)
    np.testing.assert_allclose(stepped, alpha_s * (y + (after - before) * slope), rtol=1e-5)


def test_heun_saves_the_evaluation_after_the_last_level():
    calls = []

    def network(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.tanh(x)

    march(Heun(), RectifiedFlow(), network, jnp.ones((1, 1, 2)), RectifiedFlow().levels(4))[0].block_until_ready()
    jax.effects_barrier()
    assert len(calls) == 2 * 4 - 1


@every_solver
def test_gradients_through_every_step_are_finite(solver):
    process = VP(zero_terminal_snr=True, prediction="x0")  # alpha = 0 at one end, sigma = 0 at the other
    x = process.prior(jax.random.key(0), jnp.zeros((1, 2, 3)))

    def total(scale):
        def network(x, t):
            return scale * exact_gaussian.denoise(process, x, t)

        return march(solver, process, network, x, process.levels(4), jax.random.key(1))[0][-1].sum()

    total_and_gradient = jax.jit(jax.value_and_grad(total))
    (low, _), (_, gradient), (high, _) = (total_and_gradient(scale) for scale in (0.99, 1.0, 1.01))
    np.testing.assert_allclose(gradient, (high - low) / 0.02, rtol=2e-2)


def test_eta_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="eta: 1.5"):
        DDIM(eta=1.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIM(variance="forwards"), "did you mean 'forward'"),
        (lambda: DDIM(eta=0.5, variance="forward"), "eta: 0.5 with variance 'forward' must be 1"),
        (lambda: Heun(clock="ration"), "did you mean 'ratio'"),
        (lambda: DPMSolverPP2M(difference="midpt"), "did you mean 'midpoint'"),
        (lambda: UniPC(function="bh3"), "unknown 'bh3'"),
    ],
)
def test_bad_fields_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- against diffusers: a fixed nonlinear function in the place of a network


def fake_output(x, told):
    """A network output from x and what it is told; works on numpy."""
    return np.tanh(1.3 * x + 0.002 * told) - 0.3 * x


def our_path(process, solver, x, tau):
    def denoise(x, t):
        told = process.network_time(t)[..., None]
        fed = process.network_input(x, t)
        return process.belief(jnp.tanh(1.3 * fed + 0.002 * told) - 0.3 * fed, x, t)

    return np.asarray(march(solver, process, denoise, jnp.asarray(x)[None, None], tau)[0])[:, 0, 0]


def their_path(scheduler, x, **settings):
    import torch

    x, path = torch.from_numpy(x)[None], []  # a batch of one: UniPC there asks for [B, C]
    for t in scheduler.timesteps:
        fed = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        told = float(settings.get("told", float)(t))
        x = scheduler.step(torch.from_numpy(fake_output(fed.numpy(), told)), t, x).prev_sample.float()
        path.append(x[0].numpy())
    return np.stack(path)


@pytest.fixture(scope="module")
def start():
    return np.random.default_rng(0).normal(size=64).astype(np.float32)


@pytest.mark.parametrize(
    ("prediction", "theirs", "zero_terminal_snr"),
    list(itertools.product(["eps"], ["epsilon"], [False])) + [("v", "v_prediction", True), ("x0", "sample", False)],
)
def test_ddim_walks_with_diffusers(start, prediction, theirs, zero_terminal_snr):
    scheduler = DDIMScheduler(
        prediction_type=theirs,
        rescale_betas_zero_snr=zero_terminal_snr,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    scheduler.set_timesteps(10)
    process = VP(prediction=prediction, zero_terminal_snr=zero_terminal_snr)
    ours = our_path(process, DDIM(), start, process.levels(10))
    np.testing.assert_allclose(ours, their_path(scheduler, start), rtol=1e-4, atol=1e-4)


def test_euler_walks_with_diffusers_flow_matching(start):
    process = RectifiedFlow(shift=3.0)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, 9)[:-1])
    ours = our_path(process, Euler(), start, process.levels(8))
    np.testing.assert_allclose(ours, their_path(scheduler, start), rtol=1e-4, atol=1e-5)


def test_euler_walks_with_diffusers_discrete(start):
    """EulerDiscrete works on x / alpha with sigma / alpha; the same path after scaling."""
    scheduler = EulerDiscreteScheduler(prediction_type="epsilon", timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    process = VP(prediction="eps")
    tau = process.levels(10)
    alpha, _ = process.alpha_sigma(jnp.asarray(tau))
    theirs = their_path(scheduler, start / float(alpha[0])) * np.asarray(alpha)[1:, None]
    np.testing.assert_allclose(our_path(process, Euler(), start, tau), theirs, rtol=1e-4, atol=1e-4)


def test_euler_walks_with_diffusers_edm(start):
    scheduler = EDMEulerScheduler(sigma_data=0.5)
    scheduler.set_timesteps(10)
    process = EDM(told="quarter_log")
    ours = our_path(process, Euler(), 80.0 * start, process.levels(10))
    np.testing.assert_allclose(ours, their_path(scheduler, 80.0 * start), rtol=1e-4, atol=1e-4)
