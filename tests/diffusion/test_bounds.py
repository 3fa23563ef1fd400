import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import ClipRange, DynamicThreshold


def test_clip_range_is_elementwise_on_every_leaf():
    got = ClipRange(0.5)({"a": jnp.array([[-2.0, 0.2]]), "b": jnp.array([[0.7]])})
    np.testing.assert_allclose(got["a"], [[-0.5, 0.2]])
    np.testing.assert_allclose(got["b"], [[0.5]])


def test_dynamic_threshold_is_that_of_each_example():
    x = jnp.stack([jnp.linspace(-0.5, 0.5, 11), jnp.linspace(-2.0, 2.0, 11), jnp.linspace(-9.0, 9.0, 11)])[..., None]
    got = DynamicThreshold(quantile=1.0, limit=3.0)(x)
    np.testing.assert_allclose(got[0], x[0])  # never stretched
    np.testing.assert_allclose(got[1], x[1] / 2.0, rtol=1e-6)
    np.testing.assert_allclose(got[2], np.clip(x[2], -3.0, 3.0) / 3.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClipRange(0.0), "limit: 0.0"),
        (lambda: DynamicThreshold(quantile=1.5), "quantile: 1.5"),
        (lambda: DynamicThreshold(limit=-1.0), "limit: -1.0"),
    ],
)
def test_bad_fields_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
