"""Flash attention on TPUs, skipping what is not seen: our own Pallas programs under any mask of positions.

JAX's library has such kernels too.  Ours take what a partition needs (an lse and a delta that come from outside,
masks that begin anywhere, even where only the running program knows), leave blocks that are seen whole without the
cost of a mask, and run their backward pass on both cores of a v5p, where the library's runs on one of them.

*Positions* need no mask in memory.  Whatever `causal`, `window` and `unit` say, query i sees one interval of keys,

    limit_i - width <= j < limit_i,   limit_i = unit (u_i + (1 if causal else window)) - k_start,
    u_i = (q_start + i) // unit,      width = unit (window if causal else 2 window - 1),

so one int per query is the mask, and intervals of blocks say which to skip and which are seen whole.

*Uneven lengths* are padded to blocks of about equal size: padded queries are cut off again, padded keys masked.

*dQ* comes from every block of keys by itself, so the backward pass goes over the keys in parts of `PARTIALS` blocks,
whose dQ are added up before the next part.
"""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp

from vdm_jax.attention import splash_kernels
from vdm_jax.attention.kernel import View
from vdm_jax.attention.splash_blocks import Blocks, Tile, blocks_for
from vdm_jax.sharding.context import target_device_kind

Array = jax.Array
PARTIALS = 8
_LOG2_E = math.log2(math.e)
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
    streams = True
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
        call = _Call.of(view, q.shape, k.shape[2], self._blocks(q).forward, self.interpret)
        operands = (call.queries(_scaled(q, view)), call.keys(k), call.keys(v))
        out, lse = splash_kernels.forward(call.job, *operands, call.masks, call.spans(along_keys=True))
        n_q = q.shape[2]
        return out[:, :n_q].reshape(q.shape), lse[:, 0, :n_q].reshape(q.shape[:3]) / _LOG2_E

    def backward(self, q, k, v, lse, delta, d_out, view):
        """See `Kernel`."""
        tile = self._blocks(q).backward.fit(q.shape[2], k.shape[2])
        edges = sorted({*range(0, k.shape[2], PARTIALS * tile.kv), k.shape[2]})
        parts = [slice(*edge) for edge in itertools.pairwise(edges)]
        rows = (_scaled(q, view), lse * _LOG2_E, delta, d_out.astype(q.dtype))
        grads = [self._backward_part(tile, *rows, k[:, :, part], v[:, :, part], view.keys(part)) for part in parts]
        dq, dk, dv = zip(*grads)
        dq = (sum(dq) * view.scale).swapaxes(2, 3)
        return dq, jnp.concatenate(dk, axis=2), jnp.concatenate(dv, axis=2)

    def _backward_part(self, tile, q, lse, delta, d_out, k, v, view) -> tuple[Array, Array, Array]:
        """dq `[B, H, D, Nq]` float32, dk and dv."""
        (b, h, n_q, d), n_k = q.shape, k.shape[2]
        call = _Call.of(view, q.shape, n_k, tile, self.interpret)
        rows = (call.queries(x)[:, None] for x in (lse, delta))
        operands = (call.queries(q), call.keys(k), call.keys(v), *rows, call.queries(d_out))
        dq, dk, dv = splash_kernels.backward(call.job, *operands, call.masks, call.spans(along_keys=False))
        dq = jnp.sum(dq, axis=0, dtype=jnp.float32)[:, :, :n_q].reshape(b, h, d, n_q)
        return dq, dk[:, :n_k].reshape(k.shape), dv[:, :n_k].reshape(v.shape)

    def _blocks(self, q: Array) -> Blocks:
        return self.blocks or blocks_for(target_device_kind(), q.dtype)


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call of a Pallas program: its blocks, and the mask in its terms.

    Attributes:
      job: what is static.
      n_q, n_k: lengths, padded to multiples of the blocks.
      exist: keys that are not padding.
      masks: `limits`, `q_segments`, `k_segments`, whichever there are.
    """

    job: splash_kernels.Job
    n_q: int
    n_k: int
    exist: int
    masks: dict[str, Array]

    @classmethod
    def of(cls, view: View, q_shape: tuple, n_k: int, tile: Tile, interpret: bool) -> "_Call":
        b, h, n_q, _ = q_shape
        tile = tile.fit(n_q, n_k)
        padded_q, padded_k = (math.ceil(n / size) * size for n, size in ((n_q, tile.q), (n_k, tile.kv)))
        limits, width = _limits(view, n_q)
        masks = _segments(view, b, n_q, n_k, padded_q, padded_k)
        if limits is not None:
            limits = limits if width is not None else jnp.minimum(limits, n_k)
            masks["limits"] = jnp.pad(limits, (0, padded_q - n_q), mode="edge")
        said = padded_k == n_k or "q_segments" in masks or (limits is not None and width is None)
        seen = 1.0 if limits is None else 0.5 if width is None else min(1.0, width / n_k)
        job = splash_kernels.Job(tile, h, None if said else n_k, width, seen, interpret)
        return cls(job, padded_q, padded_k, n_k, masks)

    def queries(self, x: Array) -> Array:
        """`[B, H, Nq, ...] -> [B * H, padded, ...]`."""
        return _merge(x, self.n_q)

    def keys(self, x: Array) -> Array:
        """`[B, H, Nk, ...] -> [B * H, padded, ...]`."""
        return _merge(x, self.n_k)

    def spans(self, along_keys: bool) -> Array | None:
        """Which blocks to visit: for each block of queries those of keys, or the other way round; see the kernels."""
        if "limits" not in self.masks:
            return None
        limits = self.masks["limits"].reshape(-1, self.job.tile.q)
        first, last = limits[:, :1], limits[:, -1:]  # limits grow with the query
        begin = jnp.arange(self.n_k // self.job.tile.kv) * self.job.tile.kv
        end = begin + self.job.tile.kv
        visited, whole = begin < last, (end <= first) & (end <= self.exist)
        if self.job.width is not None:
            visited, whole = visited & (end > first - self.job.width), whole & (begin >= last - self.job.width)
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
    """Packing and key mask as segments `[B, padded]` int32, if there is either; keys of the padding are nowhere."""
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


def _scaled(q: Array, view: View) -> Array:
    """Queries whose products with keys are scores in base 2."""
    return (q.astype(jnp.float32) * (view.scale * _LOG2_E)).astype(q.dtype)


def _merge(x: Array, length: int) -> Array:
    """`[B, H, N, ...] -> [B * H, length, ...]`, zeros behind."""
    x = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
    return jnp.pad(x, [(0, length - x.shape[1] if axis == 1 else 0) for axis in range(x.ndim)])
