"""Group norm: statistics of each group, over frames or whole clips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.nn.group_norm import GroupNorm, group_norm


@pytest.mark.parametrize(("dims", "over"), [(2, (2, 3, 5)), (3, (1, 2, 3, 5))])
def test_each_group_has_zero_mean_and_unit_variance(dims, over):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 12)) * 5 + jnp.arange(12)
    y = np.asarray(group_norm(x, 4, dims, 1e-6)).reshape(2, 3, 4, 4, 4, 3)
    np.testing.assert_allclose(y.mean(over), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(over), 1, atol=1e-5)
    per_frame = np.abs(y.mean((2, 3, 5))).max() < 1e-5
    assert per_frame == (dims == 2)


def test_scale_and_bias_are_per_channel():
    norm = GroupNorm(6, 2, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = jnp.arange(6.0), -jnp.arange(6.0)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    np.testing.assert_allclose(norm(x), group_norm(x, 2, 2, 1e-5) * np.arange(6) - np.arange(6), atol=1e-6)


def test_statistics_are_float32():
    x = (jax.random.normal(jax.random.key(0), (1, 64, 64, 4)) + 100).astype(jnp.bfloat16)
    y = group_norm(x, 2, 2, 1e-5)
    assert y.dtype == jnp.bfloat16
    assert abs(float(np.asarray(y, np.float32).std()) - 1) < 0.01


def test_groups_must_divide():
    with pytest.raises(ValueError, match="groups: 32 must divide the 40 channels"):
        GroupNorm(40, 32, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("batch", "dims"), [(1, 3), (2, 3), (1, 2)])
def test_derivatives_of_first_and_second_order_are_those_of_the_plain_formula(batch, dims):
    x = jax.random.normal(jax.random.key(0), (batch, 2, 3, 4, 8)) * 2 + 3
    weights = jax.random.normal(jax.random.key(1), x.shape)
    rows = jnp.linspace(0.5, 2.0, 8), jnp.linspace(-1.0, 1.0, 8)

    def plain(x, scale, bias):
        parts = x.reshape(*x.shape[:-1], 4, 2)
        over = (*range(parts.ndim - 2 - dims, parts.ndim - 2), parts.ndim - 1)
        unit = (parts - parts.mean(over, keepdims=True)) / jnp.sqrt(parts.var(over, keepdims=True) + 1e-3)
        return unit.reshape(x.shape) * scale + bias

    def total(norm):
        gradient = jax.grad(lambda *args: jnp.sum(weights * jnp.sin(norm(*args))), argnums=(0, 1, 2))
        penalty = jax.grad(lambda x: jnp.sum(gradient(x, *rows)[0] ** 2))
        return *gradient(x, *rows), penalty(x)

    ours = total(lambda x, scale, bias: group_norm(x, 4, dims, 1e-3, scale, bias))
    for got, want in zip(ours, total(plain)):
        np.testing.assert_allclose(got, want, atol=2e-5 * max(1.0, np.abs(want).max()))
