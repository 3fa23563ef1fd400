"""Ring attention: keys stream past queries, one device's share at a time (arXiv 2310.01889).

Forward, device r of R holds the queries of its own tokens and sees the keys of device r - s at step s; the tiles of
a row add up by their lse:

    lse = log(e^lse_1 + e^lse_2),   out = e^(lse_1 - lse) out_1 + e^(lse_2 - lse) out_2,       R - 1 hops of k, v.

Backward, the keys stay where they are and the queries travel, with what belongs to their rows: the gradients of k and
v then never leave their device, and a hop carries q, dO, dq (and lse, delta) where it would carry k, v, dk, dv.
dq travels in float32, so that nothing is rounded R times; that is still no more bytes than four bfloat16 operands.

Causal attention gives the first device next to nothing to do, so tokens are dealt out in a zig-zag: of 2 R chunks
device r gets chunks r and 2 R - 1 - r.  Its own tile is then causal as it stands, and of every other device's tile it
sees exactly half: both its chunks see the first chunk of an earlier device, its second chunk sees both of a later one.
All devices have the same work at each step, and no tile needs a mask.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from vdm_jax.attention.kernel import NEG

Array = jax.Array
Grads = tuple[Array, Array, Array]


class Tiles(Protocol):
    """What a device does with queries of ring member `rows` and keys of member `columns`.

    All operands are `[N, H, T, S, D]` of one device, `lse` and `delta` without D; `home` (static) says that both are
    this device's own.
    """

    def forward(self, q, k, v, rows: Array, columns: Array, home: bool) -> tuple[Array, Array]:
        """Output and lse of the tile."""

    def backward(self, q, k, v, lse, delta, d_out, rows: Array, columns: Array, home: bool) -> Grads:
        """Gradients of the tile, float32."""


@dataclasses.dataclass(frozen=True)
class Ring:
    """Devices of a mesh axis in rings.

    Attributes:
      axis: of the mesh.
      size: devices of a ring.
      stride: distance of neighbours along the axis; so many rings lie side by side.
    """

    axis: str
    size: int
    stride: int = 1

    def index(self) -> Array:
        """Which member of its ring this device is, inside a `shard_map`."""
        return jax.lax.axis_index(self.axis) // self.stride

    def send(self, tree: Any, to: Callable[[int], int]) -> Any:
        """Every array of member i goes to member `to(i)`; `to` is a permutation."""
        if all(to(i) == i for i in range(self.size)):
            return tree
        lanes = range(self.stride)
        pairs = [(i * self.stride + n, to(i) * self.stride + n) for i in range(self.size) for n in lanes]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, self.axis, pairs), tree)

    def hop(self, tree: Any) -> Any:
        """Every array moves on by one member."""
        return self.send(tree, lambda i: (i + 1) % self.size)

    def deal(self, x: Array) -> Array:
        """Contiguous shards `[..., S, D]` -> zig-zag ones: chunks (2 r, 2 r + 1) -> (r, 2 R - 1 - r)."""
        # The even chunks of all members go to different members, and so do the odd ones: two permutations.
        even, odd = jnp.split(x, 2, axis=-2)
        even, odd = self.send(even, self._even_owner), self.send(odd, self._odd_owner)
        return self._in_order(even, odd)

    def collect(self, x: Array) -> Array:
        """The inverse of `deal`."""
        low, high = jnp.split(x, 2, axis=-2)
        first = self.index() % 2 == 0
        even, odd = jnp.where(first, low, high), jnp.where(first, high, low)
        back = [{self._even_owner(i): i for i in range(self.size)}, {self._odd_owner(i): i for i in range(self.size)}]
        return jnp.concatenate([self.send(even, back[0].get), self.send(odd, back[1].get)], axis=-2)

    def _in_order(self, even: Array, odd: Array) -> Array:
        first = self.index() % 2 == 0  # chunk r is the even one of the two
        return jnp.concatenate([jnp.where(first, even, odd), jnp.where(first, odd, even)], axis=-2)

    def _owner(self, chunk: int) -> int:
        return min(chunk, 2 * self.size - 1 - chunk)

    def _even_owner(self, i: int) -> int:
        return self._owner(2 * i)

    def _odd_owner(self, i: int) -> int:
        return self._owner(2 * i + 1)


def stream_keys(ring: Ring, tiles: Tiles, q: Array, k: Array, v: Array) -> tuple[Array, Array]:
    """The forward pass inside a `shard_map`: `[N, H, T, S, D] x 3 -> out (dtype of q), lse [N, H, T, S]` float32."""
    me, last = ring.index(), ring.size - 1

    def visit(total, keys, step):
        return _merge(*total, *tiles.forward(q, *keys, me, (me - step) % ring.size, home=False))

    def one_step(carry, step):
        keys, *total = carry
        # The next keys are on their way while these are used.
        return (ring.hop(keys), *visit(total, keys, step)), None

    keys = ring.hop((k, v))
    out, lse = tiles.forward(q, k, v, me, me, home=True)
    carry = (keys, out.astype(jnp.float32), lse)
    if last > 1:
        carry, _ = jax.lax.scan(one_step, carry, jnp.arange(1, last))
    keys, *total = carry
    out, lse = visit(total, keys, last)
    return out.astype(q.dtype), lse


def stream_queries(ring: Ring, tiles: Tiles, q, k, v, lse, delta, d_out) -> Grads:
    """The backward pass inside a `shard_map`: gradients of q, k, v in their dtypes."""
    me, last = ring.index(), ring.size - 1

    def visit(rows, step):
        q, lse, delta, d_out = rows
        return tiles.backward(q, k, v, lse, delta, d_out, (me - step) % ring.size, me, home=False)

    def one_step(carry, step):
        rows, dq, dk, dv = carry
        rows_next, dq = ring.hop(rows), ring.hop(dq)  # dq follows its queries one step behind
        more_dq, more_dk, more_dv = visit(rows, step)
        return (rows_next, dq + more_dq, dk + more_dk, dv + more_dv), None

    rows = ring.hop((q, lse, delta, d_out))
    home_dq, dk, dv = tiles.backward(q, k, v, lse, delta, d_out, me, me, home=True)
    rows_next = ring.hop(rows) if last > 1 else rows
    dq, more_dk, more_dv = visit(rows, 1)
    carry = (rows_next, dq, dk + more_dk, dv + more_dv)
    if last > 2:
        carry, _ = jax.lax.scan(one_step, carry, jnp.arange(2, last))
    rows, dq, dk, dv = carry
    if last > 1:
        dq = ring.hop(dq)
        more_dq, more_dk, more_dv = visit(rows, last)
        dq, dk, dv = dq + more_dq, dk + more_dk, dv + more_dv
    dq = home_dq + ring.hop(dq)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


def _merge(out: Array, lse: Array, more: Array, more_lse: Array) -> tuple[Array, Array]:
    total = jnp.logaddexp(lse, more_lse)
    weight, more_weight = jnp.exp(lse - total)[..., None], jnp.exp(more_lse - total)[..., None]
    return out * weight + more * more_weight, total


def nothing_seen(q: Array) -> tuple[Array, Array]:
    """Output and lse of queries that see no key of a tile."""
    return jnp.zeros_like(q), jnp.full(q.shape[:-1], NEG, jnp.float32)
