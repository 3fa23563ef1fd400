import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import DDIM, EDM, VP, DPMSolverPP2M, Euler, Heun, RectifiedFlow, UniPC, noise_like
from vdm_jax.diffusion.leaves import expand
from vdm_jax.sampling import Hooks, Known, image_to_video, make_denoiser, sample, staircase, uniform

SOLVERS = [DDIM(), DDIM(eta=1.0), Euler(), Heun(), DPMSolverPP2M(), UniPC()]
every_solver = pytest.mark.parametrize("solver", SOLVERS, ids=str)
RNG = jax.random.key(7)
SHAPE = (2, 3, 4, 4, 1)


def network(x, time, cond):
    """Frames see each other, so a given frame matters to the others."""

    def one(leaf):
        seen = leaf + 0.3 * leaf.mean(axis=1, keepdims=True)
        return jnp.tanh(seen) + 0.1 * jnp.cos(expand(time, leaf) * 0.003)

    return jax.tree.map(one, x)


def start(process, like=None):
    return process.prior(jax.random.key(0), jnp.zeros(SHAPE) if like is None else like)


def run(process, tau, x_T=None, **settings):
    x_T = start(process) if x_T is None else x_T
    settings.setdefault("rng", RNG)
    denoiser = settings.pop("denoiser", make_denoiser(process, network))
    return jax.jit(lambda x: sample(denoiser, process, x, tau, {}, **settings))(x_T)


@every_solver
def test_equal_columns_are_the_standard_sampler_bit_for_bit(solver):
    process = VP()
    levels = process.levels(5)
    plain = run(process, levels, solver=solver)
    np.testing.assert_array_equal(run(process, uniform(levels, 3), solver=solver), plain)
    assert np.isfinite(plain).all()


@every_solver
def test_constant_columns_leave_a_frame_untouched(solver):
    process = RectifiedFlow(shift=2.0)
    tau = uniform(process.levels(4), 3)
    tau[:, 0], tau[:, 1] = 0.0, 0.5 * process.t_max
    x_T = start(process)
    x_0 = run(process, tau, x_T, solver=solver)
    np.testing.assert_array_equal(x_0[:, :2], x_T[:, :2])
    assert (x_0[:, 2] != x_T[:, 2]).all()


@pytest.mark.parametrize(
    ("process", "solver"),
    [(RectifiedFlow(), DDIM(eta=1.0)), (VP(), UniPC()), (EDM(), Heun())],
    ids=["flow-ancestral", "vp-unipc", "edm-heun"],
)
@pytest.mark.parametrize("inside", [False, True], ids=["frames", "region"])
def test_given_content_comes_back_bit_for_bit(process, solver, inside):
    truth = jax.random.uniform(jax.random.key(3), SHAPE)
    mask = jnp.array([[True, False, False], [False, False, True]])
    if inside:
        mask = jnp.zeros(SHAPE, bool).at[:, :, :2, 1:].set(True)
    x_0 = run(process, process.levels(4), known=Known(mask, truth), solver=solver)
    full = np.broadcast_to(expand(mask, truth), SHAPE)
    np.testing.assert_array_equal(np.asarray(x_0)[full], np.asarray(truth)[full])
    assert np.isfinite(x_0).all()
    assert (np.asarray(x_0)[~full] != np.asarray(truth)[~full]).all()


def test_given_frames_by_mask_and_by_matrix_agree_and_steer_the_rest():
    process = RectifiedFlow()
    truth = jax.random.uniform(jax.random.key(3), SHAPE)
    mask = jnp.zeros((2, 3), bool).at[:, 1].set(True)
    by_mask = run(process, process.levels(4), known=Known(mask, truth))
    x_T = start(process).at[:, 1].set(truth[:, 1])
    np.testing.assert_array_equal(run(process, image_to_video(process.levels(4), 3, 1), x_T), by_mask)
    other = run(process, process.levels(4), known=Known(mask, 1.0 - truth))
    assert (other[:, 0] != by_mask[:, 0]).all()


def test_without_repaste_given_frames_follow_the_network():
    """With an x0 network, D(x, 0) is not x: the reference behaviour of FVDM's sampler is n applications of it."""
    process = RectifiedFlow(prediction="x0")
    truth = jax.random.uniform(jax.random.key(3), SHAPE)
    mask = jnp.zeros((2, 3), bool).at[:, 0].set(True)
    denoiser = lambda x, t, cond: 0.9 * x  # noqa: E731
    kept = run(process, process.levels(4), known=Known(mask, truth), denoiser=denoiser)
    drifted = run(process, process.levels(4), known=Known(mask, truth), denoiser=denoiser, repaste=False)
    np.testing.assert_array_equal(kept[:, 0], truth[:, 0])
    np.testing.assert_allclose(drifted[:, 0], 0.9**4 * truth[:, 0], rtol=1e-5)


def test_region_is_shown_at_its_frame_s_level():
    """The network must meet known content with the amplitude of noise that belongs to t."""
    process = RectifiedFlow()
    mask = jnp.zeros((1, 1, 64, 64, 1), bool).at[:, :, :32].set(True)
    truth = jnp.full(mask.shape, 0.5)
    levels = process.levels(5)
    _, path = run(
        process, levels, start(process, truth), known=Known(mask, truth), record=True, solver=DDIM(eta=1.0),
        denoiser=lambda x, t, cond: jnp.stack([x[:, :, :32].std() * jnp.ones((32, 64, 1)),
                                               x[:, :, :32].mean() * jnp.ones((32, 64, 1))]).reshape(x.shape),
    )  # fmt: skip
    means = path.x0_hat[:, 0, 0, 32:].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, 0.5 * (1 - levels[:-1]), atol=0.06)


def test_dicts_are_sampled_leaf_by_leaf():
    process = VP()
    x_T = start(process, {"video": jnp.zeros(SHAPE), "audio": jnp.zeros((2, 3, 5))})
    for solver in (DDIM(eta=1.0), Heun(), UniPC()):
        both = run(process, process.levels(3), x_T, solver=solver)
        if not solver.stochastic:
            np.testing.assert_allclose(
                both["audio"], run(process, process.levels(3), x_T["audio"], solver=solver), rtol=1e-5, atol=1e-6
            )


@every_solver
def test_staircases_finish_every_frame(solver):
    process = RectifiedFlow()
    x_0 = run(process, staircase(process.levels(3), 3, lag=2), solver=solver)
    assert np.isfinite(x_0).all()
    assert (jnp.abs(x_0 - start(process)) > 0).all()


def test_hooks_are_called_in_their_places():
    process, levels = RectifiedFlow(), RectifiedFlow().levels(3)
    hooks = Hooks(
        pre_step=lambda x, info: x + info.step,
        edit_x0=lambda x0_hat, x, info: 0.5 * x0_hat + 0.0 * info.t[..., None, None, None],
        post_step=lambda x, x0_hat, info: x - 0.1 * x0_hat,
    )
    denoiser = lambda x, t, cond: jnp.sin(x)  # noqa: E731
    x = start(process)
    got = run(process, levels, x, hooks=hooks, denoiser=denoiser)
    for k, (t, s) in enumerate(itertools.pairwise(levels)):
        x = x + k
        x0_hat = 0.5 * jnp.sin(x)
        x = process.reverse_step(x, x0_hat, float(t), float(s)) - 0.1 * x0_hat
    np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-5)


def test_given_draws_take_the_place_of_the_key():
    process, tau = VP(), VP().levels(3)
    noise = jax.random.normal(jax.random.key(4), (3, *SHAPE))
    given = run(process, tau, solver=DDIM(eta=1.0), noise=noise, rng=None)
    assert (given != run(process, tau, solver=DDIM(eta=1.0))).any()
    x = start(process)
    for k, (t, s) in enumerate(itertools.pairwise(tau)):
        x0_hat = make_denoiser(process, network)(x, jnp.float32(t), {})
        x = process.reverse_step(x, x0_hat, jnp.float32(t), jnp.float32(s), noise[k], 1.0)
    np.testing.assert_allclose(given, x, rtol=1e-4, atol=1e-5)


def test_steps_may_land_beside_the_level_that_the_next_one_starts_from():
    process = RectifiedFlow()
    tau, lands = np.float32([1.0, 0.5, 0.0]), np.float32([0.6, 0.0])
    denoiser = lambda x, t, cond: jnp.sin(x)  # noqa: E731
    x = start(process)
    landed = process.reverse_step(x, jnp.sin(x), 1.0, 0.6)
    got = run(process, tau, x, lands=lands, denoiser=denoiser, record=True)[1]
    np.testing.assert_allclose(got.x[1], landed, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.x[2], jnp.sin(landed), rtol=1e-5, atol=1e-6)


def test_hooks_have_randomness_of_their_own_in_each_step():
    process = RectifiedFlow()
    hooks = Hooks(post_step=lambda x, x0_hat, info: jax.random.normal(info.rng, x.shape))
    _, path = run(process, process.levels(3), hooks=hooks, record=True)
    assert (path.x[1] != path.x[2]).all()


@pytest.mark.parametrize("grad_last", [None, 0, 2, 4])
def test_trajectory_holds_both_ends(grad_last):
    process = RectifiedFlow()
    x_T = start(process)
    x_0, path = run(process, process.levels(4), x_T, record=True, grad_last=grad_last)
    assert path.x.shape == (5, *SHAPE)
    assert path.x0_hat.shape == (4, *SHAPE)
    np.testing.assert_array_equal(path.x[0], x_T)
    np.testing.assert_array_equal(path.x[-1], x_0)
    np.testing.assert_array_equal(path.x0_hat[-1], x_0)
    np.testing.assert_allclose(x_0, run(process, process.levels(4), x_T), rtol=1e-5, atol=1e-6)


def test_randomness_comes_from_the_key_alone():
    process, levels = RectifiedFlow(), RectifiedFlow().levels(4)
    first, again = (run(process, levels, solver=DDIM(eta=1.0)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (run(process, levels, solver=DDIM(eta=1.0), rng=jax.random.key(8)) != first).any()


def test_renoising_puts_a_frame_back_on_the_marginal():
    process = RectifiedFlow()
    x0 = jnp.full((1, 1, 20_000), 0.6)
    tau = np.float32([0.3, 0.0, 0.8])
    x = run(process, tau, noise_like(RNG, x0), rising="renoise", denoiser=lambda x, t, c: jnp.full_like(x, 0.6))
    assert abs(float(x.mean()) - 0.2 * 0.6) < 0.02
    assert abs(float(x.std()) - 0.8) < 0.02


def test_inversion_is_undone_by_sampling():
    """A straight-line flow with a fixed x0_hat is inverted exactly; a curved one better with Heun than with DDIM."""
    process = RectifiedFlow()
    down = process.levels(20)[:-1]
    down = down[down < 0.95]
    x = jnp.tanh(start(process))
    errors = []
    for solver in (DDIM(), Heun()):
        noise = run(process, down[::-1].copy(), x, rising="invert", solver=solver)
        errors.append(float(jnp.abs(run(process, down, noise, solver=solver) - x).max()))
    assert errors[1] < 0.2 * errors[0]
    assert errors[0] < 0.5


def loss_of(process, levels, **settings):
    def loss(scale):
        denoiser = make_denoiser(process, lambda x, t, c: scale * network(x, t, c))
        return jnp.sum(sample(denoiser, process, start(process), levels, {}, rng=RNG, **settings) ** 2)

    return loss


@pytest.mark.parametrize("solver", [DDIM(eta=1.0), Heun(), UniPC()], ids=str)
def test_gradients_flow_through_sampling(solver):
    process = RectifiedFlow()
    loss = jax.jit(jax.value_and_grad(loss_of(process, process.levels(3), solver=solver)))
    (low, _), (_, gradient), (high, _) = loss(0.99), loss(1.0), loss(1.01)
    np.testing.assert_allclose(gradient, (high - low) / 0.02, rtol=3e-2)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("last", [1, 2])
def test_grad_last_is_the_gradient_of_the_last_steps_from_a_constant(last, remat):
    process = RectifiedFlow()
    levels = process.levels(4)
    got = jax.jit(jax.grad(loss_of(process, levels, grad_last=last, remat=remat)))(1.1)

    def reference(scale):
        def denoiser(scale):
            return make_denoiser(process, lambda x, t, c: scale * network(x, t, c))

        x = sample(denoiser(1.1), process, start(process), levels[: 5 - last], {})
        return jnp.sum(sample(denoiser(scale), process, x, levels[4 - last :], {}) ** 2)

    np.testing.assert_allclose(got, jax.grad(reference)(1.1), rtol=1e-4)


def test_grad_last_none_of_all_steps_carries_no_gradient():
    process = RectifiedFlow()
    assert jax.grad(loss_of(process, process.levels(3), grad_last=0))(1.0) == 0.0


def test_remat_changes_nothing():
    process = VP()
    plain, remat = (jax.jit(jax.grad(loss_of(process, process.levels(3), remat=r)))(1.0) for r in (False, True))
    np.testing.assert_allclose(remat, plain, rtol=1e-5)


def test_memory_of_the_backward_pass_follows_grad_last():
    """From the compiler's own account: free steps cost nothing, remat keeps less than plain."""
    process = RectifiedFlow()

    def temporary(steps, **settings):
        def loss(w):
            def wide(x, t, c):
                return jnp.tanh(jnp.tanh(x @ w) @ w.T)

            x_T = jnp.zeros((8, 4, 16))
            return jnp.sum(sample(make_denoiser(process, wide), process, x_T, process.levels(steps), {}, **settings))

        compiled = jax.jit(jax.grad(loss)).lower(jnp.ones((16, 512))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(40, grad_last=2) < 1.2 * temporary(4, grad_last=2)
    assert temporary(40) > 2 * temporary(40, grad_last=2)
    assert temporary(40, remat=True) < 0.5 * temporary(40)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": np.float32([0.5, 0.7])}, "is above"),
        ({"tau": np.zeros((3, 5), np.float32)}, "tau: shape"),
        ({"solver": DDIM(eta=1.0), "rng": None}, "rng: missing"),
        ({"rising": "renoise", "rng": None}, "rng: missing"),
        ({"known": Known(jnp.zeros(SHAPE, bool), jnp.zeros(SHAPE)), "rng": None}, "rng: missing"),
        ({"repaste": False}, "repaste"),
        ({"grad_last": 5}, "grad_last: 5"),
        ({"noise": np.zeros((2, *SHAPE))}, "noise: shape"),
        ({"noise": {"a": np.zeros((3, *SHAPE))}}, "noise: has other leaves"),
        ({"lands": np.float32([0.5, 0.0])}, "lands: shape"),
        ({"lands": np.float32([0.7, 0.3, 0.1])}, "is not where tau ends"),
        ({"lands": np.float32([0.7, 1.3, 0.0])}, "lands.1, 0.: 1.2"),
        ({"known": Known(jnp.zeros((2, 3)), jnp.zeros(SHAPE))}, "must be bool"),
    ],
)
def test_wrong_requests_are_refused(settings, message):
    settings = {"tau": RectifiedFlow().levels(3), **settings}
    with pytest.raises(ValueError, match=message):
        run(RectifiedFlow(), settings.pop("tau"), **settings)


def test_traced_levels_are_refused():
    process = RectifiedFlow()
    with pytest.raises(ValueError, match="tau: is traced"):
        jax.jit(lambda tau: sample(lambda x, t, c: x, process, start(process), tau, {}))(jnp.array([1.0, 0.0]))
