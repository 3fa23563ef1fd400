"""The one door to attention: layout in, policy honoured, kernel and partition chosen.

out = attend(q, k, v, policy=Policy(causal=True))
"""

import jax

from vdm_jax.attention.cache import CUTS
from vdm_jax.attention.choice import kernel_for
from vdm_jax.attention.kernel import View
from vdm_jax.attention.layout import GROUPS, HEADS, TOKENS, check_layout, fold, gather, resize, spread, unfold
from vdm_jax.attention.local import attend_locally
from vdm_jax.attention.partition import LOCAL, check_partition
from vdm_jax.attention.placement import Placement
from vdm_jax.attention.policy import FULL, Policy
from vdm_jax.attention.sharded import attend_sharded
from vdm_jax.errors import did_you_mean
from vdm_jax.sharding.context import partitioned, target_platform

Array = jax.Array


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    policy: Policy = FULL,
    kernel: str = "auto",
    partition: str = "auto",
    layout: str = "BNHD",
    scale: float | None = None,
    length: int | None = None,
    keys: str = "tokens",
) -> Array:
    """Multi-head attention.

    Args:
      q: in `layout`, any float dtype.
      k, v: in the same layout, with their own N (or T, S).  With G = 1 all groups of queries read the same keys.
      policy: what a query may see.  Its masks count without padding, and B of them is B G where there are groups
        (b-major), unless these share their keys.
      kernel: how it is computed: a name of `KERNELS`, or `auto`.
      partition: where, on a mesh with a `context` axis: a name of `PARTITIONS`, or `auto`.
      layout: a name of `layout.LAYOUTS`, the order of the dims of all operands and of the result.
      scale: of the scores; default `D ** -0.5`.
      length: keys beyond it (of N, or of each frame's S) are padding that the network carries along, so that the mesh
        divides it; so are the queries if there are as many.  What comes out at padded queries is finite and means
        nothing.
      keys: what of k and v the context axis cuts: `tokens`, or `heads` for those of a `KVCache` that is cut that way.

    Returns:
      Attention output in the layout and dtype of `q`; softmax and sums are float32.

    Raises:
      ValueError: unknown kernel, partition or layout, operands that do not fit each other or the masks, a kernel or
        partition that cannot do it.
    """
    check_layout(layout)
    check_partition(partition)
    if keys not in CUTS:
        raise ValueError(f"keys: {did_you_mean(keys, CUTS)}")
    q, k, v = (spread(x, layout) for x in (q, k, v))
    _check(policy, q.shape, k.shape, v.shape, length)
    view = View.of(policy, q.shape[-1] ** -0.5 if scale is None else scale)
    if partitioned():
        place = Placement.of(partition, policy, q.shape, k.shape, length, keys)
        out = _on_mesh(kernel, place, q, k, v, policy, view, length)
    else:
        out = _whole(kernel, q, k, v, policy, view, length)
    return gather(out, layout)


def _on_mesh(kernel: str, place: Placement, q: Array, k: Array, v: Array, policy: Policy, view: View, length) -> Array:
    shapes = place.tile_shapes()
    chosen = kernel_for(kernel, place.tile_policy(policy), *shapes, q.dtype, target_platform(), place.moving)
    if place.where == LOCAL and chosen.differentiable:  # plain array code: the compiler can cut it
        return _whole(kernel, q, k, v, policy, view, length)
    positions = View(view.scale, view.causal, view.window, view.unit)
    return attend_sharded(chosen, q, k, v, place.masks(policy), positions, place)


def _whole(kernel: str, q: Array, k: Array, v: Array, policy: Policy, view: View, length: int | None) -> Array:
    """Without a partition: `[B, G, H, T, S, D]`, like `q`."""
    shape, shared = q.shape, k.shape[GROUPS] < q.shape[GROUPS]
    if length is not None:
        q = resize(q, TOKENS, length) if q.shape[TOKENS] == k.shape[TOKENS] else q
        k, v = resize(k, TOKENS, length), resize(v, TOKENS, length)
    folded = (fold(q, shared), fold(k), fold(v))
    chosen = kernel_for(kernel, policy, folded[0].shape, folded[1].shape, q.dtype, target_platform())
    out = unfold(attend_locally(chosen, *folded, view), q.shape, shared)
    return resize(out, TOKENS, shape[TOKENS])


def _check(policy: Policy, q: tuple, k: tuple, v: tuple, length: int | None) -> None:
    """Refuses operands `[B, G, H, T, S, D]` that do not fit each other, the length or the masks."""
    alike = q[0] == k[0] and k[GROUPS] in (1, q[GROUPS]) and q[HEADS] == k[HEADS] and q[-1] == k[-1]
    if k != v or not alike:
        raise ValueError(f"q, k, v: shapes {q}, {k}, {v} ([B, G, H, T, S, D]) do not fit")
    if length is not None and not 0 < length <= k[TOKENS]:
        raise ValueError(f"length: {length} is not 1 to {k[TOKENS]}, the keys there are")
    of_keys = k[TOKENS] if length is None else length
    of_queries = of_keys if q[TOKENS] == k[TOKENS] else q[TOKENS]
    groups = q[GROUPS] // k[GROUPS]  # as many become one sequence
    policy.check(k[0] * k[GROUPS], k[HEADS], groups * q[3] * of_queries, k[3] * of_keys)
