"""The two Pallas programs of `splash`: flash attention forward and backward on a TPU (arXiv 2205.14135, 2307.08691).

  G heads of all clips;  N tokens;  D head size;  q, k tokens of a block;  c keys whose scores are formed at once

Forward, for a block of queries over all blocks of keys, with P in base 2 because the hardware's exponential is:

    S = Q K^T [q, c],   m' = max(m, rowmax S),   P = 2^(S - m'),   A' = 2^(m - m') A + P V,   lse = m + log2 sum P.

Backward, for a block of keys over all blocks of queries; keys lie along sublanes, so what a query brings (lse, delta,
limit) is one row and needs no reduction:

    P = 2^(S - lse) [c, q],   dS = P (V dO^T - delta),   dV += P dO,   dK += dS Q,   dQ_k^T = K^T dS [D, q].

Each block of keys writes a dQ of its own, transposed, for then no product needs a transposed [c, q]: five products,
where a pass of its own for dQ would make them seven.

Both run on both cores of a chip that has two (v4, v5p): heads and the outer blocks are independent.  Blocks that see
nothing are skipped, and only those that see a part pay for a mask; `spans` says which, `[4, rows]`: the first block
of a row that is visited, the first that is not any more, and the same for blocks that are seen whole.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vdm_jax.attention.kernel import NEG
from vdm_jax.attention.splash_blocks import LANES, Tile

Array = jax.Array
_PARALLEL = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))


@dataclasses.dataclass(frozen=True)
class Job:
    """What is static.

    Attributes:
      tile: block sizes; they divide the lengths.
      heads: of one clip; head g belongs to clip g // heads.
      n_k: keys that exist, where the limits do not say so and some are padding; else None.
      width: keys that a query sees before its limit; None is all.
      seen: the fraction of scores that matters, for the compiler's estimate of the time.
      interpret: run in Pallas' interpreter.
    """

    tile: Tile
    heads: int
    n_k: int | None = None
    width: int | None = None
    seen: float = 1.0
    interpret: bool = False


def forward(job: Job, q: Array, k: Array, v: Array, masks: dict[str, Array], spans: Array | None):
    """Attention and its lse.

    Args:
      job: see `Job`.
      q: `[G, Nq, D]`, scaled by log2 e too.
      k, v: `[G, Nk, D]`.
      masks: any of `limits [Nq]` (the end of the interval of keys that a query sees), `q_segments [B, Nq]` and
        `k_segments [B, Nk]`, int32.
      spans: `[4, Nq / q]` int32 if there are limits, else None.

    Returns:
      `[G, Nq, D]` and lse in base 2, `[G, 1, Nq]` float32; 0 and NEG for queries that see nothing.
    """
    (g, n_q, d), n_k, tile = q.shape, k.shape[1], job.tile
    steps = n_k // tile.kv
    key = lambda i, j, *spans: _at_hand(spans, i, j)  # noqa: E731
    at_query = pl.BlockSpec((None, tile.q, d), lambda g, i, j, *spans: (g, i, 0))
    at_key = pl.BlockSpec((None, tile.kv, d), lambda g, i, j, *spans: (g, key(i, j, *spans), 0))
    arrays, specs = {}, {}
    if "limits" in masks:
        arrays["limits"] = _along_lanes(masks["limits"])
        specs["limits"] = pl.BlockSpec((tile.q, LANES), lambda g, i, j, *spans: (i, 0))
    if "q_segments" in masks:
        arrays |= {"q_segments": _along_lanes(masks["q_segments"]), "k_segments": masks["k_segments"][:, None]}
        clip = lambda g: g // job.heads  # noqa: E731
        specs["q_segments"] = pl.BlockSpec((None, tile.q, LANES), lambda g, i, j, *spans: (clip(g), i, 0))
        specs["k_segments"] = pl.BlockSpec((None, 1, tile.kv), lambda g, i, j, *spans: (clip(g), 0, key(i, j, *spans)))
    return pl.pallas_call(
        functools.partial(_forward, job, steps),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=0 if spans is None else 1,
            grid=(g, n_q // tile.q, steps),
            in_specs=[at_query, at_key, at_key, specs],
            out_specs=[at_query, pl.BlockSpec((None, 1, tile.q), lambda g, i, j, *spans: (g, 0, i))],
            scratch_shapes=[pltpu.VMEM((tile.q, size), jnp.float32) for size in (LANES, LANES, d)],
        ),
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((g, 1, n_q), jnp.float32)],
        compiler_params=_PARALLEL,
        cost_estimate=_cost(job, 2, q, k, n_q // tile.q),
        interpret=job.interpret,
        name="splash_forward",
    )(*_given(spans), q, k, v, arrays)


def _forward(job: Job, steps: int, *refs):
    spans, (q_ref, k_ref, v_ref, masks, out_ref, lse_ref, max_ref, sum_ref, acc_ref) = _split(refs, 9)
    i, j = pl.program_id(1), pl.program_id(2)

    @pl.when(j == 0)
    def start():
        max_ref[...] = jnp.full_like(max_ref, NEG)
        sum_ref[...] = jnp.zeros_like(sum_ref)
        acc_ref[...] = jnp.zeros_like(acc_ref)

    def visit(masked: bool):
        q, (_, d) = q_ref[...], acc_ref.shape
        for part in _parts(job.tile):
            s = _dot(q, k_ref[part, :], 1, 1)  # [q, c]
            seen = _seen(job, j, part, masks, queries=0) if masked else None
            s = s if seen is None else jnp.where(seen, s, NEG)
            m = max_ref[...]  # [q, 128], the same in all lanes
            m_new = jnp.maximum(m, jnp.max(s, axis=1, keepdims=True))
            p = jnp.exp2(s - _lanes(m_new, s.shape[1]))
            p = p if seen is None else jnp.where(seen, p, 0.0)
            keep = jnp.exp2(m - m_new)
            max_ref[...] = m_new
            sum_ref[...] = sum_ref[...] * keep + jnp.sum(p, axis=1, keepdims=True)
            acc_ref[...] = acc_ref[...] * _lanes(keep, d) + _dot(p.astype(v_ref.dtype), v_ref[part, :], 1, 0)

    _dispatch(job, spans, i, j, j == steps - 1, masks, visit)

    @pl.when(j == steps - 1)
    def end():
        total = sum_ref[...]
        some = total > 0
        inverse = jnp.where(some, 1.0 / total, 0.0)
        out_ref[...] = (acc_ref[...] * _lanes(inverse, acc_ref.shape[1])).astype(out_ref.dtype)
        lse = jnp.where(some, max_ref[...] + jnp.log2(total), NEG)
        lse_ref[...] = lse.T[:1]


def backward(job: Job, q, k, v, lse, delta, d_out, masks: dict[str, Array], spans: Array | None):
    """Gradients.

    Args:
      job: see `Job`.
      q, k, v, masks: as in `forward`.
      lse: `[G, 1, Nq]` float32, base 2.
      delta: `[G, 1, Nq]` float32.
      d_out: `[G, Nq, D]`.
      spans: `[4, Nk / k]` int32 if there are limits, else None; of blocks of queries for each block of keys.

    Returns:
      dq for each block of keys, transposed and without the scale of q: `[Nk / k, G, D, Nq]`; dk, dv `[G, Nk, D]`.
    """
    (g, n_q, d), n_k, tile = q.shape, k.shape[1], job.tile
    steps = n_q // tile.q
    query = lambda j, i, *spans: _at_hand(spans, j, i)  # noqa: E731
    at_query = pl.BlockSpec((None, tile.q, d), lambda g, j, i, *spans: (g, query(j, i, *spans), 0))
    row = pl.BlockSpec((None, 1, tile.q), lambda g, j, i, *spans: (g, 0, query(j, i, *spans)))
    at_key = pl.BlockSpec((None, tile.kv, d), lambda g, j, i, *spans: (g, j, 0))
    arrays, specs = {}, {}
    if "limits" in masks:
        arrays["limits"] = masks["limits"][None]
        specs["limits"] = pl.BlockSpec((1, tile.q), lambda g, j, i, *spans: (0, query(j, i, *spans)))
    if "q_segments" in masks:
        arrays |= {"q_segments": masks["q_segments"][:, None], "k_segments": _along_lanes(masks["k_segments"])}
        clip = lambda g: g // job.heads  # noqa: E731
        specs["q_segments"] = pl.BlockSpec((None, 1, tile.q), lambda g, j, i, *spans: (clip(g), 0, query(j, i, *spans)))
        specs["k_segments"] = pl.BlockSpec((None, tile.kv, LANES), lambda g, j, i, *spans: (clip(g), j, 0))
    of_block = pl.BlockSpec((None, None, d, tile.q), lambda g, j, i, *spans: (j, g, 0, i))
    return pl.pallas_call(
        functools.partial(_backward, job, steps),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=0 if spans is None else 1,
            grid=(g, n_k // tile.kv, steps),
            in_specs=[at_query, at_key, at_key, row, row, at_query, specs],
            out_specs=[of_block, at_key, at_key],
            scratch_shapes=[pltpu.VMEM(s, jnp.float32) for s in ((d, tile.q), (tile.kv, d), (tile.kv, d))],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((n_k // tile.kv, g, d, n_q), q.dtype),
            jax.ShapeDtypeStruct(k.shape, k.dtype),
            jax.ShapeDtypeStruct(v.shape, v.dtype),
        ],
        compiler_params=_PARALLEL,
        cost_estimate=_cost(job, 5, q, k, n_k // tile.kv),
        interpret=job.interpret,
        name="splash_backward",
    )(*_given(spans), q, k, v, lse, delta, d_out, arrays)


def _backward(job: Job, steps: int, *refs):
    spans, refs = _split(refs, 13)
    q_ref, k_ref, v_ref, lse_ref, delta_ref, d_out_ref, masks, dq_ref, dk_ref, dv_ref, dq_acc, dk_acc, dv_acc = refs
    j, i = pl.program_id(1), pl.program_id(2)

    @pl.when(i == 0)
    def start():
        dk_acc[...] = jnp.zeros_like(dk_acc)
        dv_acc[...] = jnp.zeros_like(dv_acc)

    if spans is not None:
        dq_acc[...] = jnp.zeros_like(dq_acc)  # for blocks that are not visited

    def visit(masked: bool):
        q, d_out, lse, delta = q_ref[...], d_out_ref[...], lse_ref[...], delta_ref[...]
        for number, part in enumerate(_parts(job.tile)):
            k = k_ref[part, :]
            p = jnp.exp2(_dot(k, q, 1, 1) - lse)  # [c, q]
            p = jnp.where(_seen(job, j, part, masks, queries=1), p, 0.0) if masked else p
            ds = (p * (_dot(v_ref[part, :], d_out, 1, 1) - delta)).astype(q.dtype)
            dv_acc[part, :] += _dot(p.astype(q.dtype), d_out, 1, 0)
            dk_acc[part, :] += _dot(ds, q, 1, 0)
            dq = _dot(k, ds, 0, 0)
            dq_acc[...] = dq if number == 0 else dq_acc[...] + dq

    _dispatch(job, spans, j, i, j == pl.num_programs(1) - 1, masks, visit)
    dq_ref[...] = dq_acc[...].astype(dq_ref.dtype)

    @pl.when(i == steps - 1)
    def end():
        dk_ref[...] = (dk_acc[...] * math.log(2)).astype(dk_ref.dtype)  # q came with log2 e
        dv_ref[...] = dv_acc[...].astype(dv_ref.dtype)


def _dispatch(job: Job, spans, row, step, last, masks, visit):
    """Calls `visit(masked)` for this step, or not at all."""
    if spans is not None:
        visited = (step >= spans[0, row]) & (step < spans[1, row])
        whole = (step >= spans[2, row]) & (step < spans[3, row])
    else:
        visited, whole = True, ~last if job.n_k is not None else True
    if "q_segments" in masks:
        pl.when(visited)(lambda: visit(True))
    elif whole is True:
        visit(False)
    else:
        pl.when(visited & whole)(lambda: visit(False))
        pl.when(visited & ~whole)(lambda: visit(True))


def _seen(job: Job, block, part: slice, masks, queries: int) -> Array:
    """The mask of some scores, with the queries along dim `queries` and the keys along the other."""
    size = part.stop - part.start
    shape = (job.tile.q, size) if queries == 0 else (size, job.tile.q)
    seen = []
    if "limits" in masks or job.n_k is not None:
        key = block * job.tile.kv + part.start + jax.lax.broadcasted_iota(jnp.int32, shape, 1 - queries)
    if job.n_k is not None:
        seen.append(key < job.n_k)
    if "limits" in masks:
        limit = masks["limits"][...]
        limit = _lanes(limit, size) if queries == 0 else limit  # [q, c] or [1, q]
        seen.append(key < limit)
        if job.width is not None:
            seen.append(key >= limit - job.width)
    if "q_segments" in masks:
        q_segments, k_segments = masks["q_segments"][...], masks["k_segments"]
        if queries == 0:
            seen.append(_lanes(q_segments, size) == k_segments[:, part])
        else:
            seen.append(q_segments == _lanes(k_segments[part, :], job.tile.q))
    return functools.reduce(jnp.logical_and, seen)


def _parts(tile: Tile) -> list[slice]:
    return [slice(start, start + tile.compute) for start in range(0, tile.kv, tile.compute)]


def _at_hand(spans: tuple, row, step):
    """The block to hold at a step: its own if it is visited, else the nearest that is, so that nothing is fetched."""
    if not spans:
        return step
    (table,) = spans
    return jnp.maximum(jnp.minimum(jnp.maximum(step, table[0, row]), table[1, row] - 1), 0)


def _dot(a: Array, b: Array, dim_a: int, dim_b: int) -> Array:
    """The product of two matrices over one dim of each, in float32."""
    return jax.lax.dot_general(a, b, (((dim_a,), (dim_b,)), ((), ())), preferred_element_type=jnp.float32)


def _along_lanes(x: Array) -> Array:
    """`[..., N] -> [..., N, 128]`."""
    return jnp.broadcast_to(x[..., None], (*x.shape, LANES))


def _lanes(x: Array, size: int) -> Array:
    """`[n, 128]`, the same in all lanes, -> `[n, size]`."""
    return x[:, :size] if size <= LANES else jnp.tile(x, (1, -(-size // LANES)))[:, :size]


def _given(spans: Array | None) -> tuple:
    return () if spans is None else (spans,)


def _split(refs: tuple, count: int) -> tuple:
    """`(spans or None, the last count refs)`."""
    return (refs[0] if len(refs) > count else None), refs[-count:]


def _cost(job: Job, products: int, q: Array, k: Array, rereads: int) -> pl.CostEstimate:
    """For the compiler, which cannot look inside and wants to know what to overlap with a call."""
    scores = int(q.shape[0] * q.shape[1] * k.shape[1] * job.seen)
    streamed = 2 * rereads * (k if products == 2 else q).size
    return pl.CostEstimate(
        flops=2 * products * scores * q.shape[2],
        transcendentals=scores,
        bytes_accessed=(streamed + 2 * products * q.size) * q.dtype.itemsize,
    )
