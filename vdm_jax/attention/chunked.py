"""Blockwise attention in pure JAX: any length in bounded memory, forward and backward (arXiv 2112.05682, 2205.14135).

Scores are formed one tile at a time, `[group, block_q, block_k]`, with the running softmax of

    m' = max(m, rowmax S),   l' = e^(m - m') l + rowsum e^(S - m'),   A' = e^(m - m') A + e^(S - m') V,

and the backward pass forms every tile again from the saved `lse = m + log l`:

    P = e^(S - lse),   dP = dO V^T,   dS = P (dP - rowsum(dO O)),
    dQ = scale dS K,   dK^T = scale Q^T dS,   dV^T = dO^T P.

dK and dV are accumulated *transposed* because then every product is a plain `[m, k] x [k, n]` with the summed
dim next to the tile.  XLA's CPU runs those at 170 GFLOP/s, but the untransposed `P^T dO` at 52 (2,048 tokens,
8 heads of 64, 2 cores); this is what makes the backward pass as fast as PyTorch's fused one.  On the CPU the
tile also stays in the cache, which is why heads go through in groups there.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from vdm_jax.attention.kernel import NEG, View
from vdm_jax.sharding.context import partitioned, target_platform

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How the work is cut.

    Attributes:
      block_q, block_k: queries and keys of a tile.
      group: (batch x head) pairs of a tile; 0 means all at once.
    """

    block_q: int
    block_k: int
    group: int = 0


@dataclasses.dataclass(frozen=True)
class Chunked:
    """Blockwise attention for any policy, length and dtype.

    Attributes:
      tiles: the tiling; None chooses it by `choose_tiles`.
    """

    tiles: Tiles | None = None

    name = "chunked"
    differentiable = False
    anywhere = True

    def refuses(self, policy, q_shape, k_shape, dtype, platform) -> str | None:
        """Nothing."""
        return None

    def forward(self, q: Array, k: Array, v: Array, view: View) -> tuple[Array, Array]:
        """See `Kernel`."""
        work, masks = self._prepare(q, k, view)
        forward = functools.partial(_forward_group, work)
        out, lse = _over_groups(work.tiles.group, forward, tuple(map(_merge, (q, k, v))), masks)
        return out.reshape(q.shape), lse.reshape(q.shape[:3])

    def backward(self, q, k, v, lse, delta, d_out, view):
        """See `Kernel`."""
        work, masks = self._prepare(q, k, view)
        backward = functools.partial(_backward_group, work)
        operands = tuple(map(_merge, (q, k, v, d_out, lse, delta)))
        grads = _over_groups(work.tiles.group, backward, operands, masks)
        return tuple(grad.reshape(x.shape) for grad, x in zip(grads, (q, k, v)))

    def _prepare(self, q: Array, k: Array, view: View) -> "tuple[_Work, dict[str, Array]]":
        b, h, n_q, _ = q.shape
        n_k = k.shape[2]
        # Going over heads in groups slices the batch and head dims, which a mesh may have cut already; there the
        # compiler must see all heads at once.
        cpu = target_platform() == "cpu" and not partitioned()
        return _Work(self.tiles or choose_tiles(b * h, n_q, n_k, cpu), view, n_q, n_k), _masks(view, b, h, n_q, n_k)


@dataclasses.dataclass(frozen=True)
class _Work:
    """What all tiles share: the tiling, the view (of which only scale and positions are read) and the lengths."""

    tiles: Tiles
    view: View
    n_q: int
    n_k: int


def choose_tiles(pairs: int, n_q: int, n_k: int, cpu: bool) -> Tiles:
    """Tiles whose scores fill about 4 MiB on a CPU (half the L2 of two cores and more), 256 MiB elsewhere.

    Args:
      pairs: batch x heads.
      n_q, n_k: sequence lengths.
      cpu: whether the program is compiled for a CPU.
    """
    budget = 2**20 if cpu else 2**26
    block_k = n_k if n_k <= 2048 else 1024
    block_q = n_q if n_q <= 512 else 512
    if not cpu:
        return Tiles(max(16, min(block_q, budget // max(1, pairs * block_k))), block_k)
    group = max(1, budget // (block_q * block_k))
    if group >= pairs:
        return Tiles(block_q, block_k)
    while pairs % group:
        group -= 1
    return Tiles(block_q, block_k, group)


def _merge(x: Array) -> Array:
    """`[B, H, ...] -> [B * H, ...]`."""
    return x.reshape(math.prod(x.shape[:2]), *x.shape[2:])


def _masks(view: View, b: int, h: int, n_q: int, n_k: int) -> dict[str, Array]:
    """The masks that are arrays, with one leading dim of `B * H` (or 1)."""
    masks = {}
    for name in ("key_mask", "q_segments", "k_segments"):
        if getattr(view, name) is not None:
            masks[name] = jnp.repeat(getattr(view, name), h, axis=0)  # [B * H, N]
    if view.mask is not None:
        full = view.mask.shape[:2] != (1, 1)
        dense = jnp.broadcast_to(view.mask, (b, h, n_q, n_k)) if full else view.mask
        masks["mask"] = _merge(dense)  # [B * H | 1, Nq, Nk]
    return masks


def _over_groups(group: int, body, operands: tuple[Array, ...], masks: dict[str, Array]):
    """Runs `body(operands, masks)` over groups of the leading (batch x head) dim, one after the other."""
    pairs = operands[0].shape[0]
    if not group or group >= pairs:
        return body(operands, masks)
    split = lambda x: x.reshape(pairs // group, group, *x.shape[1:])  # noqa: E731
    per_pair = {name: m for name, m in masks.items() if m.shape[0] == pairs}
    shared = {name: m for name, m in masks.items() if m.shape[0] != pairs}
    grouped = jax.tree.map(split, (operands, per_pair))
    out = jax.lax.map(lambda xs: body(xs[0], xs[1] | shared), grouped)
    return jax.tree.map(lambda x: x.reshape(pairs, *x.shape[2:]), out)


def _forward_group(work: _Work, operands, masks) -> tuple[Array, Array]:
    """One group: `[G, Nq, D], [G, Nk, D] x 2 -> out [G, Nq, D], lse [G, Nq]` (float32)."""
    q, k, v = operands
    tiles = work.tiles
    keys = _blocks((k * work.view.scale).swapaxes(1, 2), tiles.block_k, axis=2)  # [nk, G, D, bk]
    values = _blocks(v, tiles.block_k, axis=1)  # [nk, G, bk, D]

    def key_block(carry, xs):
        acc, m, l, i, q_block = carry
        j, key, value = xs
        s = _dot(q_block, key)
        seen = _seen(work, masks, i, j)
        s = s if seen is None else jnp.where(seen, s, NEG)
        m_new = jnp.maximum(m, jnp.max(s, axis=-1, keepdims=True))
        p = jnp.exp(s - m_new)
        p = p if seen is None else jnp.where(seen, p, 0.0)
        keep = jnp.exp(m - m_new)
        acc = acc * keep + _dot(p.astype(value.dtype), value)
        return (acc, m_new, l * keep + jnp.sum(p, axis=-1, keepdims=True), i, q_block), None

    def query_block(_, xs):
        i, q_block = xs
        zero = jnp.zeros(q_block.shape, jnp.float32)
        start = (zero, jnp.full_like(zero[..., :1], NEG), zero[..., :1], i, q_block)
        (acc, m, l, _, _), _ = _scan(key_block, start, (jnp.arange(len(keys)), keys, values))
        l = jnp.maximum(l, 1e-30)  # a query that sees nothing: zeros
        return None, ((acc / l).astype(q.dtype), (m + jnp.log(l))[..., 0])

    queries = _blocks(q, tiles.block_q, axis=1)
    _, (out, lse) = _scan(query_block, None, (jnp.arange(len(queries)), queries))
    return _unblock(out, work.n_q), _unblock(lse, work.n_q)


def _backward_group(work: _Work, operands, masks) -> tuple[Array, Array, Array]:
    """One group's gradients; operands `(q, k, v, d_out [G, Nq, D], lse, delta [G, Nq])`."""
    q, k, v, d_out, lse, delta = operands
    tiles, dtype = work.tiles, q.dtype
    k = k * work.view.scale
    keys, values = _blocks(k, tiles.block_k, axis=1), _blocks(v, tiles.block_k, axis=1)  # [nk, G, bk, D]
    keys_t, values_t = keys.swapaxes(2, 3), values.swapaxes(2, 3)

    def key_block(carry, xs):
        dq, (i, q_block, d_block, lse_block, delta_block) = carry
        j, key, key_t, value_t = xs
        p = jnp.exp(_dot(q_block, key_t) - lse_block[..., None])
        seen = _seen(work, masks, i, j)
        p = p if seen is None else jnp.where(seen, p, 0.0)
        ds = (p * (_dot(d_block, value_t) - delta_block[..., None])).astype(dtype)
        dk_t = _dot(q_block.swapaxes(1, 2), ds)  # [G, D, bk]
        dv_t = _dot(d_block.swapaxes(1, 2), p.astype(dtype))
        return (dq + _dot(ds, key), carry[1]), (dk_t, dv_t)

    def query_block(carry, xs):
        start = (jnp.zeros(xs[1].shape, jnp.float32), xs)
        (dq, _), parts = _scan(key_block, start, (jnp.arange(len(keys)), keys, keys_t, values_t))
        return jax.tree.map(jnp.add, carry, parts), dq

    rows = tuple(_blocks(x, tiles.block_q, axis=1) for x in (q, d_out, lse, delta))
    zeros = jnp.zeros(keys_t.shape, jnp.float32)
    (dk_t, dv_t), dq = _scan(query_block, (zeros, zeros), (jnp.arange(len(rows[0])), *rows))
    dk, dv = (_unblock(x.swapaxes(2, 3), work.n_k) for x in (dk_t, dv_t))
    return _unblock(dq, work.n_q), dk * work.view.scale, dv


def _seen(work: _Work, masks: dict[str, Array], i: Array, j: Array) -> Array | None:
    """What query block `i` sees of key block `j`: broadcastable to `[G, bq, bk]`, or None for everything."""
    bq, bk = work.tiles.block_q, work.tiles.block_k
    parts = []
    k_index = j * bk + jnp.arange(bk)
    if work.n_k % bk:
        parts.append((k_index < work.n_k)[None, None])
    if work.view.positional:
        parts.append(work.view.visible(i * bq + jnp.arange(bq), k_index)[None])
    if "key_mask" in masks:
        parts.append(_slice(masks["key_mask"], {1: (j, bk)})[:, None])
    if "q_segments" in masks:
        rows, columns = _slice(masks["q_segments"], {1: (i, bq)}), _slice(masks["k_segments"], {1: (j, bk)})
        parts.append(rows[:, :, None] == columns[:, None, :])
    if "mask" in masks:
        parts.append(_slice(masks["mask"], {1: (i, bq), 2: (j, bk)}))
    return functools.reduce(jnp.logical_and, parts) if parts else None


def _slice(mask: Array, where: dict[int, tuple[Array, int]]) -> Array:
    """Cuts blocks out of a mask whose length need not divide into them (padding is False or 0)."""
    for axis, (index, size) in where.items():
        short = -mask.shape[axis] % size
        if short:
            mask = jnp.pad(mask, [(0, short if a == axis else 0) for a in range(mask.ndim)])
        mask = jax.lax.dynamic_slice_in_dim(mask, index * size, size, axis)
    return mask


def _dot(a: Array, b: Array) -> Array:
    """`[G, m, k] x [G, k, n] -> [G, m, n]` float32, the one layout that is fast on every backend."""
    return jax.lax.dot_general(a, b, (((2,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32)


def _scan(body, carry, xs):
    """`lax.scan`, or one plain call when there is one block: a loop of one still costs XLA its fusions."""
    if jax.tree.leaves(xs)[0].shape[0] > 1:
        return jax.lax.scan(body, carry, xs)
    carry, y = body(carry, jax.tree.map(lambda x: x[0], xs))
    return carry, jax.tree.map(lambda x: x[None], y)


def _blocks(x: Array, size: int, axis: int) -> Array:
    """Cuts `axis` into zero-padded blocks and puts their index in front: `[..., N, ...] -> [n, ..., size, ...]`."""
    short = -x.shape[axis] % size
    if short:
        x = jnp.pad(x, [(0, short if a == axis else 0) for a in range(x.ndim)])
    x = x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)


def _unblock(x: Array, length: int) -> Array:
    """`[n, G, size, ...] -> [G, length, ...]`, the inverse of `_blocks(axis=1)`."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
