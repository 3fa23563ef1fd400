"""Operands and policies to compare kernels on; no length divides another or any tile."""

import jax
import jax.numpy as jnp

from vdm_jax.attention.kernel import View
from vdm_jax.attention.local import attend_locally
from vdm_jax.attention.policy import Policy
from vdm_jax.attention.reference import Reference

B, H, NQ, NK, D = 2, 3, 13, 11, 4
SCALE = 0.7


def operands(n_q=NQ, n_k=NK, dtype=jnp.float32):
    """`q [B, H, Nq, D]`, `k`, `v [B, H, Nk, D]` and weights of the output, so that all gradients differ."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((B, H, n_q, D), (B, H, n_k, D), (B, H, n_k, D), (B, H, n_q, D))
    return tuple(jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes))


def attention(kernel, q, k, v, policy, scale):
    """A kernel on the whole matrix, `[B, H, N, D]`."""
    return attend_locally(kernel, q, k, v, View.of(policy, scale))


def reference(q, k, v, policy, scale):
    """What every kernel must give."""
    return attention(Reference(), q, k, v, policy, scale)


def _random(seed, shape):
    return jax.random.bernoulli(jax.random.key(seed), 0.6, shape)


KEY_MASK = jnp.arange(NK)[None] < jnp.array([[7], [NK]])
DENSE = _random(1, (B, H, NQ, NK)).at[:, 1, 4].set(False).at[1, :, NQ - 1].set(False)

Q_SEGMENTS = jnp.arange(NQ)[None] // jnp.array([[4], [6]])
K_SEGMENTS = jnp.arange(NK)[None] // jnp.array([[5], [3]])

POLICIES = {
    "full": Policy(),
    "causal": Policy(causal=True),
    "causal_unit": Policy(causal=True, unit=3),
    "window": Policy(window=2),
    "window_unit": Policy(window=2, unit=2),
    "key_mask": Policy(key_mask=KEY_MASK),
    "mask_shared": Policy(mask=_random(2, (1, 1, NQ, NK))),
    "mask_heads": Policy(mask=_random(3, (1, H, NQ, NK))),
    "mask_batch": Policy(mask=_random(4, (B, 1, NQ, NK))),
    "mask_blind_rows": Policy(mask=DENSE),
    "segments": Policy(q_segments=Q_SEGMENTS, k_segments=K_SEGMENTS),
    "all": Policy(True, 4, 2, key_mask=KEY_MASK, mask=DENSE, q_segments=Q_SEGMENTS, k_segments=K_SEGMENTS),
}
