"""cuDNN's fused attention on NVIDIA GPUs, with its lse in float32 and with an lse and delta that come from outside.

`jax.nn.dot_product_attention(implementation="cudnn")` rounds lse to the dtype of the operands and keeps its backward
pass to itself, so the layer below it is called.  cuDNN takes the output O and forms delta = rowsum(dO O) itself; it is
given instead the multiple of dO with that delta,

    O' = delta dO / |dO|^2,   rowsum(dO O') = delta,

which serves the delta of a whole row as well as that of a tile, and rounds to no more error than O itself.

*Key masks.*  Attention does not depend on the order of the keys.  Those that exist are moved to the front, and
cuDNN, which knows lengths but no masks that are not as large as the scores, is told how many they are.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as fused

from vdm_jax.attention.kernel import NEG, View

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class CuDNN:
    """Flash attention by cuDNN: everything seen, causal (with a window or not), or a key mask."""

    name = "cudnn"
    differentiable = False
    anywhere = False

    def refuses(self, policy, q_shape, k_shape, dtype, platform) -> str | None:
        """Everything but NVIDIA GPUs, 16-bit floats, heads up to 256, and the policies above."""
        n_q, n_k, d = q_shape[2], k_shape[2], q_shape[3]
        if platform != "gpu":
            return f"runs on NVIDIA GPUs, and this program is for a {platform}"
        if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
            return f"computes in bfloat16 or float16, not {jnp.dtype(dtype)}"
        if d % 8 or d > 256:
            return f"needs heads of a multiple of 8 and of 256 at most, not {d}"
        if policy.mask is not None:
            return "cannot honour the dense mask of the policy"
        if policy.q_segments is not None:
            return "cannot honour segments"
        if policy.window is not None and not policy.causal:
            return "cannot honour a window without causal"
        if policy.causal and policy.unit != 1:
            return f"counts single tokens and cannot honour unit={policy.unit}"
        if policy.causal and n_q != n_k:
            return f"cannot honour causal between {n_q} queries and {n_k} keys, which must be as many"
        if policy.causal and policy.key_mask is not None:
            return "cannot honour causal together with a key_mask"
        return None

    def forward(self, q: Array, k: Array, v: Array, view: View) -> tuple[Array, Array]:
        """See `Kernel`."""
        keys = _Keys.of(view, q)
        out, lse = fused.dot_product_attention(
            q,
            keys.pack(k),
            keys.pack(v),
            q_seqlen=keys.q_lengths,
            kv_seqlen=keys.lengths,
            scale=view.scale,
            mask_type=_mask_type(view),
            qkv_layout="BNTH",
            sliding_window_length=view.window,
            return_residual=True,
        )
        return keys.where_any(out, 0), keys.where_any(lse, NEG)

    def backward(self, q, k, v, lse, delta, d_out, view):
        """See `Kernel`."""
        keys = _Keys.of(view, q)
        unused = jnp.zeros(0, q.dtype)
        lengths = (unused, unused) if keys.lengths is None else (keys.q_lengths, keys.lengths)
        d_out = d_out.astype(q.dtype)
        operands = (q, keys.pack(k), keys.pack(v), unused, *lengths, unused, unused, unused, unused)
        dq, dk, dv, *_ = fused._dot_product_attention_bwd_rule(
            view.scale,
            42,  # seed and rate of a dropout that is off
            0.0,
            (False, False),  # no bias, and no gradient of one
            _mask_type(view),
            fused.AttentionLayout.BNTH.value,
            view.window,
            True,
            False,
            (*operands, lse, _with_delta(delta, d_out)),
            d_out,
        )
        return keys.where_any(dq, 0), keys.unpack(dk), keys.unpack(dv)


@dataclasses.dataclass(frozen=True)
class _Keys:
    """The keys of each clip that exist, moved to the front.

    Attributes:
      order: `[B, Nk]`, the keys from front to back; None without a key mask, where all stay where they are.
      q_lengths, lengths: `[B]` int32, how many queries and keys there are.
    """

    order: Array | None = None
    q_lengths: Array | None = None
    lengths: Array | None = None

    @classmethod
    def of(cls, view: View, q: Array) -> "_Keys":
        if view.key_mask is None:
            return cls()
        order = jnp.argsort(~view.key_mask, axis=1, stable=True)
        lengths = jnp.sum(view.key_mask, axis=1, dtype=jnp.int32)
        return cls(order, jnp.full_like(lengths, q.shape[2]), lengths)

    def pack(self, x: Array) -> Array:
        """`[B, H, Nk, D]`, keys that exist in front."""
        return x if self.order is None else jnp.take_along_axis(x, self.order[:, None, :, None], axis=2)

    def unpack(self, x: Array) -> Array:
        """The inverse, with zeros for keys that do not exist."""
        if self.order is None:
            return x
        exists = jnp.arange(x.shape[2])[None, :] < self.lengths[:, None]
        back = jnp.argsort(self.order, axis=1)[:, None, :, None]
        return jnp.take_along_axis(jnp.where(exists[:, None, :, None], x, 0), back, axis=2)

    def where_any(self, x: Array, otherwise: float) -> Array:
        """`x: [B, ...]` for clips that have a key at all."""
        if self.order is None:
            return x
        return jnp.where((self.lengths > 0).reshape(-1, *(1,) * (x.ndim - 1)), x, otherwise)


def _mask_type(view: View) -> fused.MaskType:
    same = isinstance(view.q_start, int) and isinstance(view.k_start, int) and view.q_start == view.k_start
    assert same or not view.positional, "cuDNN's diagonal runs through the first query and key"
    if view.causal:
        return fused.MaskType.CAUSAL
    return fused.MaskType.NO_MASK if view.key_mask is None else fused.MaskType.PADDING


def _with_delta(delta: Array, d_out: Array) -> Array:
    """An output of which `rowsum(dO O)` is `delta`; see the module."""
    wide = d_out.astype(jnp.float32)
    square = jnp.sum(wide * wide, axis=-1, keepdims=True)
    factor = jnp.where(square > 0, delta[..., None] / jnp.maximum(square, jnp.finfo(jnp.float32).tiny), 0.0)
    return (wide * factor).astype(d_out.dtype)
