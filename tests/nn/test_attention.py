import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.attention.cases import reference
from vdm_jax.attention import KVCache, Policy
from vdm_jax.nn.attention import CrossAttention, QKNorm, SelfAttention
from vdm_jax.nn.rotary import rotary_table, rotate

DIM, HEADS, N, L = 12, 3, 5, 4
X = jax.random.normal(jax.random.key(0), (2, N, DIM))
TEXT = jax.random.normal(jax.random.key(1), (2, L, DIM))
MASK = jnp.arange(L)[None] < jnp.array([[2], [4]])


def heads_first(x):
    return x.swapaxes(1, 2)


@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize("qk_norm", ["none", "head", "all"])
def test_self_attention_spelled_out(qk_norm, rope):
    layer = SelfAttention(DIM, HEADS, qk_norm=qk_norm, rngs=nnx.Rngs(0))
    table = jnp.asarray(rotary_table((N,), DIM // HEADS)) if rope else None
    qkv = jnp.einsum("gnd,dhtc->tghnc", X, layer.qkv.kernel[...])
    q, k = (heads_first(y) for y in layer.norm(heads_first(qkv[0]), heads_first(qkv[1])))
    if rope:
        q, k = rotate(q, table), rotate(k, table)
    out = reference(q, k, qkv[2], Policy(causal=True), (DIM // HEADS) ** -0.5)
    want = heads_first(out).reshape(X.shape) @ layer.out.kernel[...]
    np.testing.assert_allclose(layer(X, Policy(causal=True), table), want, rtol=1e-5, atol=1e-5)


def test_cross_attention_spelled_out():
    layer = CrossAttention(DIM, HEADS, qk_norm="head", rngs=nnx.Rngs(0))
    kv = jnp.einsum("gnd,dhtc->tgnhc", TEXT, layer.kv.kernel[...])
    q, k = layer.norm(jnp.einsum("gnd,dhc->gnhc", X, layer.q.kernel[...]), kv[0])
    parts = (heads_first(y) for y in (q, k, kv[1]))
    out = reference(*parts, Policy(key_mask=MASK), (DIM // HEADS) ** -0.5)
    want = heads_first(out).reshape(X.shape) @ layer.out.kernel[...]
    np.testing.assert_allclose(layer(X, TEXT, MASK), want, rtol=1e-5, atol=1e-5)


def test_cross_attention_does_not_see_padding():
    layer = CrossAttention(DIM, HEADS, rngs=nnx.Rngs(0))
    padded = jnp.where(MASK[..., None], TEXT, 1e3)
    np.testing.assert_array_equal(layer(X, padded, MASK), layer(X, TEXT, MASK))
    assert np.abs(layer(X, padded) - layer(X, TEXT))[0].max() > 1e-3


@pytest.mark.parametrize(("kind", "over"), [("head", (-1,)), ("all", (-2, -1))])
def test_queries_and_keys_are_normed_over_a_head_or_all(kind, over):
    norm = QKNorm(kind, HEADS, 4, rngs=nnx.Rngs(0))
    q = 5 * jax.random.normal(jax.random.key(2), (2, N, HEADS, 4))
    for y in norm(q, 3 * q):
        np.testing.assert_allclose((np.asarray(y) ** 2).mean(over), 1.0, rtol=1e-4)
    assert QKNorm("none", HEADS, 4, rngs=nnx.Rngs(0))(q, q)[0] is q


def test_queries_and_keys_without_bias_from_a_context_of_another_width():
    layer = CrossAttention(DIM, HEADS, context_dim=7, qkv_bias=False, rngs=nnx.Rngs(0))
    assert layer.kv.kernel.shape[0] == 7
    assert (layer.q.bias, layer.kv.bias) == (None, None)
    assert layer.out.bias is not None
    assert layer(X, jnp.ones((2, L, 7))).shape == X.shape
    assert SelfAttention(DIM, HEADS, qkv_bias=False, rngs=nnx.Rngs(0)).qkv.bias is None


def test_heads_of_their_own_size_and_scale_without_bias():
    layer = SelfAttention(DIM, HEADS, head_dim=6, qkv_bias=False, out_bias=False, scale=1.0, rngs=nnx.Rngs(0))
    assert layer.out.bias is None
    qkv = jnp.einsum("gnd,dhtc->tghnc", X, layer.qkv.kernel[...])
    out = reference(*qkv, Policy(), 1.0)
    want = heads_first(out).reshape(2, N, 18) @ layer.out.kernel[...]
    np.testing.assert_allclose(layer(X, Policy()), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("turned", [False, True])
def test_through_time_is_attention_to_a_window_of_frames(turned):
    """A frame at a time through a queue of three, then two noisy ones beside it."""
    s, frames, dim, heads = 2, 7, 8, 2
    layer = SelfAttention(dim, heads, rngs=nnx.Rngs(0))
    table = jnp.asarray(rotary_table((frames,), dim // heads)) if turned else None

    @jax.jit
    def both(x):
        cache = KVCache.empty(1, heads, frames=3, tokens=s, head_dim=dim // heads)
        out = []
        for n in range(5):
            y, cache = layer.through_time(x[:, :, n : n + 1], cache, table, keep=True)
            out.append(y)
        y, same = layer.through_time(x[:, :, 5:], cache, table, keep=False)
        assert same is cache
        one = layer(x, Policy(causal=True, window=3), table, tokens="GN")[:, :, :5]
        late = jnp.arange(frames)[None] >= 2  # the queue holds frames 2, 3 and 4
        mask = (late & jnp.tril(jnp.ones((frames, frames), bool)))[None, None]
        two = layer(x, Policy(mask=mask), table, tokens="GN")[:, :, 5:]
        return jnp.concatenate([*out, y], axis=2), jnp.concatenate([one, two], axis=2)

    got, want = both(jax.random.normal(jax.random.key(0), (1, s, frames, dim)))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
