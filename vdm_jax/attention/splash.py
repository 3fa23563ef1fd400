"""Flash attention on TPUs: JAX's Pallas "splash" kernels under our own masks, lengths and lse (arXiv 2205.14135).

What is ours is what a kernel of a partition needs and the library's public function does not offer: forward with
lse, backward with an lse and delta that come from outside, masks that begin anywhere.

*Positions* need no mask in memory.  Whatever `causal`, `window` and `unit` say, query i sees one interval of keys,

    limit_i - width <= j < limit_i,   limit_i = unit (u_i + (1 if causal else window)) - k_start,
    u_i = (q_start + i) // unit,      width = unit (window if causal else 2 window - 1),

so one int per query is the mask.  It may be traced, and so may the list of tiles worth visiting that follows from it.

*Uneven lengths.*  The kernels want multiples of 128.  Queries are padded and cut off again.  Keys that everybody
sees are cut into whole blocks, which need no mask at all, and a short rest under a mask; the two are added by lse.

*dQ.*  Formed in the pass that forms dK and dV it spares two products of seven, but every block of keys writes a dQ of
its own.  So that pass goes over the keys in parts of `PARTIALS` blocks, whose dQ are added up before the next part.
"""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as library
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

from vdm_jax.attention.kernel import NEG, View
from vdm_jax.attention.splash_blocks import Blocks, Tile, blocks_for
from vdm_jax.sharding.context import target_device_kind

Array = jax.Array
PARTIALS = 8
_MASKED = library.DEFAULT_MASK_VALUE
_NOWHERE = -(2**31)  # the segment of keys that do not exist


@dataclasses.dataclass(frozen=True)
class Splash:
    """Flash attention in Pallas for TPUs; any policy but a dense mask.

    Attributes:
      blocks: tile sizes; None takes those of the chip that the program is for.
      interpret: run in Pallas' interpreter, on any platform and slowly.
    """

    blocks: Blocks | None = None
    interpret: bool = False

    name = "splash"
    differentiable = False
    anywhere = True

    def refuses(self, policy, q_shape, k_shape, dtype, platform) -> str | None:
        """Everything but TPUs, dense masks, and what is neither float32 nor bfloat16."""
        if platform != "tpu" and not self.interpret:
            return f"runs on TPUs, and this program is for a {platform}"
        if policy.mask is not None:
            return "cannot honour the dense mask of the policy"
        if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
            return f"computes in float32 or bfloat16, not {jnp.dtype(dtype)}"
        return None

    def forward(self, q: Array, k: Array, v: Array, view: View) -> tuple[Array, Array]:
        """See `Kernel`."""
        sizes = self._sizes(q)
        parts = [
            self._forward_part(sizes, q, k[:, :, cut], v[:, :, cut], part)
            for cut, part in _parts(view, k.shape[2], sizes.forward.kv, None)
        ]
        return functools.reduce(_add, parts)

    def backward(self, q, k, v, lse, delta, d_out, view):
        """See `Kernel`."""
        sizes = self._sizes(q)
        parts = [
            self._backward_part(sizes, q, k[:, :, cut], v[:, :, cut], lse, delta, d_out, part)
            for cut, part in _parts(view, k.shape[2], sizes.dkv.kv, PARTIALS if sizes.dq is None else None)
        ]
        dq, dk, dv = zip(*parts)
        return sum(x.astype(jnp.float32) for x in dq), jnp.concatenate(dk, axis=2), jnp.concatenate(dv, axis=2)

    def _sizes(self, q: Array) -> Blocks:
        return self.blocks or blocks_for(target_device_kind(), q.dtype)

    def _forward_part(self, sizes: Blocks, q: Array, k: Array, v: Array, view: View) -> tuple[Array, Array]:
        work = _Work.of(view, q.shape, k.shape[2], sizes.forward)

        def run(q, k, v, segments):
            return library._splash_attention_forward(
                work.mask_info(),
                q,
                k,
                v,
                segments,
                sinks=None,
                mask_value=_MASKED,
                is_mqa=False,
                block_sizes=library.BlockSizes(work.tile.q, work.tile.kv, work.tile.compute),
                residual_checkpoint_name=None,
                save_residuals=True,
                mask_function=work.mask_function(),
                interpret=self.interpret,
            )

        out, (lse,) = work.over_batch(run, work.queries(_scaled(q, view)), work.keys(k), work.keys(v))
        out, lse = out[:, :, : q.shape[2]], lse[:, :, : q.shape[2]]
        if not work.masked:
            return out, lse
        return jnp.where(lse[..., None] > NEG, out, 0), jnp.maximum(lse, NEG)

    def _backward_part(self, sizes, q, k, v, lse, delta, d_out, view):
        rest = (lse, delta, d_out.astype(q.dtype))
        dq, dk, dv = self._dkv(sizes.dkv, _scaled(q, view), k, v, *rest, view, fused=sizes.dq is None)
        if sizes.dq is not None:
            dq = self._dq(sizes.dq, _scaled(q, view), k, v, *rest, view)
        return dq * view.scale, dk, dv

    def _dkv(self, tile: Tile, q, k, v, lse, delta, d_out, view, fused: bool):
        work = _Work.of(view, q.shape, k.shape[2], tile)

        def run(q, k, v, lse, delta, d_out, segments):
            return library._splash_attention_bwd_dkv(
                q,
                k,
                v,
                segments,
                None,
                lse,
                d_out,
                delta,
                bkv_compute=work.tile.compute,
                mask_info=work.mask_info(by_columns=True),
                use_fused_bwd_kernel=fused,
                **work.options(self.interpret),
            )

        operands = (work.queries(q), work.keys(k), work.keys(v), *map(work.queries, (lse, delta, d_out)))
        dq, dk, dv = work.over_batch(run, *operands)
        dq = None if dq is None else dq[:, :, : q.shape[2]]
        return dq, dk[:, :, : k.shape[2]], dv[:, :, : k.shape[2]]

    def _dq(self, tile: Tile, q, k, v, lse, delta, d_out, view) -> Array:
        work = _Work.of(view, q.shape, k.shape[2], tile)

        def run(q, k, v, lse, delta, d_out, segments):
            options = work.options(self.interpret)
            info = work.mask_info()
            return library._splash_attention_bwd_dq(
                q, k, v, segments, None, lse, d_out, delta, mask_info=info, **options
            )

        operands = (work.queries(q), work.keys(k), work.keys(v), *map(work.queries, (lse, delta, d_out)))
        return work.over_batch(run, *operands)[:, :, : q.shape[2]]


@dataclasses.dataclass(frozen=True)
class _Seen:
    """The mask as the kernels compute it, element by element: the limit of a query against the number of a key."""

    width: int | None
    n_k: int | None  # keys that exist, where the limit does not say it

    def __call__(self, limit: Array, key: Array) -> Array:
        seen = key < limit
        if self.width is not None:
            seen &= key >= limit - self.width
        if self.n_k is not None:
            seen &= key < self.n_k
        return seen


@dataclasses.dataclass(frozen=True)
class _Work:
    """One call of a library kernel: a tile that fits the lengths, and the mask in the library's terms.

    Attributes:
      tile: block sizes.
      n_q, n_k: lengths, padded to the tile: multiples of its blocks.
      limits: `[n_q]` int32, see the module; None if positions do not matter.
      width: see the module.
      bound: keys that exist, where neither limits nor segments say so.
      segments: `[B, n_q]`, `[B, n_k]` or None.
    """

    tile: Tile
    n_q: int
    n_k: int
    limits: Array | None
    width: int | None
    bound: int | None
    segments: library.SegmentIds | None

    @classmethod
    def of(cls, view: View, q_shape: tuple, n_k: int, tile: Tile) -> "_Work":
        b, _, n_q, _ = q_shape
        tile = tile.fit(n_q, n_k)
        padded_q, padded_k = (math.ceil(n / size) * size for n, size in ((n_q, tile.q), (n_k, tile.kv)))
        segments = _segments(view, b, n_q, n_k, padded_q, padded_k)
        limits, width = _limits(view, n_q)
        short = padded_k > n_k and segments is None
        if limits is None and short:
            limits = jnp.full((n_q,), n_k, jnp.int32)
        elif limits is not None and width is None:
            limits = jnp.minimum(limits, n_k)
        bound = n_k if short and width is not None else None
        if limits is not None:
            limits = jnp.pad(limits, (0, padded_q - n_q), mode="edge")
        return cls(tile, padded_q, padded_k, limits, width, bound, segments)

    @property
    def masked(self) -> bool:
        """True if some query may see nothing."""
        return self.limits is not None or self.segments is not None

    def queries(self, x: Array) -> Array:
        """Pads the queries' dim of `[B, H, Nq, ...]`."""
        return _pad(x, self.n_q)

    def keys(self, x: Array) -> Array:
        """Pads the keys' dim of `[B, H, Nk, ...]`."""
        return _pad(x, self.n_k)

    def over_batch(self, run, *operands: Array):
        """`run(*operands [G, N, ...], segments)` for every clip; without segments all heads of all clips are alike."""
        if self.segments is not None:
            return jax.vmap(run)(*operands, self.segments)
        b, h = operands[0].shape[:2]
        out = run(*(x.reshape(b * h, *x.shape[2:]) for x in operands), None)
        return jax.tree.map(lambda x: x.reshape(b, h, *x.shape[1:]), out)

    def mask_function(self) -> _Seen | None:
        """What the kernel computes in each tile it visits."""
        return None if self.limits is None else _Seen(self.width, self.bound)

    def options(self, interpret: bool) -> dict:
        """What both backward kernels are told."""
        layout = library.QKVLayout.HEAD_DIM_MINOR
        return {
            "bq": self.tile.q,
            "bkv": self.tile.kv,
            "is_mqa": False,
            "mask_value": _MASKED,
            "attn_logits_soft_cap": None,
            "q_layout": layout,
            "k_layout": layout,
            "v_layout": layout,
            "mask_function": self.mask_function(),
            "interpret": interpret,
        }

    def mask_info(self, by_columns: bool = False) -> MaskInfo:
        """Which tiles to visit, and what to fetch while skipping the others.

        Args:
          by_columns: the kernel walks down the queries of one block of keys, instead of along a row of keys.
        """
        if self.limits is None:
            return MaskInfo(None, None, None, None, None)
        rows, columns = self.n_q // self.tile.q, self.n_k // self.tile.kv
        limits = self.limits.reshape(rows, self.tile.q)
        edges = jnp.arange(columns) * self.tile.kv
        visit = edges < limits[:, -1:]  # limits grow with the query
        if self.width is not None:
            visit &= edges + self.tile.kv > limits[:, :1] - self.width
        at_hand = _at_hand(visit.T).T if by_columns else _at_hand(visit)
        small = jnp.int8 if max(rows, columns) <= 127 else jnp.int16
        return MaskInfo(at_hand[None].astype(small), None, visit[None].astype(jnp.int8), None, self.limits)


def _parts(view: View, n_k: int, block: int, most: int | None) -> list[tuple[slice, View]]:
    """Cuts the keys where it helps.

    Keys that everybody sees are cut into whole blocks and a rest.  Then into parts of at most `most` blocks.
    """
    cuts = {0, n_k}
    if not (view.positional or view.key_mask is not None or view.q_segments is not None):
        cuts.add(n_k // block * block)
    if most is not None:
        cuts.update(range(0, n_k, most * block))
    cuts = sorted(cuts)
    return [(part := slice(start, stop), view.keys(part)) for start, stop in itertools.pairwise(cuts)]


def _add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    """Attention over two disjoint sets of keys, `(out, lse)` each, as attention over their union."""
    lse = jnp.logaddexp(a[1], b[1])
    weights = (jnp.exp(part[1] - lse)[..., None] for part in (a, b))
    out = sum(part[0].astype(jnp.float32) * weight for part, weight in zip((a, b), weights))
    return out.astype(a[0].dtype), lse


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


def _segments(view: View, b: int, n_q: int, n_k: int, padded_q: int, padded_k: int) -> library.SegmentIds | None:
    """Packing and key mask as one pair of segment ids `[B, padded]` int32; keys of the padding are nowhere."""
    if view.key_mask is None and view.q_segments is None:
        return None
    if view.q_segments is None:
        q, k = jnp.zeros((b, n_q), jnp.int32), jnp.zeros((b, n_k), jnp.int32)
    else:
        q, k = view.q_segments.astype(jnp.int32), view.k_segments.astype(jnp.int32)
    if view.key_mask is not None:
        k = jnp.where(view.key_mask, k, _NOWHERE)
    k = jnp.pad(k, ((0, 0), (0, padded_k - n_k)), constant_values=_NOWHERE)
    return library.SegmentIds(jnp.pad(q, ((0, 0), (0, padded_q - n_q))), k)


def _at_hand(visit: Array) -> Array:
    """`[rows, columns]` bool, True in an interval of each row -> the column whose data to hold while walking a row.

    That is the column itself where it is visited and else the nearest that is, so that skipped steps fetch nothing.
    """
    first = jnp.argmax(visit, axis=1)[:, None]
    last = visit.shape[1] - 1 - jnp.argmax(visit[:, ::-1], axis=1)[:, None]
    return jnp.clip(jnp.arange(visit.shape[1])[None], first, last)


def _scaled(q: Array, view: View) -> Array:
    return (q.astype(jnp.float32) * view.scale).astype(q.dtype)


def _pad(x: Array, length: int) -> Array:
    """Zeros behind dim 2."""
    return jnp.pad(x, [(0, length - x.shape[2] if axis == 2 else 0) for axis in range(x.ndim)])
