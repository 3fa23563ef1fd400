"""The kernel that all others are compared with: scores in full, softmax in float32.

O = softmax(scale Q K^T) V,    memory O(Nq Nk)
"""

import jax
import jax.numpy as jnp

from vdm_jax.attention.policy import Policy

Array = jax.Array
NEG = -1e30  # finite, so that a row which sees nothing gives zeros and not NaN


def reference(q: Array, k: Array, v: Array, policy: Policy, scale: float) -> Array:
    """`q: [B, H, Nq, D]`, `k, v: [B, H, Nk, D]` -> `[B, H, Nq, D]` in the dtype of `q`."""
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32) * scale
    seen = policy.dense(q.shape[2], k.shape[2])
    if seen is None:
        weights = jax.nn.softmax(scores, axis=-1)
    else:
        weights = jax.nn.softmax(jnp.where(seen, scores, NEG), axis=-1)
        weights = jnp.where(seen.any(-1, keepdims=True), weights, 0.0)
    return jnp.einsum("bhqk,bhkd->bhqd", weights.astype(v.dtype), v)
