import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.geometry import splat, splat_nearest, warp

RNG = np.random.default_rng(0)
PICTURE = jnp.asarray(RNG.normal(size=(2, 6, 8, 3)), jnp.float32)


def shift(dx, dy, lead=(2,)):
    return jnp.broadcast_to(jnp.asarray([dx, dy], jnp.float32), (*lead, 6, 8, 2))


def small_flow():
    """Flow that stays inside, of every fraction."""
    flow = RNG.uniform(-1, 1, (2, 6, 8, 2))
    flow[:, [0, -1]], flow[:, :, [0, -1]] = 0, 0
    return jnp.asarray(flow, jnp.float32)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_whole_pixels_shift_the_picture(mode):
    np.testing.assert_array_equal(warp(PICTURE, shift(0, 0), mode), PICTURE)
    moved = warp(PICTURE, shift(2, -1), mode)  # looks two to the right, one up
    np.testing.assert_array_equal(moved[:, 1:, :-2], PICTURE[:, :-1, 2:])
    np.testing.assert_array_equal(moved[:, 0, :-2], PICTURE[:, 0, 2:])  # beyond the frame its edge goes on


def test_halves_are_means_of_neighbours():
    moved = warp(PICTURE, shift(0.5, 0))
    np.testing.assert_allclose(moved[:, :, :-1], (PICTURE[:, :, 1:] + PICTURE[:, :, :-1]) / 2, atol=1e-6)


def test_a_splat_is_the_transpose_of_a_warp():
    flow, other = small_flow(), jnp.asarray(RNG.normal(size=PICTURE.shape), jnp.float32)
    landed, amount = splat(PICTURE, flow, mode="sum")
    np.testing.assert_allclose((landed * other).sum(), (PICTURE * warp(other, flow)).sum(), rtol=1e-4)
    np.testing.assert_allclose(amount.sum(), 2 * 6 * 8, rtol=1e-6)  # nothing is lost inside
    np.testing.assert_allclose(landed.sum(), PICTURE.sum(), rtol=1e-4)


def test_an_average_weighs_what_meets_and_leaves_holes():
    values = jnp.zeros((1, 4, 1)).at[0, 0].set(2.0).at[0, 1].set(8.0)
    flow = jnp.zeros((1, 4, 2)).at[0, 0, 0].set(1.0).at[0, 3, 0].set(5.0)
    weights = jnp.ones((1, 4)).at[0, 0].set(3.0)
    out, amount = jax.jit(splat)(values, flow, weights)
    np.testing.assert_allclose(out[0, :, 0], [0, (3 * 2 + 8) / 4, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(amount[0], [0, 4, 1, 0])


def test_the_nearest_footprint_rounds():
    out, amount = splat(PICTURE, shift(0.6, 0.2), footprint="nearest")
    np.testing.assert_array_equal(out[:, :, 1:], PICTURE[:, :, :-1])
    np.testing.assert_array_equal(amount[:, :, 0], 0)


def test_what_is_in_front_hides_what_is_behind():
    values = jnp.asarray([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1)
    flow = jnp.zeros((1, 4, 2)).at[0, 0, 0].set(2.0).at[0, 1, 0].set(1.0).at[0, 3, 0].set(9.0)
    nearest = jax.jit(splat_nearest)
    shown, hit = nearest(values, flow, jnp.asarray([[2.0, 1.0, 3.0, 0.1]]))
    np.testing.assert_array_equal(shown[0, :, 0], [0, 0, 2, 0])
    np.testing.assert_array_equal(hit[0], [False, False, True, False])
    same, _ = nearest(values, flow, jnp.ones((1, 4)))
    assert same[0, 2, 0] == 1.0  # the first of equals


def test_gradients_flow_through_both():
    flow = small_flow() + 0.05
    for function in (warp, lambda x, f: splat(x, f, mode="sum")[0]):
        grads = jax.jit(jax.grad(lambda x, f, g=function: (g(x, f) ** 2).sum(), argnums=(0, 1)))(PICTURE, flow)
        assert all(bool(jnp.isfinite(g).all()) and float(jnp.abs(g).max()) > 0 for g in grads)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: warp(PICTURE, shift(0, 0), "nearst"), "mode: unknown 'nearst'; did you mean 'nearest'"),
        (lambda: warp(PICTURE, shift(0, 0)[:1]), "flow: shape"),
        (lambda: splat(PICTURE, shift(0, 0), mode="mean"), "mode: unknown 'mean'"),
        (lambda: splat(PICTURE, shift(0, 0), footprint="tent"), "footprint: unknown"),
        (lambda: splat(PICTURE, shift(0, 0), jnp.ones((2, 6))), "weights: shape"),
        (lambda: splat_nearest(PICTURE, shift(0, 0), jnp.ones((2, 6))), "depth: shape"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
