"""Flash attention on GPUs in Pallas (Triton), for the masks that cuDNN does not know (arXiv 2307.08691).

  G heads of all clips;  N tokens;  D head size

Three programs: one per block of queries that goes along its keys (out and lse; with lse given, dQ), one per block of
keys that goes along its queries (dK, dV).  Scores are in base 2.  Blocks that see nothing are not visited and those
that are seen whole have no mask: a program's loop runs in three stretches, masked, whole, masked (`BlockMask.spans`).

Not measured yet against anything on a GPU, so `auto` does not choose it.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from vdm_jax.attention.block_mask import BlockMask
from vdm_jax.attention.kernel import LOG2_E, NEG, View, in_base_2

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Triton:
    """Flash attention in Pallas for GPUs; any policy but a dense mask.

    Attributes:
      block_q, block_k: queries and keys of a block, powers of two.
      interpret: run in Pallas' interpreter, on any platform and slowly.
    """

    block_q: int = 128
    block_k: int = 64
    interpret: bool = False

    name = "triton"
    differentiable = False
    anywhere = True

    def refuses(self, policy, q_shape, k_shape, dtype, platform) -> str | None:
        """Everything but GPUs, dense masks, and heads whose size is not a power of two from 16 to 256."""
        if platform != "gpu" and not self.interpret:
            return f"runs on GPUs, and this program is for a {platform}"
        if policy.mask is not None:
            return "cannot honour the dense mask of the policy"
        if q_shape[3] not in (16, 32, 64, 128, 256):
            return f"needs heads of 16, 32, 64, 128 or 256, not {q_shape[3]}"
        if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16, jnp.float16):
            return f"computes in float32, bfloat16 or float16, not {jnp.dtype(dtype)}"
        return None

    def forward(self, q: Array, k: Array, v: Array, view: View) -> tuple[Array, Array]:
        """See `Kernel`."""
        mask = self._mask(q, k, view)
        n_q, operands = q.shape[2], (mask.queries(in_base_2(q, view)), mask.keys(k), mask.keys(v))
        out, lse = self._along_keys(_forward, mask, q.shape[1], operands, (), (operands[0].dtype, None))
        return out[:, :n_q].reshape(q.shape), lse[:, :n_q].reshape(q.shape[:3]) / LOG2_E

    def backward(self, q, k, v, lse, delta, d_out, view):
        """See `Kernel`."""
        mask, heads = self._mask(q, k, view), q.shape[1]
        wide = (mask.queries(in_base_2(q, view)), mask.keys(k), mask.keys(v))
        rows = (mask.queries(d_out.astype(q.dtype)), mask.queries(lse * LOG2_E), mask.queries(delta))
        (dq,) = self._along_keys(_backward_q, mask, heads, wide, rows, (jnp.float32,))
        dk, dv = self._along_queries(mask, heads, wide, rows)
        dq, dk, dv = (x[:, : y.shape[2]].reshape(y.shape) for x, y in ((dq, q), (dk, k), (dv, v)))
        return dq * view.scale, dk / LOG2_E, dv

    def _mask(self, q: Array, k: Array, view: View) -> BlockMask:
        return BlockMask.of(view, q.shape[0], q.shape[2], k.shape[2], self.block_q, self.block_k)

    def _along_keys(self, body: Callable, mask: BlockMask, heads: int, operands, rows, results) -> list[Array]:
        """A program per block of queries; `results` are the dtypes of `[G, Nq, D]` results, None for an lse."""
        g, n_q, d = operands[0].shape
        block = lambda *tail: pl.BlockSpec((None, mask.block_q, *tail), lambda i, g: (g, i, *(0,) * len(tail)))  # noqa: E731
        whole = pl.BlockSpec((None, mask.n_k, d), lambda i, g: (g, 0, 0))
        shapes = [jax.ShapeDtypeStruct((g, n_q) if t is None else (g, n_q, d), t or jnp.float32) for t in results]
        arrays, specs = _masks(mask, heads, mask.block_q, mask.n_k, of_query=True)
        return pl.pallas_call(
            functools.partial(body, mask),
            grid=(n_q // mask.block_q, g),
            in_specs=[block(d), whole, whole, *(block(*x.shape[2:]) for x in rows), specs],
            out_specs=[block() if t is None else block(d) for t in results],
            out_shape=shapes,
            compiler_params=_warps(d),
            interpret=self.interpret,
            name=f"triton{body.__name__}",
        )(*operands, *rows, arrays)

    def _along_queries(self, mask: BlockMask, heads: int, operands, rows) -> list[Array]:
        """A program per block of keys."""
        q, k, v = operands
        g, n_k, d = k.shape
        block = pl.BlockSpec((None, mask.block_k, d), lambda j, g: (g, j, 0))
        whole = lambda *tail: pl.BlockSpec((None, mask.n_q, *tail), lambda j, g: (g, 0, *(0,) * len(tail)))  # noqa: E731
        arrays, specs = _masks(mask, heads, mask.n_q, mask.block_k, of_query=False)
        return pl.pallas_call(
            functools.partial(_backward_keys, mask),
            grid=(n_k // mask.block_k, g),
            in_specs=[whole(d), block, block, *(whole(*x.shape[2:]) for x in rows), specs],
            out_specs=[block, block],
            out_shape=[jax.ShapeDtypeStruct(k.shape, jnp.float32)] * 2,
            compiler_params=_warps(d),
            interpret=self.interpret,
            name="triton_backward_keys",
        )(q, k, v, *rows, arrays)


def _masks(mask: BlockMask, heads: int, size_q: int, size_k: int, of_query: bool) -> tuple[dict, dict]:
    """Arrays of the mask and the part of them that a program of a block of queries (or of keys) sees."""
    at_q, at_k = (lambda i: i, lambda i: 0) if of_query else (lambda i: 0, lambda i: i)
    specs = {
        "limits": pl.BlockSpec((size_q,), lambda i, g: (at_q(i),)),
        "q_segments": pl.BlockSpec((None, size_q), lambda i, g: (g // heads, at_q(i))),
        "k_segments": pl.BlockSpec((None, size_k), lambda i, g: (g // heads, at_k(i))),
    }
    arrays = dict(mask.arrays)
    spans = mask.spans(along_keys=of_query)
    if spans is not None:
        arrays["spans"] = spans.T  # [blocks, 4]
        specs["spans"] = pl.BlockSpec((None, 4), lambda i, g: (i, 0))
    return arrays, {name: specs[name] for name in arrays}


def _forward(mask: BlockMask, q_ref, k_ref, v_ref, masks, out_ref, lse_ref):
    q = q_ref[...]

    def visit(masked: bool, j, carry):
        acc, m, total = carry
        part = pl.ds(j * mask.block_k, mask.block_k)
        s = _dot(q, k_ref[part, :].T)
        seen = _seen(mask, masks, pl.ds(0, mask.block_q), part, j) if masked else None
        s = s if seen is None else jnp.where(seen, s, NEG)
        m_new = jnp.maximum(m, jnp.max(s, axis=1))
        p = jnp.exp2(s - m_new[:, None])
        p = p if seen is None else jnp.where(seen, p, 0.0)
        keep = jnp.exp2(m - m_new)
        acc = acc * keep[:, None] + _dot(p.astype(q.dtype), v_ref[part, :])
        return acc, m_new, total * keep + jnp.sum(p, axis=1)

    zero = jnp.zeros(q.shape, jnp.float32)
    none = jnp.zeros(q.shape[:1], jnp.float32)
    acc, m, total = _walk(visit, mask, masks, mask.n_k // mask.block_k, (zero, none + NEG, none))
    some = total > 0
    total = jnp.where(some, total, 1.0)
    out_ref[...] = jnp.where(some[:, None], acc / total[:, None], 0.0).astype(out_ref.dtype)
    lse_ref[...] = jnp.where(some, m + jnp.log2(total), NEG)


def _backward_q(mask: BlockMask, q_ref, k_ref, v_ref, d_out_ref, lse_ref, delta_ref, masks, dq_ref):
    q, d_out, lse, delta = q_ref[...], d_out_ref[...], lse_ref[...][:, None], delta_ref[...][:, None]

    def visit(masked: bool, j, dq):
        part = pl.ds(j * mask.block_k, mask.block_k)
        k = k_ref[part, :]
        p = jnp.exp2(_dot(q, k.T) - lse)
        p = jnp.where(_seen(mask, masks, pl.ds(0, mask.block_q), part, j), p, 0.0) if masked else p
        ds = p * (_dot(d_out, v_ref[part, :].T) - delta)
        return dq + _dot(ds.astype(q.dtype), k)

    dq_ref[...] = _walk(visit, mask, masks, mask.n_k // mask.block_k, jnp.zeros(q.shape, jnp.float32))


def _backward_keys(mask: BlockMask, q_ref, k_ref, v_ref, d_out_ref, lse_ref, delta_ref, masks, dk_ref, dv_ref):
    k, v, j = k_ref[...], v_ref[...], pl.program_id(0)

    def visit(masked: bool, i, carry):
        dk, dv = carry
        part = pl.ds(i * mask.block_q, mask.block_q)
        q, d_out = q_ref[part, :], d_out_ref[part, :]
        p = jnp.exp2(_dot(q, k.T) - lse_ref[part][:, None])
        p = jnp.where(_seen(mask, masks, part, pl.ds(0, mask.block_k), j), p, 0.0) if masked else p
        ds = p * (_dot(d_out, v.T) - delta_ref[part][:, None])
        return dk + _dot(ds.astype(q.dtype).T, q), dv + _dot(p.astype(q.dtype).T, d_out)

    zero = jnp.zeros(k.shape, jnp.float32)
    # Keys that do not exist get a gradient here, and are cut off: a bound needs no mask on this walk.
    dk_ref[...], dv_ref[...] = _walk(visit, mask, masks, mask.n_q // mask.block_q, (zero, zero), bounded=False)


def _walk(visit: Callable, mask: BlockMask, masks: dict, steps: int, carry, bounded: bool = True):
    """`carry = visit(masked, step, carry)` for every step that sees something."""
    if "spans" in masks:
        begin, end, whole, beyond = (masks["spans"][n] for n in range(4))
        whole = jnp.clip(whole, begin, end)
        beyond = jnp.clip(beyond, whole, end)
    else:
        begin, end, whole = 0, steps, 0
        beyond = steps if mask.bound is None or not bounded else steps - 1
    if "q_segments" in masks:
        return jax.lax.fori_loop(begin, end, functools.partial(visit, True), carry)
    for first, last, masked in ((begin, whole, True), (whole, beyond, False), (beyond, end, True)):
        carry = jax.lax.fori_loop(first, last, functools.partial(visit, masked), carry)
    return carry


def _seen(mask: BlockMask, masks: dict, rows: pl.Slice, columns: pl.Slice, j) -> Array:
    """The mask `[q, k]` of key block `j`; `rows` and `columns` are where it stands in the arrays of the mask."""
    seen = []
    key = j * mask.block_k + jnp.arange(mask.block_k)[None]
    if mask.bound is not None:
        seen.append(key < mask.bound)
    if "limits" in masks:
        limit = masks["limits"][rows][:, None]
        seen.append(key < limit)
        if mask.width is not None:
            seen.append(key >= limit - mask.width)
    if "q_segments" in masks:
        seen.append(masks["q_segments"][rows][:, None] == masks["k_segments"][columns][None])
    return functools.reduce(jnp.logical_and, seen)


def _dot(a: Array, b: Array) -> Array:
    return pl.dot(a, b)


def _warps(d: int) -> pltriton.CompilerParams:
    return pltriton.CompilerParams(num_warps=4 if d <= 64 else 8, num_stages=2)
