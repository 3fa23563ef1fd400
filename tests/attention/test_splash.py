"""Splash in Pallas' interpreter against the reference; lengths are uneven and need several tiles each way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.cases import reference
from vdm_jax.attention.kernel import View
from vdm_jax.attention.local import attend_locally
from vdm_jax.attention.policy import Policy
from vdm_jax.attention.splash import Splash
from vdm_jax.attention.splash_blocks import Blocks, Tile

B, H, NQ, NK, D = 2, 2, 300, 420, 16
SCALE = 0.3
SMALL = Tile(128, 256, 128)
BLOCKS = Blocks(SMALL, Tile(256, 128, 128))
SEGMENTS = {
    "q_segments": jnp.arange(NQ)[None] // jnp.array([[100], [170]]),
    "k_segments": jnp.arange(NK)[None] // jnp.array([[150], [80]]),
}
KEY_MASK = jnp.arange(NK)[None] < jnp.array([[260], [NK]])
POLICIES = {
    "full": Policy(),
    "causal": Policy(causal=True),
    "causal_unit": Policy(causal=True, unit=70),
    "window": Policy(window=30),
    "window_unit": Policy(causal=True, window=2, unit=50),
    "key_mask": Policy(key_mask=KEY_MASK),
    "segments": Policy(**SEGMENTS),
    "all": Policy(causal=True, window=3, unit=40, key_mask=KEY_MASK, **SEGMENTS),
}


def operands(dtype=jnp.float32, n_q=NQ, n_k=NK, d=D):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((B, H, n_q, d), (B, H, n_k, d), (B, H, n_k, d), (B, H, n_q, d))
    return tuple(jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes))


def agree(kernel, policy, args, tolerance):
    q, k, v, weights = args
    got, pull = jax.vjp(jax.jit(lambda *x: attend_locally(kernel, *x, View.of(policy, SCALE))), q, k, v)
    exact = tuple(x.astype(jnp.float32) for x in (q, k, v))
    want, exact_pull = jax.vjp(lambda *x: reference(*x, policy, SCALE), *exact)
    assert got.dtype == q.dtype
    grads, exact_grads = pull(weights), exact_pull(weights.astype(jnp.float32))
    for a, b in zip((got, *grads), (want, *exact_grads), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("name", POLICIES)
def test_output_and_gradients_are_those_of_the_reference(name):
    agree(Splash(BLOCKS, interpret=True), POLICIES[name], operands(), 1e-5)


def test_bfloat16_stays_near_the_exact_result():
    agree(Splash(BLOCKS, interpret=True), POLICIES["causal_unit"], operands(jnp.bfloat16), 2e-2)


@pytest.mark.parametrize(("n_q", "n_k"), [(256, 256), (5, 3), (130, 640)])
def test_lengths_that_fit_and_that_do_not(n_q, n_k):
    agree(Splash(BLOCKS, interpret=True), Policy(), operands(n_q=n_q, n_k=n_k), 1e-5)
