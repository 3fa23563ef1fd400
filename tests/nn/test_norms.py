import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vdm_jax.nn.norms import LayerNorm, RMSNorm, layer_norm, modulate

X = np.asarray(3 * jax.random.normal(jax.random.key(0), (2, 5, 3, 8)) + 1)


@pytest.mark.parametrize("shape", [(8,), (3, 8)])
def test_rms_norm_is_that_of_torch(shape):
    norm, theirs = RMSNorm(shape, rngs=nnx.Rngs(0)), torch.nn.RMSNorm(shape, eps=1e-6)
    scale = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    norm.scale[...] = jnp.asarray(scale)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(scale))
        want = theirs(torch.from_numpy(X.copy())).numpy()
    np.testing.assert_allclose(norm(jnp.asarray(X)), want, rtol=1e-5, atol=1e-5)


def test_layer_norm_is_that_of_torch():
    norm, theirs = LayerNorm(8, rngs=nnx.Rngs(0)), torch.nn.LayerNorm(8, eps=1e-6)
    scale, bias = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    norm.scale[...], norm.bias[...] = jnp.asarray(scale), jnp.asarray(bias)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(scale))
        theirs.bias.copy_(torch.from_numpy(bias))
        want = theirs(torch.from_numpy(X.copy())).numpy()
    np.testing.assert_allclose(norm(jnp.asarray(X)), want, rtol=1e-5, atol=1e-5)


def test_statistics_are_float32():
    """A large mean would eat the variance in bfloat16 arithmetic."""
    x = jnp.asarray(X + 30, jnp.bfloat16)
    got = layer_norm(x)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float32), layer_norm(x.astype(jnp.float32)), atol=0.02)
    assert RMSNorm((8,), rngs=nnx.Rngs(0))(x).dtype == jnp.bfloat16


def test_modulation_at_rest_is_the_identity():
    np.testing.assert_array_equal(modulate(X, 0.0, 0.0), X)
    np.testing.assert_allclose(modulate(X, 2.0, 0.5), 1.5 * X + 2, rtol=1e-6)
