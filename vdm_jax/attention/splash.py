"""Flash attention on TPUs, skipping what is not seen: our own Pallas programs under any mask of positions.

JAX's library has such kernels too.  Ours take what a partition needs (an lse and a delta that come from outside,
masks that begin anywhere, even where only the running program knows), leave blocks that are seen whole without the
cost of a mask, and run their backward pass on both cores of a v5p, where the library's runs on one of them.

*dQ* comes from every block of keys by itself, so the backward pass goes over the keys in parts of `PARTIALS` blocks,
whose dQ are added up before the next part.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp

from vdm_jax.attention import splash_kernels
from vdm_jax.attention.block_mask import BlockMask
from vdm_jax.attention.kernel import LOG2_E, View, in_base_2
from vdm_jax.attention.splash_blocks import Blocks, Tile, blocks_for
from vdm_jax.sharding.context import target_device_kind

Array = jax.Array
PARTIALS = 8


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
        b, _, n_q, _ = q.shape
        tile = self._blocks(q).forward.fit(n_q, k.shape[2])
        mask = BlockMask.of(view, b, n_q, k.shape[2], tile.q, tile.kv)
        operands = (mask.queries(in_base_2(q, view)), mask.keys(k), mask.keys(v))
        job = _job(mask, q, tile, self.interpret)
        out, lse = splash_kernels.forward(job, *operands, mask.arrays, mask.spans(along_keys=True))
        return out[:, :n_q].reshape(q.shape), lse[:, 0, :n_q].reshape(q.shape[:3]) / LOG2_E

    def backward(self, q, k, v, lse, delta, d_out, view):
        """See `Kernel`."""
        tile = self._blocks(q).backward.fit(q.shape[2], k.shape[2])
        edges = sorted({*range(0, k.shape[2], PARTIALS * tile.kv), k.shape[2]})
        parts = [slice(*edge) for edge in itertools.pairwise(edges)]
        rows = (in_base_2(q, view), lse * LOG2_E, delta, d_out.astype(q.dtype))
        grads = [self._backward_part(tile, *rows, k[:, :, part], v[:, :, part], view.keys(part)) for part in parts]
        dq, dk, dv = zip(*grads)
        dq = (sum(dq) * view.scale).swapaxes(2, 3)
        return dq, jnp.concatenate(dk, axis=2), jnp.concatenate(dv, axis=2)

    def _backward_part(self, tile, q, lse, delta, d_out, k, v, view) -> tuple[Array, Array, Array]:
        """dq `[B, H, D, Nq]` float32, dk and dv."""
        (b, h, n_q, d), n_k = q.shape, k.shape[2]
        tile = tile.fit(n_q, n_k)
        mask = BlockMask.of(view, b, n_q, n_k, tile.q, tile.kv)
        rows = (mask.queries(x)[:, None] for x in (lse, delta))
        operands = (mask.queries(q), mask.keys(k), mask.keys(v), *rows, mask.queries(d_out))
        job = _job(mask, q, tile, self.interpret)
        dq, dk, dv = splash_kernels.backward(job, *operands, mask.arrays, mask.spans(along_keys=False))
        dq = jnp.sum(dq, axis=0, dtype=jnp.float32)[:, :, :n_q].reshape(b, h, d, n_q)
        return dq, dk[:, :n_k].reshape(k.shape), dv[:, :n_k].reshape(v.shape)

    def _blocks(self, q: Array) -> Blocks:
        return self.blocks or blocks_for(target_device_kind(), q.dtype)


def _job(mask: BlockMask, q: Array, tile: Tile, interpret: bool) -> splash_kernels.Job:
    return splash_kernels.Job(tile, q.shape[1], mask.bound, mask.width, mask.seen, interpret)
