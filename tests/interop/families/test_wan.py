"""What only the Wan transformers have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.interop.parity import published
from vdm_jax.interop.families.wan import WAN
from vdm_jax.models.wan import Wan, WanConfig


def test_one_time_a_clip_is_that_time_for_every_frame():
    config = WanConfig(channels=2, dim=16, depth=1, heads=2, mlp_dim=16, text_dim=4, frequencies=8)
    network = Wan(config, nnx.Rngs(0))
    network.patch_out.kernel[...] = jax.random.normal(jax.random.key(2), network.patch_out.kernel.shape)
    x, tokens = jax.random.normal(jax.random.key(1), (1, 2, 4, 4, 2)), jnp.ones((1, 3, 4))
    run = jax.jit(lambda t: network(x, t, {"tokens": tokens}))
    one, each, other = run(jnp.array([300.0])), run(jnp.array([[300.0, 300.0]])), run(jnp.array([[0.0, 300.0]]))
    np.testing.assert_allclose(one, each, rtol=1e-6, atol=1e-6)
    assert np.abs(np.asarray(one - other)).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qk_norm": "layer_norm"}, "qk_norm='layer_norm' is not supported"),
        ({"num_layer": 3}, "unknown 'num_layer'; did you mean 'num_layers'"),
        ({"added_kv_proj_dim": 7}, "added_kv_proj_dim=7 is not supported"),
        ({"eps": 1e-5}, "eps=1e-05 is not supported"),
    ],
)
def test_options_it_does_not_have_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        WAN.config(published("Wan2.1-T2V-1.3B") | change)
