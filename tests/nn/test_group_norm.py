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
