import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import DDIM, EDM, LCM, TCD, VP, ConsistencyGrid, RectifiedFlow, noise_like
from vdm_jax.diffusion.consistency import consistent

SHAPE = (1, 2, 50_000)


def believe(x, t):
    return jnp.full_like(x, 0.4)


def times(t, s):
    return jnp.full((1, 2), t), jnp.full((1, 2), s)


def noise(seed=0):
    return noise_like(jax.random.key(seed), jnp.zeros(SHAPE))


@pytest.mark.parametrize("solver", [LCM(), LCM(scaling=None), TCD(gamma=0.5), TCD(gamma=1.0)], ids=str)
def test_a_step_arrives_on_the_marginal(solver):
    """With the true x0, from x_t = q(x_t | x0) to x_s = q(x_s | x0); LCM's own share of x_t is 1e-9 here."""
    process = VP()
    t, s = times(0.8, 0.3)
    x_t = process.q_sample(jnp.full(SHAPE, 0.4), noise(), t)
    x_s, _, _ = solver.step(believe, process, x_t, t, s, (), noise(1))
    alpha, sigma = process.alpha_sigma(jnp.float32(0.3))
    assert abs(float(x_s.mean()) - 0.4 * float(alpha)) < 0.01
    assert abs(float(x_s.std()) - float(sigma)) < 0.01


def test_lcm_keeps_x_where_the_network_is_told_zero():
    process = VP()
    t, s = times(1 / 1000, 0.0)  # entry 0, told 0: f(x, 0) = x
    x = noise()
    x_s, x0_hat, _ = LCM().step(believe, process, x, t, s, (), noise(1))
    np.testing.assert_allclose(x_s, x, rtol=1e-6)
    np.testing.assert_allclose(x0_hat, x, rtol=1e-6)
    x_s, _, _ = LCM(scaling=None).step(believe, process, x, t, s, (), noise(1))
    np.testing.assert_allclose(x_s, 0.4, rtol=1e-6)


def test_tcd_without_gamma_is_ddim():
    process = RectifiedFlow()
    t, s = times(0.8, 0.3)
    got, want = (solver.step(believe, process, noise(), t, s, (), None)[0] for solver in (TCD(gamma=0.0), DDIM()))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_frames_are_held_and_ended_each_by_itself():
    process = VP()
    t, s = jnp.array([[0.5, 0.5]]), jnp.array([[0.5, 0.0]])
    for solver in (LCM(), TCD()):
        x = noise()
        x_s, x0_hat, _ = solver.step(believe, process, x, t, s, (), noise(1))
        np.testing.assert_array_equal(x_s[:, 0], x[:, 0])
        np.testing.assert_array_equal(x_s[:, 1], x0_hat[:, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LCM(scaling=0.0), "scaling: 0.0"),
        (lambda: TCD(gamma=1.5), "gamma: 1.5"),
        (lambda: TCD(entries=1), "entries: 1"),
    ],
)
def test_bad_fields_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_f_is_x_exactly_where_it_is_clean():
    x = noise()[:, :, :100]
    belief = 3.0 * x + 1.0
    np.testing.assert_array_equal(consistent(VP(), x, belief, jnp.zeros((1, 2)), 10.0), x)
    edm = EDM(sigma_data=1.0, prediction="v")  # bounds its own network
    clean = edm.belief(belief, x, jnp.zeros((1, 2)))
    np.testing.assert_array_equal(consistent(edm, x, clean, jnp.zeros((1, 2)), None), x)


def test_the_grid_is_that_of_the_skipping_steps():
    grid = ConsistencyGrid(steps=50)
    entries = np.round(grid.levels(VP()) * 1000).astype(int) - 1
    np.testing.assert_array_equal(entries[:-1], [i * 20 - 1 for i in range(50, 0, -1)])
    assert entries[-1] == 0  # the step before the first lands on the first entry of the table
    edm = EDM(sigma_min=0.002, sigma_max=700.0)
    np.testing.assert_array_equal(ConsistencyGrid(100, None).levels(edm), edm.levels(100))


def test_sampling_visits_levels_of_training():
    grid, process = ConsistencyGrid(steps=8), VP()
    np.testing.assert_array_equal(grid.sampled(process, 8)[:-1], grid.levels(process)[:-1])
    np.testing.assert_array_equal(grid.sampled(process, 4), [*grid.levels(process)[[0, 2, 4, 6]], 0.0])
    np.testing.assert_array_equal(grid.sampled(process, 3)[:-1], grid.levels(process)[[0, 2, 5]])
    for steps in range(1, 9):
        grid.check(process, grid.sampled(process, steps))
    with pytest.raises(ValueError, match=r"levels: \[1.0, 0.9, 0.0\] are not all .* distilled at: \[1.0, 0.875"):
        grid.check(process, np.array([1.0, 0.9, 0.0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ConsistencyGrid(0), "steps: 0 must be 1"),
        (lambda: ConsistencyGrid(8, -1.0), "scaling: -1.0"),
        (lambda: ConsistencyGrid(1000).levels(VP()), "steps: 1000 puts the lowest level, 0.001, in the grid twice"),
        (lambda: ConsistencyGrid(8).levels(EDM(told="quarter_log")), "scaling: 10.0 needs .*EDM does not: use None"),
        (lambda: ConsistencyGrid(8).sampled(VP(), 9), "steps: 9 is more than the 8"),
        (lambda: ConsistencyGrid(8).sampled(VP(), 0), "steps: 0 must be at least 1"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
