import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vdm_jax.nn.projection import TextProjection


def test_two_layers_with_a_gelu_between():
    layer = TextProjection(3, 5, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 4, 3))
    hidden = x @ layer.hidden.kernel[...]
    inner = jnp.sqrt(2 / jnp.pi) * (hidden + 0.044715 * hidden**3)
    want = (0.5 * hidden * (1 + jnp.tanh(inner))) @ layer.out.kernel[...]
    np.testing.assert_allclose(layer(x), want, rtol=1e-5, atol=1e-5)
