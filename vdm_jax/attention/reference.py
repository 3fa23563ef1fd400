"""The kernel that all others are compared with: scores in full, softmax in float32.

O = softmax(scale Q K^T + bias) V,    memory O(Nq Nk)
"""

import dataclasses

import jax
import jax.numpy as jnp

from vdm_jax.attention.kernel import NEG, View

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Reference:
    """The formula as it stands, for any policy and any dtype; JAX finds its derivative."""

    name = "reference"
    differentiable = True
    anywhere = True

    def refuses(self, policy, q_shape, k_shape, dtype, platform) -> str | None:
        """Nothing."""
        return None

    def forward(self, q: Array, k: Array, v: Array, view: View) -> tuple[Array, Array]:
        """See `Kernel`."""
        scores, seen = _scores(q, k, view)
        weights = jax.nn.softmax(scores, axis=-1)
        lse = jax.nn.logsumexp(scores, axis=-1)
        if seen is not None:
            some = seen.any(-1, keepdims=True)
            weights = jnp.where(some, weights, 0.0)
            lse = jnp.where(some[..., 0], lse, NEG)
        return _dot("bhqk,bhkd->bhqd", weights.astype(v.dtype), v).astype(q.dtype), lse

    def backward(self, q, k, v, lse, delta, d_out, view):
        """See `Kernel`."""
        scores, seen = _scores(q, k, view)
        p = jnp.exp(scores - lse[..., None])
        p = p if seen is None else jnp.where(seen, p, 0.0)
        ds = p * (_dot("bhqd,bhkd->bhqk", d_out, v) - delta[..., None]) * view.scale
        p, ds = p.astype(v.dtype), ds.astype(q.dtype)
        return _dot("bhqk,bhkd->bhqd", ds, k), _dot("bhqk,bhqd->bhkd", ds, q), _dot("bhqk,bhqd->bhkd", p, d_out)


def _scores(q: Array, k: Array, view: View) -> tuple[Array, Array | None]:
    """Scores `[B, H, Nq, Nk]` float32, NEG where nothing may be seen, and the mask (None: everything is)."""
    scores = _dot("bhqd,bhkd->bhqk", q, k) * view.scale
    if view.bias is not None:
        scores = scores + view.bias.astype(jnp.float32)
    seen = view.dense(q.shape[2], k.shape[2])
    return (scores, None) if seen is None else (jnp.where(seen, scores, NEG), seen)


def _dot(spec: str, a: Array, b: Array) -> Array:
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)
