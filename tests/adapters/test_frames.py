import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.adapters.every import DIT, EVERY, awake, definitions
from vdm_jax.adapters.frames import FirstFrameConfig, FirstFrameQuery, KeysBesideFrame, KeysOfFrame, copied
from vdm_jax.attention import FULL
from vdm_jax.nn.attention import SelfAttention
from vdm_jax.nn.rotary import rotary_table

X = jax.random.normal(jax.random.key(0), (2, 3, 4, 8))  # [B, T, N, D]
call = jax.jit(lambda layer, x, rotary: layer(x, FULL, rotary, tokens="GN"))


def redrawn(network):
    """A network in which every parameter says something."""
    leaves, tree = jax.tree.flatten(nnx.state(network, nnx.Param))
    drawn = np.random.default_rng(0)
    leaves = [jnp.asarray(drawn.normal(0, 0.3, leaf.shape), leaf.dtype) for leaf in leaves]
    nnx.update(network, jax.tree.unflatten(tree, leaves))
    return network


@pytest.fixture(scope="module")
def layer():
    return redrawn(SelfAttention(8, 2, qk_norm="head", rngs=nnx.Rngs(0)))


def softmaxed(q, k, v):
    """Attention of `[..., N, H, c]` by definition, heads merged."""
    weights = jax.nn.softmax(jnp.einsum("...nhc,...mhc->...hnm", q, k) / q.shape[-1] ** 0.5, axis=-1)
    out = jnp.einsum("...hnm,...mhc->...nhc", weights, v)
    return out.reshape(*out.shape[:-2], -1)


def projected(layer, x):
    qkv = layer.qkv(x)
    return (*layer.norm(qkv[..., 0, :], qkv[..., 1, :]), qkv[..., 2, :])


@pytest.mark.parametrize("frame", [0, 2])
def test_keys_come_from_the_chosen_frame(layer, frame):
    q, k, v = projected(layer, X)
    alone, beside = (lambda y: jnp.broadcast_to(y[:, frame, None], y.shape)), lambda y: y
    wanted = layer.out(softmaxed(q, alone(k), alone(v)))
    np.testing.assert_allclose(call(KeysOfFrame(layer, frame), X, None), wanted, atol=1e-5)
    both = [jnp.concatenate([beside(y), alone(y)], axis=2) for y in (k, v)]
    np.testing.assert_allclose(call(KeysBesideFrame(layer, frame), X, None), layer.out(softmaxed(q, *both)), atol=1e-5)


def test_a_branch_asks_the_first_frame_with_a_query_of_its_own(layer):
    adapted = FirstFrameQuery(layer, nnx.Rngs(1))
    np.testing.assert_array_equal(adapted.first_frame.q.kernel[...], layer.qkv.kernel[..., 0, :])
    np.testing.assert_array_equal(adapted.first_frame.q.bias[...], layer.qkv.bias[..., 0, :])
    redrawn(adapted.first_frame)
    q, k, v = projected(layer, X)
    own = layer.norm.q(adapted.first_frame.q(X))
    first = [jnp.broadcast_to(y[:, :1], y.shape) for y in (k, v)]
    wanted = layer.out(softmaxed(q, k, v)) + adapted.first_frame.out(softmaxed(own, *first))
    np.testing.assert_allclose(call(adapted, X, None), wanted, atol=1e-5)


def test_padding_behind_the_tokens_is_seen_by_nobody(layer):
    junk = X.at[:, :, 3:].set(1e3)
    for adapted in (KeysBesideFrame(layer), FirstFrameQuery(layer, nnx.Rngs(1))):
        run = jax.jit(lambda layer, x, length: layer(x, length=length), static_argnums=2)
        np.testing.assert_allclose(run(adapted, junk, 3)[:, :, :3], run(adapted, X[:, :, :3], None), atol=1e-5)


@pytest.mark.parametrize("make", [KeysOfFrame, KeysBesideFrame, lambda base: FirstFrameQuery(base, nnx.Rngs(1))])
def test_a_frame_depends_on_itself_and_the_first_alone(layer, make):
    adapted, table = make(layer), jnp.asarray(rotary_table((4,), 4))
    if isinstance(adapted, FirstFrameQuery):
        redrawn(adapted.first_frame)
    before = call(adapted, X, table)
    others = call(adapted, X.at[:, 1].add(1.0), table)
    np.testing.assert_array_equal(others[:, [0, 2]], before[:, [0, 2]])
    assert (others[:, 1] != before[:, 1]).any()
    assert (call(adapted, X.at[:, 0].add(1.0), table)[:, 2] != before[:, 2]).any()


def test_the_published_adapter_has_24_million_parameters():
    def size(width):
        base = lambda: SelfAttention(width, 8, qkv_bias=False, rngs=nnx.Rngs(0))  # noqa: E731
        branch = nnx.eval_shape(lambda: FirstFrameQuery(base(), nnx.Rngs(1)).first_frame)
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(branch, nnx.Param)))

    assert size(320) == 2 * 320**2 + 320
    assert round((5 * size(320) + 5 * size(640) + 6 * size(1280)) / 1e6, 1) == 24.8  # layers of SD1.5


def test_the_copy_is_made_again_of_weights_that_come_later():
    name = "first_frame_dit"
    later = awake(definitions(*EVERY[name][:2]).abstract)
    spatial = copied(later)["backbone"]["units"]["spatial"]["attention"]
    assert spatial["first_frame"]["q"]["kernel"].shape == (2, 16, 2, 8)
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(spatial["first_frame"]["q"][name], spatial["qkv"][name][..., 0, :])


def test_a_network_without_spatial_attention_is_refused():
    config = dataclasses.replace(DIT, attention="full")
    with pytest.raises(ValueError, match="the DiT has no spatial self-attention"):
        definitions(config, FirstFrameConfig().put_into)


def test_wrong_input_is_refused(layer):
    with pytest.raises(ValueError, match="frame: 3 is not in a clip of 3 frames"):
        KeysOfFrame(layer, 3)(X)
    with pytest.raises(ValueError, match="frame: -1 must be 0 or more"):
        FirstFrameConfig(frame=-1)
