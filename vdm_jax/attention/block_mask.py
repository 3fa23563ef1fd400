"""A view in the terms of a kernel that works in blocks: what it must compute per score, and which blocks to visit.

*Positions* need no mask in memory.  Whatever `causal`, `window` and `unit` say, query i sees one interval of keys,

    limit_i - width <= j < limit_i,   limit_i = unit (u_i + (1 if causal else window)) - k_start,
    u_i = (q_start + i) // unit,      width = unit (window if causal else 2 window - 1),

so one int per query is the mask, and intervals of blocks say which to skip and which are seen whole.  The limits may
be traced.

*Key masks* and *packing* are segments: keys that are masked are in a segment where no query is.

*Uneven lengths* are padded to whole blocks: padded queries are cut off again, padded keys are seen by nobody.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from vdm_jax.attention.kernel import View

Array = jax.Array
_NOWHERE = -(2**31)  # the segment of keys that do not exist


@dataclasses.dataclass(frozen=True)
class BlockMask:
    """What a blockwise kernel needs to know of a view.

    Attributes:
      block_q, block_k: queries and keys of a block.
      n_q, n_k: lengths, padded to multiples of the blocks.
      exist: keys that are not padding.
      bound: `exist` where neither limits nor segments say so and there is padding, else None.
      width: keys that a query sees before its limit; None is all.
      arrays: `limits [n_q]`, `q_segments [B, n_q]`, `k_segments [B, n_k]` int32, whichever there are.
    """

    block_q: int
    block_k: int
    n_q: int
    n_k: int
    exist: int
    bound: int | None
    width: int | None
    arrays: dict[str, Array]

    @classmethod
    def of(cls, view: View, batch: int, n_q: int, n_k: int, block_q: int, block_k: int) -> "BlockMask":
        """The mask of a view of `n_q` queries and `n_k` keys; dense masks are not among what it can say."""
        assert view.mask is None
        padded_q, padded_k = (math.ceil(n / size) * size for n, size in ((n_q, block_q), (n_k, block_k)))
        limits, width = _limits(view, n_q)
        arrays = _segments(view, batch, n_q, n_k, padded_q, padded_k)
        if limits is not None:
            limits = limits if width is not None else jnp.minimum(limits, n_k)
            arrays["limits"] = jnp.pad(limits, (0, padded_q - n_q), mode="edge")
        said = padded_k == n_k or "q_segments" in arrays or (limits is not None and width is None)
        return cls(block_q, block_k, padded_q, padded_k, n_k, None if said else n_k, width, arrays)

    @property
    def seen(self) -> float:
        """About which fraction of the scores matters."""
        if "limits" not in self.arrays:
            return 1.0
        return 0.5 if self.width is None else min(1.0, self.width / self.exist)

    def queries(self, x: Array) -> Array:
        """`[B, H, Nq, ...] -> [B * H, n_q, ...]`."""
        return _merge(x, self.n_q)

    def keys(self, x: Array) -> Array:
        """`[B, H, Nk, ...] -> [B * H, n_k, ...]`."""
        return _merge(x, self.n_k)

    def spans(self, along_keys: bool) -> Array | None:
        """Which blocks of keys to visit for each block of queries, or (not `along_keys`) the other way round.

        Returns:
          `[4, blocks]` int32: the first block that is visited and the first that is not any more, and the same for
          blocks that are seen whole; None if there are no limits.
        """
        if "limits" not in self.arrays:
            return None
        limits = self.arrays["limits"].reshape(-1, self.block_q)
        first, last = limits[:, :1], limits[:, -1:]  # limits grow with the query
        begin = jnp.arange(self.n_k // self.block_k) * self.block_k
        end = begin + self.block_k
        visited, whole = begin < last, (end <= first) & (end <= self.exist)
        if self.width is not None:
            visited, whole = visited & (end > first - self.width), whole & (begin >= last - self.width)
        axis = 1 if along_keys else 0
        return jnp.concatenate([_interval(visited, axis), _interval(whole, axis)]).astype(jnp.int32)


def _interval(inside: Array, axis: int) -> Array:
    """Bools that are True in one interval along `axis` -> its begin and end, `[2, n]`."""
    begin = jnp.argmax(inside, axis=axis)
    return jnp.stack([begin, begin + jnp.sum(inside, axis=axis)])


def _limits(view: View, n_q: int) -> tuple[Array | None, int | None]:
    """The end and the width of the interval of keys that each query sees: `[Nq]` int32 and an int, or Nones."""
    if not view.positional:
        return None, None
    unit = (view.q_start + jnp.arange(n_q, dtype=jnp.int32)) // view.unit
    ahead = 1 if view.causal else view.window
    limits = (unit + ahead) * view.unit - view.k_start
    if view.window is None:
        return limits, None
    return limits, view.unit * (view.window if view.causal else 2 * view.window - 1)


def _segments(view: View, b: int, n_q: int, n_k: int, padded_q: int, padded_k: int) -> dict[str, Array]:
    """Packing and key mask as one pair of segments, if there is either."""
    if view.key_mask is None and view.q_segments is None:
        return {}
    if view.q_segments is None:
        q, k = jnp.zeros((b, n_q), jnp.int32), jnp.zeros((b, n_k), jnp.int32)
    else:
        q, k = view.q_segments.astype(jnp.int32), view.k_segments.astype(jnp.int32)
    if view.key_mask is not None:
        k = jnp.where(view.key_mask, k, _NOWHERE)
    k = jnp.pad(k, ((0, 0), (0, padded_k - n_k)), constant_values=_NOWHERE)
    return {"q_segments": jnp.pad(q, ((0, 0), (0, padded_q - n_q))), "k_segments": k}


def _merge(x: Array, length: int) -> Array:
    """`[B, H, N, ...] -> [B * H, length, ...]`, zeros behind."""
    x = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
    return jnp.pad(x, [(0, length - x.shape[1] if axis == 1 else 0) for axis in range(x.ndim)])
