"""Convolutions against their definition: every window, stride and padding, and the gradients of both paths."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.attention.meshes import mesh_of
from vdm_jax.nn.conv import Conv, convolve
from vdm_jax.sharding import LogicalRules, activation_sharding, constrain, logical_axes, param_shardings


def by_definition(x, kernel, bias, stride, padding):
    """The sum of the module docstring over one picture `[*S, in]`, point by point."""
    x = np.pad(x, [*padding, (0, 0)])
    window = kernel.shape[:-2]
    sizes = [(n - k) // s + 1 for n, k, s in zip(x.shape, window, stride)]
    y = np.zeros((*sizes, kernel.shape[-1]))
    for point in itertools.product(*map(range, sizes)):
        at = tuple(slice(p * s, p * s + k) for p, s, k in zip(point, stride, window))
        y[point] = np.tensordot(x[at], kernel, kernel.ndim - 1) + bias
    return y


@pytest.mark.parametrize(
    ("window", "stride", "padding"),
    [
        ((3,), 1, None),
        ((3, 3), 1, None),
        ((3, 3), 2, None),
        ((3, 3), 2, ((0, 1), (0, 1))),
        ((1, 1), 1, None),
        ((3, 1, 1), 1, None),
        ((3, 1, 1), 1, ((2, 0), (0, 0), (0, 0))),
        ((3, 1, 1), (2, 1, 1), None),
        ((3, 3, 3), (1, 2, 2), None),
    ],
)
def test_a_convolution_is_its_definition(window, stride, padding):
    layer = Conv(3, 5, window, rngs=nnx.Rngs(0), stride=stride, padding=padding)
    layer.bias[...] = jnp.arange(5.0)
    dims = len(window)
    x = np.asarray(jax.random.normal(jax.random.key(1), (2, 3, 4, 6, 5)[-dims - 1 :][:-1] + (3,)))
    batch = np.stack([x, x + 1])[:, None]  # [2, 1, *S, 3]
    out = np.asarray(layer(jnp.asarray(batch)))
    for one, y in zip(batch[:, 0], out[:, 0]):
        expected = by_definition(one, np.asarray(layer.kernel[...]), np.arange(5.0), layer.stride, layer.padding)
        np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("window", [(3, 1, 1), (1, 3, 3), (3, 3)])
def test_gradients_are_those_of_the_library(window):
    layer = Conv(4, 6, window, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 5, 4, 4, 4))
    kernel = layer.kernel[...]
    letters = "THW"[-len(window) :]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")

    def theirs(x, kernel):
        flat = x.reshape(-1, *x.shape[-len(window) - 1 :])
        y = jax.lax.conv_general_dilated(flat, kernel, layer.stride, layer.padding, dimension_numbers=numbers)
        return jnp.sum(jnp.sin(y))

    def ours(x, kernel):
        return jnp.sum(jnp.sin(convolve(x, kernel, layer.stride, layer.padding)))

    for got, expected in zip(jax.grad(ours, (0, 1))(x, kernel), jax.grad(theirs, (0, 1))(x, kernel)):
        np.testing.assert_allclose(got, expected, atol=2e-4)


def test_the_network_decides_the_precision():
    layer = Conv(4, 6, (3, 3), rngs=nnx.Rngs(0))
    assert layer(jnp.ones((1, 4, 4, 4), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("axes", [("embed", "embed_out"), ("embed_out", "embed")])
def test_kernels_and_pixels_cut_over_the_same_axis(axes):
    """What XLA gets wrong by itself, forward or backward."""
    mesh = mesh_of(data=2, context=4)
    graph, state = nnx.split(Conv(4, 16, (3, 3, 3), padding=((0, 0), (1, 1), (1, 1)), axes=axes, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(state)
    x, weights = (np.random.default_rng(0).standard_normal((2, 2, 4, 4, c), np.float32) for c in (4, 16))

    def total(params, x):
        x = constrain(x, "batch", "frames", "height", "width", None)
        return jnp.sum(weights * nnx.merge(graph, params)(jnp.concatenate([jnp.zeros_like(x), x], axis=1)))

    def on_mesh(params, x):
        with activation_sharding(mesh, LogicalRules()):
            return jax.value_and_grad(total, argnums=(0, 1))(params, x)

    cut = param_shardings(params, logical_axes(state), mesh, LogicalRules())
    assert "context" in str(cut["kernel"].spec)
    found = jax.jit(on_mesh)(jax.device_put(params, cut), x)
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4),
        found,
        jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(params, x),
    )


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((3, 8, 4), {"window": (3, 3)}),  # three frames do not divide, so pixels are cut
        ((3, 2, 4), {"window": (3, 3)}),  # and the picture is smaller than its window
        ((3, 4, 4), {"window": (3, 3), "stride": 2}),
        ((5, 2, 4), {"window": (3, 3, 3), "padding": ((0, 0), (1, 1), (1, 1))}),
    ],
)
def test_batch_and_pixels_cut_over_different_axes(size, options):
    """The other gradients that XLA gets wrong by itself."""
    mesh = mesh_of(fsdp=2, context=2, tensor=2)
    graph, state = nnx.split(Conv(4, 8, rngs=nnx.Rngs(0), **options))
    x = np.random.default_rng(0).standard_normal((2, *size, 4), np.float32)

    def total(state, x):
        names = ("batch", "frames", "height", "width", None)
        y = constrain(nnx.merge(graph, state)(constrain(x, *names)), *names)
        return jnp.sum(jnp.sin(y) * jnp.arange(y.size).reshape(y.shape) / y.size)

    def on_mesh(state, x):
        with activation_sharding(mesh, LogicalRules()):
            return jax.grad(total, argnums=(0, 1))(state, x)

    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    found = jax.jit(on_mesh)(*jax.device_put((state, x), everywhere))
    wanted = jax.jit(jax.grad(total, argnums=(0, 1)))(state, x)
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4), found, wanted)
