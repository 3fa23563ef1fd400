import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.planning.collectives import collectives
from vdm_jax.planning.hlo import parse
from vdm_jax.sharding import LogicalRules, MeshConfig, activation_sharding, constrain, make_mesh
from vdm_jax.sharding.exchange import exchange, padded

SIZES = {"even": (8, 12), "uneven": (5, 7), "fewer_than_devices": (3, 2)}
B, D = 2, 6


def up(size):
    return -(-size // 4) * 4


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2, context=4))


def on(mesh, function):
    def inside(*args):
        with activation_sharding(mesh, LogicalRules()):
            return function(*args)

    return jax.jit(inside)


def clip(t, s):
    return jax.random.normal(jax.random.key(0), (B, t, s, D))


def there(x):
    """`[B, T, S, D]` -> T cut and padded -> S cut and padded."""
    t = x.shape[1]
    x = jnp.pad(x, [(0, 0), (0, padded(t, "context") - t), (0, 0), (0, 0)])
    return exchange(constrain(x, "batch", "frames", None, None), "context", join=1, split=2, length=t)


@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_gradients_stay_what_they_are(mesh, sizes):
    t, s = SIZES[sizes]
    x = jax.device_put(clip(t, s), jax.NamedSharding(mesh, jax.P("data")))
    weights = jnp.arange(B * t * s * D, dtype=jnp.float32).reshape(B, t, s, D)
    got = on(mesh, there)(x)
    assert got.shape == (B, t, up(s), D)
    np.testing.assert_array_equal(got[:, :, :s], x)
    assert not np.asarray(got[:, :, s:]).any()
    assert got.sharding.spec == jax.P("data", None, "context")

    def total(x):
        back = exchange(there(x), "context", join=2, split=1, length=s)
        return (back[:, :t] * weights).sum() + 2 * (there(x)[:, :, :s] * weights).sum()

    value, grad = on(mesh, jax.value_and_grad(total))(x)
    np.testing.assert_allclose(value, 3 * (x * weights).sum(), rtol=1e-5)
    np.testing.assert_array_equal(grad, 3 * weights)


@pytest.mark.parametrize("sizes", SIZES)
def test_it_is_one_all_to_all_each_way_and_nothing_else(mesh, sizes):
    t, s = SIZES[sizes]
    place = lambda x, spec: jax.device_put(x, jax.NamedSharding(mesh, spec))  # noqa: E731
    x = place(clip(up(t), s), jax.P("data", "context"))
    weights = place(jnp.ones((B, t, up(s), D)), jax.P("data", None, "context"))
    move = lambda x: exchange(x, "context", join=1, split=2, length=t)  # noqa: E731
    programs = {
        "forward": (on(mesh, move), (x,)),
        "backward": (on(mesh, lambda x, w: jax.vjp(move, x)[1](w)), (x, weights)),
    }
    for program, args in programs.values():
        found = collectives(parse(program.lower(*args).compile().as_text()), mesh.shape)
        assert [(c.kind, c.count, c.axes) for c in found] == [("all-to-all", 1, ("context",))]
        share = B // 2 * up(t) * up(s) * D // 4 * 4
        assert found[0].out_bytes == share
