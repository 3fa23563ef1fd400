"""A kernel on the whole matrix, on one device, with its derivative: the one custom VJP of all kernels.

Output and lse carry names (`attention_out`, `attention_lse`), so that a remat policy which keeps them spares the
backward pass a second forward pass.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vdm_jax.attention.kernel import Kernel, View

Array = jax.Array


def attend_locally(kernel: Kernel, q: Array, k: Array, v: Array, view: View) -> Array:
    """`q: [B, H, Nq, D]`, `k, v: [B, H, Nk, D]` -> `[B, H, Nq, D]` in the dtype of `q`."""
    if kernel.differentiable:
        return checkpoint_name(kernel.forward(q, k, v, view)[0], "attention_out")
    return _attend(kernel, q, k, v, view)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(kernel: Kernel, q: Array, k: Array, v: Array, view: View) -> Array:
    return _attend_fwd(kernel, q, k, v, view)[0]


def _attend_fwd(kernel, q, k, v, view):
    out, lse = kernel.forward(q, k, v, view)
    out, lse = checkpoint_name(out, "attention_out"), checkpoint_name(lse, "attention_lse")
    return out, (q, k, v, view, out, lse)


def _attend_bwd(kernel, saved, d_out):
    q, k, v, view, out, lse = saved
    dq, dk, dv = kernel.backward(q, k, v, lse, row_delta(out, d_out), d_out, view)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_attend.defvjp(_attend_fwd, _attend_bwd)


def row_delta(out: Array, d_out: Array) -> Array:
    """`delta = rowsum(dO O)`: `[B, H, N, D] x 2 -> [B, H, N]` float32."""
    return jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1)
