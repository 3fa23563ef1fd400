"""Attention on a mesh: a `Partition` around any kernel, forward and backward.

    enter:    tokens cut over context  ->  what the partition works on   (ulysses: heads; zig-zag ring: dealt tokens)
    forward:  a kernel, or a ring of kernel calls, on one device's share
    leave:    back

The custom VJP stands outside of the `shard_map`s: no collective is left to automatic differentiation, and the output
is named where the network uses it, so that a remat policy which keeps it also spares the exchange that made it.
Backward, dO and delta = rowsum(dO O) enter, and the gradients leave; operands are kept as they were after entering.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from vdm_jax.attention.kernel import Kernel, View
from vdm_jax.attention.layout import HEADS, TOKENS, fold, unfold
from vdm_jax.attention.local import row_delta
from vdm_jax.attention.partition import CONTEXT
from vdm_jax.attention.placement import Placement
from vdm_jax.attention.ring import stream_keys, stream_queries
from vdm_jax.attention.tiles import Contiguous, Masks, Span, ZigZag

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class _Job:
    """What is static: the kernel, scale and positions of the policy, and where everything lives."""

    kernel: Kernel
    view: View
    place: Placement

    def enter(self, x: Array, keys: bool = False) -> Array:
        """Queries (or keys) as the network has them -> as the partition works on them."""
        place = self.place
        if not (place.keys_move if keys else place.moves):
            return x
        outside, inside = (place.k_spec, place.k_inner) if keys else (place.q_spec, place.q_inner)
        length = place.k_length if keys else place.q_length
        return _manual(functools.partial(self._enter, length), (outside,), inside)(x)

    def leave(self, x: Array, keys: bool = False) -> Array:
        """The inverse of `enter`."""
        place = self.place
        if not (place.keys_move if keys else place.moves):
            return x
        outside, inside = (place.k_spec, place.k_inner) if keys else (place.q_spec, place.q_inner)
        width = place.k_width if keys else place.q_width
        return _manual(functools.partial(self._leave, width), (inside,), outside)(x)

    def _enter(self, length: int, x: Array) -> Array:
        x = self.place.ulysses.to_heads(x)
        if self.place.zigzag:
            x = self.place.ring.deal(x)
        return x if self.place.ring.size > 1 else x[:, :, :, :, :length]  # padding is of no use to a whole sequence

    def _leave(self, width: int, x: Array) -> Array:
        if self.place.ring.size == 1:
            x = jnp.pad(x, [(0, width - x.shape[TOKENS] if dim == TOKENS else 0) for dim in range(x.ndim)])
        if self.place.zigzag:
            x = self.place.ring.collect(x)
        return self.place.ulysses.to_tokens(x)

    def forward(self, q: Array, k: Array, v: Array, masks: dict[str, Array]) -> tuple[Array, Array]:
        """Output and lse of what has entered."""
        q_spec, k_spec = self.place.q_inner, self.place.k_inner
        specs = (q_spec, k_spec, k_spec, self.place.mask_specs(masks, rows=True))
        return _manual(self._forward, specs, (q_spec, _without_d(q_spec)))(q, k, v, masks)

    def _forward(self, q, k, v, masks):
        if self.place.ring.size == 1:
            q_, view = self._whole(q, k, masks)
            out, lse = self.kernel.forward(q_, fold(k), fold(v), view)
            return unfold(out, q.shape, self.place.shared), unfold(lse, q.shape, self.place.shared)
        out, lse = stream_keys(self.place.ring, self._tiles(q, masks), *map(_merge, (q, k, v)))
        return out.reshape(q.shape), lse.reshape(q.shape[:-1])

    def backward(self, q, k, v, lse, delta, d_out, masks: dict[str, Array]) -> tuple[Array, Array, Array]:
        """Gradients of what has entered, in its dtypes."""
        q_spec, k_spec = self.place.q_inner, self.place.k_inner
        rows = _without_d(q_spec)
        specs = (q_spec, k_spec, k_spec, rows, rows, q_spec, self.place.mask_specs(masks, rows=False))
        return _manual(self._backward, specs, (q_spec, k_spec, k_spec))(q, k, v, lse, delta, d_out, masks)

    def _backward(self, q, k, v, lse, delta, d_out, masks):
        if self.place.ring.size > 1:
            operands = map(_merge, (q, k, v, lse, delta, d_out))
            grads = stream_queries(self.place.ring, self._tiles(q, masks), *operands)
            return tuple(grad.reshape(x.shape) for grad, x in zip(grads, (q, k, v)))
        shared = self.place.shared
        q_, view = self._whole(q, k, masks)
        lse, delta, d_out = (fold(x, shared) for x in (lse, delta, d_out))
        dq, dk, dv = self.kernel.backward(q_, fold(k), fold(v), lse, delta, d_out, view)
        dq = unfold(dq, q.shape, shared).astype(q.dtype)
        dk, dv = (unfold(grad, k.shape).astype(k.dtype) for grad in (dk, dv))
        return (dq, *jax.lax.psum((dk, dv), CONTEXT)) if self.place.keys_everywhere else (dq, dk, dv)

    def _whole(self, q: Array, k: Array, masks: dict[str, Array]) -> tuple[Array, View]:
        """Folded queries of a device that has all the keys they see, and the view of its kernel."""
        view = self._masks(q, masks).view(self.view, Span((0,), q.shape[TOKENS]), Span((0,), k.shape[TOKENS]))
        return fold(q, self.place.shared), view

    def _tiles(self, q: Array, masks: dict[str, Array]) -> Contiguous | ZigZag:
        held = self._masks(q, masks).with_padding(q.shape[0] * q.shape[1], self.place.k_frames, self.place.k_width)
        if self.place.zigzag:
            return ZigZag(self.kernel, self.view, held, self.place.ring.size)
        return Contiguous(self.kernel, self.view, held)

    def _masks(self, q: Array, masks: dict[str, Array]) -> Masks:
        """This device's masks, with batch and groups merged."""
        merged = {name: x.reshape(-1, *x.shape[2:]) for name, x in masks.items() if name != "mask"}
        if "mask" in masks:
            merged["mask"] = self._dense(q, masks["mask"])
        return Masks(**merged, key_length=self.place.padded_keys)

    def _dense(self, q: Array, mask: Array) -> Array:
        """`[B | 1, G | 1, H | 1, Tq, Sq, Tk, Sk]` -> `[N | 1, H | 1, Tq, Sq, Tk, Sk]`, the heads of this device."""
        b, g, h = q.shape[:3]
        if mask.shape[HEADS] > h:
            mask = jax.lax.dynamic_slice_in_dim(mask, self.place.ulysses.index() * h, h, HEADS)
        if mask.shape[:2] != (1, 1):
            mask = jnp.broadcast_to(mask, (b, g, *mask.shape[2:]))
        return mask.reshape(-1, *mask.shape[2:])


def attend_sharded(kernel: Kernel, q: Array, k: Array, v: Array, masks: dict[str, Array], view: View, place: Placement):
    """Attention on the current mesh.

    Args:
      kernel: how a device computes.
      q, k, v: `[B, G, H, T, S, D]`.
      masks: of `Placement.masks`.
      view: scale and positions of the policy.
      place: of `Placement.of`.

    Returns:
      `[B, G, H, T, S, D]` like `q`.
    """
    fitted = (place.fit(q), place.fit(k, keys=True), place.fit(v, keys=True))
    return place.unfit(_attend(_Job(kernel, view, place), *fitted, masks), q.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(job: _Job, q: Array, k: Array, v: Array, masks: dict[str, Array]) -> Array:
    return _attend_fwd(job, q, k, v, masks)[0]


def _attend_fwd(job, q, k, v, masks):
    q, k, v = job.enter(q), job.enter(k, keys=True), job.enter(v, keys=True)
    if job.place.moves:
        q = _named(q, "attention_exchanged")
    if job.place.keys_move:
        k, v = _named(k, "attention_exchanged"), _named(v, "attention_exchanged")
    out, lse = job.forward(q, k, v, masks)
    out, lse = _named(job.leave(out), "attention_out"), checkpoint_name(lse, "attention_lse")
    return out, (q, k, v, masks, out, lse)


def _attend_bwd(job, saved, d_out):
    q, k, v, masks, out, lse = saved
    delta = job.enter(row_delta(out, d_out)[..., None])[..., 0]
    dq, dk, dv = job.backward(q, k, v, lse, delta, job.enter(d_out), masks)
    return job.leave(dq), job.leave(dk, keys=True), job.leave(dv, keys=True), None


_attend.defvjp(_attend_fwd, _attend_bwd)


def _manual(function, in_specs, out_specs):
    """`function` of each device's share, all axes of the current mesh manual (kernels are opaque to the compiler)."""
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _named(x: Array, name: str) -> Array:
    """Gives what a remat policy may keep its name, `[B, G, T, S, H D]` meanwhile.

    With heads and channels apart the compiler for TPUs is free to choose among layouts, takes two for one array that
    goes to the host, and fails.
    """
    b, g, h, t, s, d = x.shape
    flat = checkpoint_name(x.transpose(0, 1, 3, 4, 2, 5).reshape(b, g, t, s, h * d), name)
    return flat.reshape(b, g, t, s, h, d).transpose(0, 1, 4, 2, 3, 5)


def _merge(x: Array) -> Array:
    """`[B, G, H, T, S, ...] -> [B * G, H, T, S, ...]`."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _without_d(spec: PartitionSpec) -> PartitionSpec:
    return PartitionSpec(*spec[:-1])
