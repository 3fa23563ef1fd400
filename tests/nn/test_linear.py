import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.nn import folding, linear
from vdm_jax.nn.linear import Linear, param, xavier_uniform
from vdm_jax.sharding.rules import logical_axes

SHAPES = {"matrix": (7, ("embed", "mlp")), "heads": ((2, 3, 5), ("embed", "heads", None, "head_dim"))}


def outputs_and_gradients(layer, x):
    graphdef, state = nnx.split(layer)

    def total(state, x):
        y = nnx.merge(graphdef, state)(x)
        return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

    (_, y), grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(state, x)
    return [y, *jax.tree.leaves(grads)]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_merging_the_tokens_changes_nothing(monkeypatch, name, bias):
    out_dims, axes = SHAPES[name]
    layer = Linear(4, out_dims, axes=axes, bias=bias, rngs=nnx.Rngs(0))
    if bias:
        layer.bias[...] = jax.random.normal(jax.random.key(2), layer.bias.shape)
    x = jax.random.normal(jax.random.key(1), (2, 3, 6, 4))
    results = []
    for flatten in (True, False):
        for module in (folding, linear):
            monkeypatch.setattr(module, "folds", lambda flatten=flatten: flatten)
        results.append(outputs_and_gradients(layer, x))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    letters = "ijk"[: layer.kernel.ndim - 1]
    want = np.einsum(f"abcd,d{letters}->abc{letters}", x, layer.kernel[...])
    want = want + np.asarray(layer.bias[...]) if bias else want
    np.testing.assert_allclose(results[0][0], want, rtol=1e-5, atol=1e-5)


def test_tokens_are_merged_on_a_cpu_unless_the_mesh_cuts_them():
    assert folding.folds()
    mesh = jax.make_mesh((2,), ("context",), devices=jax.devices()[:2])
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        assert not folding.folds()


def test_the_precision_is_that_of_the_input():
    layer = Linear(4, 3, axes=("embed", "mlp"), rngs=nnx.Rngs(0))
    for dtype in (jnp.float32, jnp.bfloat16):
        assert layer(jnp.ones((2, 4), dtype)).dtype == dtype
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(layer))} == {jnp.dtype("float32")}


def test_parameters_know_what_their_dims_mean():
    layer = Linear(4, (2, 3), axes=("embed", "heads", "head_dim"), rngs=nnx.Rngs(0))
    axes = logical_axes(nnx.state(layer))
    assert axes == {"kernel": ("embed", "heads", "head_dim"), "bias": ("heads", "head_dim")}
    with pytest.raises(AssertionError, match="does not name the dims"):
        param(nnx.Rngs(0), jax.nn.initializers.zeros, (2, 3), ("embed",))


def test_split_outputs_start_like_one_matrix():
    limit = np.sqrt(6 / (64 + 96))
    kernel = np.asarray(Linear(64, (4, 3, 8), axes=("embed", "heads", None, "head_dim"), rngs=nnx.Rngs(0)).kernel[...])
    assert np.abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.03)
    np.testing.assert_array_equal(
        kernel, Linear(64, 96, axes=("embed", "mlp"), rngs=nnx.Rngs(0)).kernel[...].reshape(kernel.shape)
    )
    assert xavier_uniform(3, 3)(jax.random.key(0), (2,), jnp.float32).shape == (2,)
