import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from tests.diffusion import exact_gaussian
from tests.diffusion.test_solvers import march, our_path, start, their_path  # noqa: F401 - `start` is a fixture
from vdm_jax.diffusion import DDIM, EDM, VP, DPMSolverPP2M, RectifiedFlow, UniPC
from vdm_jax.diffusion.multistep import _corrector_weights, _heun, _linear, half_log_snr

both = pytest.mark.parametrize("solver", [DPMSolverPP2M(), UniPC()], ids=str)
PAIRS = [
    (DPMSolverPP2M(), DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_type": "midpoint"}),
    (UniPC(), UniPCMultistepScheduler, {"solver_type": "bh2"}),
]


@pytest.mark.parametrize(("solver", "scheduler", "settings"), PAIRS, ids=["2M", "UniPC"])
@pytest.mark.parametrize(("prediction", "theirs"), [("eps", "epsilon"), ("v", "v_prediction"), ("x0", "sample")])
def test_vp_paths_are_those_of_diffusers(start, solver, scheduler, settings, prediction, theirs):  # noqa: F811
    peer = scheduler(
        solver_order=2,
        prediction_type=theirs,
        timestep_spacing="trailing",
        final_sigmas_type="zero",
        lower_order_final=True,
        **settings,
    )
    peer.set_timesteps(12)
    process = VP(prediction=prediction)
    ours = our_path(process, solver, start, process.levels(12))
    reference = their_path(peer, start)
    if isinstance(solver, UniPC):  # ours records the predicted x before the next call corrects it, as theirs does
        assert reference.shape == ours.shape
    np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(("solver", "scheduler", "settings"), PAIRS, ids=["2M", "UniPC"])
def test_flow_paths_are_those_of_diffusers(start, solver, scheduler, settings):  # noqa: F811
    peer = scheduler(
        solver_order=2, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, **settings
    )
    peer.set_timesteps(10)
    process = RectifiedFlow()
    tau = peer.sigmas.numpy()  # theirs start just below 1
    ours = our_path(process, solver, start, tau)
    # diffusers rounds the timestep it hands to the network to an integer; tell the fake network the level itself.
    levels = dict(zip(peer.timesteps.tolist(), (1000.0 * tau[:-1]).tolist()))
    theirs = their_path(peer, start, told=lambda t: levels[int(t)])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("weigh", [_heun, _linear])
def test_weights_of_the_difference_begin_at_a_half_and_grow(weigh):
    """The published forms cancel where steps are small; here they are held against float64."""
    steps = np.array([1e-4, 0.05, 0.19, 0.21, 1.0, 6.0])
    kept = -np.expm1(-steps)
    exact = 0.5 * steps / kept if weigh is _linear else 1 / kept - 1 / steps
    np.testing.assert_allclose(weigh(jnp.float32(steps)), exact, rtol=2e-5)


@pytest.mark.parametrize("solver", [DPMSolverPP2M(first_order_to=0.2), UniPC(first_order_to=0.2)], ids=str)
def test_the_step_that_ends_low_may_be_of_first_order(solver):
    process, x = RectifiedFlow(), jnp.full((1, 1, 3), 0.4)
    tau = np.float32([0.9, 0.6, 0.2])
    network = lambda x, t: jnp.tanh(x) + t[..., None]  # noqa: E731
    free = march(type(solver)(), process, network, x, tau)[0]
    held = march(solver, process, network, x, tau)[0]
    np.testing.assert_array_equal(held[0], free[0])
    assert (held[1] != free[1]).all()


def test_nothing_is_extrapolated_from_pure_noise():
    """At alpha = 0 lambda is infinite, and the slope towards it is 0."""
    process, x = VP(zero_terminal_snr=True), jnp.full((1, 1, 3), 0.4)
    network = lambda x, t: jnp.tanh(x) + t[..., None]  # noqa: E731
    tau = np.float32([1.0, 0.6, 0.3])
    second, first = (march(solver, process, network, x, tau)[0] for solver in (DPMSolverPP2M(), DDIM()))
    np.testing.assert_allclose(second, first, rtol=1e-6)


def test_corrector_weights_solve_their_equations():
    steps = np.array([1e-3, 0.05, 0.19, 0.21, 1.0, 8.0, 50.0])
    ratio = -0.7
    first = -np.expm1(-steps) / steps - 1.0
    second = -first / steps - 0.5
    moments = np.stack([first, 2 * second]) / np.expm1(-steps)
    a, b = _corrector_weights(jnp.float32(steps), jnp.float32(ratio))
    np.testing.assert_allclose(np.stack([a + b, ratio * a + b]), moments, rtol=2e-5)


def test_half_log_snr_is_finite_everywhere():
    for process in (RectifiedFlow(), VP(zero_terminal_snr=True), EDM()):
        values = half_log_snr(process, jnp.linspace(0.0, process.t_max, 50))
        assert np.isfinite(values).all()
        assert (np.diff(values) < 0).all()


@both
def test_first_step_and_last_step_are_first_order(solver):
    process = RectifiedFlow()
    x = jnp.full((1, 1, 3), 0.4)

    def network(x, t):
        return jnp.tanh(x) + t[..., None]

    two, _ = march(solver, process, network, x, np.float32([0.8, 0.5]))
    one, _ = march(DDIM(), process, network, x, np.float32([0.8, 0.5]))
    np.testing.assert_allclose(two, one, rtol=1e-6)


@both
def test_history_waits_while_a_frame_is_held(solver):
    """Holding a frame for a few rows must not change where it ends."""
    process = VP()
    x = process.prior(jax.random.key(0), jnp.zeros((1, 1, 5)))
    plain = np.float32([1.0, 0.8, 0.6, 0.3, 0.0])
    held = np.float32([1.0, 1.0, 0.8, 0.6, 0.6, 0.6, 0.3, 0.0])

    def network(x, t):
        return exact_gaussian.denoise(process, x, t)

    np.testing.assert_array_equal(
        march(solver, process, network, x, held)[0][-1], march(solver, process, network, x, plain)[0][-1]
    )


def test_unipc_keeps_what_was_done_to_x_between_two_steps():
    """The corrector only adds a difference, so an edit of x moves on with the frame."""
    process, solver = RectifiedFlow(), UniPC()
    t = [jnp.full((1, 1), v) for v in (0.9, 0.7, 0.5)]
    x = jnp.full((1, 1, 3), 0.5)
    constant = lambda x, t: jnp.full_like(x, 0.2)  # noqa: E731
    x1, _, state = solver.step(constant, process, x, t[0], t[1], solver.init(x), None)
    x2, _, _ = solver.step(constant, process, x1, t[1], t[2], state, None)
    edited, _, _ = solver.step(constant, process, x1 + 1.0, t[1], t[2], state, None)
    np.testing.assert_allclose(edited - x2, 0.5 / 0.7, rtol=1e-5)
