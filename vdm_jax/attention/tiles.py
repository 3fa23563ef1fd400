"""The tiles of a ring: which tokens a member holds, what one member's queries see of another's keys.

    Contiguous   member r has tokens [r m, (r + 1) m) of each frame (of the sequence, when there are no frames)
    ZigZag       member r has chunks r and 2 R - 1 - r of 2 R, for causal attention

Cutting inside frames (T > 1) makes causal over frames the same for every pair of members: a frame sees earlier frames,
of m tokens each.  So there too every tile is a static mask and all devices have equal work.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vdm_jax.attention.kernel import NEG, Kernel, View
from vdm_jax.attention.layout import fold
from vdm_jax.attention.ring import Grads, nothing_seen

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Span:
    """Some tokens of every frame: `size` from each of `starts` (which may be traced)."""

    starts: tuple[Array | int, ...]
    size: int

    @property
    def length(self) -> int:
        return len(self.starts) * self.size

    def of(self, x: Array, axis: int) -> Array:
        """These tokens of an array that has all of them along `axis`, or these only already."""
        if x.shape[axis] == self.length:
            return x
        return jnp.concatenate([jax.lax.dynamic_slice_in_dim(x, start, self.size, axis) for start in self.starts], axis)


@dataclasses.dataclass(frozen=True)
class Masks:
    """The masks of whole sequences, as one device holds them.

    Attributes:
      key_mask, k_segments: `[N, Tk, Sk]`.
      q_segments: `[N, Tq, Sq]`.
      mask: `[N | 1, H | 1, Tq, Sq, Tk, Sk]`; of Sq or Sk it may have this device's part only.
      key_length: keys of a frame beyond it are padding; None when there is none.
    """

    key_mask: Array | None = None
    q_segments: Array | None = None
    k_segments: Array | None = None
    mask: Array | None = None
    key_length: int | None = None

    def view(self, view: View, rows: Span, columns: Span) -> View:
        """`view` with what these say of some queries and keys (`[N, frames * tokens]`, as kernels want it)."""

        def flat(x: Array | None, span: Span) -> Array | None:
            return None if x is None else (y := span.of(x, 2)).reshape(y.shape[0], -1)

        mask = self.mask
        if mask is not None:
            mask = columns.of(rows.of(mask, 3), 5)
            n, h, t, s = mask.shape[:4]
            mask = mask.reshape(n, h, t * s, -1)
        return dataclasses.replace(
            view,
            key_mask=flat(self.key_mask, columns),
            q_segments=flat(self.q_segments, rows),
            k_segments=flat(self.k_segments, columns),
            mask=mask,
        )

    def with_padding(self, n: int, frames: int, width: int) -> "Masks":
        """Tells of the padded keys by the key mask: `n` sequences of `frames` frames of `width` tokens."""
        if self.key_length is None:
            return self
        exists = jnp.broadcast_to(jnp.arange(width) < self.key_length, (n, frames, width))
        return dataclasses.replace(self, key_mask=exists if self.key_mask is None else self.key_mask & exists)


@dataclasses.dataclass(frozen=True)
class Contiguous:
    """See `ring.Tiles`.

    Attributes:
      kernel: of the tiles.
      view: scale and positions; for frames, `unit` is the tokens of a frame.
      masks: all others.
    """

    kernel: Kernel
    view: View
    masks: Masks

    def forward(self, q, k, v, rows, columns, home):
        """See `ring.Tiles`."""
        compute = lambda: _forward(self.kernel, q, k, v, self._view(q, k, rows, columns))  # noqa: E731
        if not self._moves(q):
            return compute()
        return jax.lax.cond(self._any_seen(q, k, rows, columns), compute, lambda: nothing_seen(q))

    def backward(self, q, k, v, lse, delta, d_out, rows, columns, home):
        """See `ring.Tiles`."""
        view = self._view(q, k, rows, columns)
        compute = lambda: _backward(self.kernel, q, k, v, lse, delta, d_out, view)  # noqa: E731
        if not self._moves(q):
            return compute()
        nothing = lambda: tuple(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))  # noqa: E731
        return jax.lax.cond(self._any_seen(q, k, rows, columns), compute, nothing)

    def _moves(self, q: Array) -> bool:
        """Whether the positional part of the view differs from tile to tile."""
        return self.view.positional and q.shape[2] == 1

    def _view(self, q, k, rows, columns) -> View:
        m_q, m_k = q.shape[3], k.shape[3]
        view = self.view
        if self._moves(q):
            view = dataclasses.replace(view, q_start=rows * m_q, k_start=columns * m_k)
        elif view.positional:
            view = dataclasses.replace(view, unit=m_k)
        return self.masks.view(view, Span((rows * m_q,), m_q), Span((columns * m_k,), m_k))

    def _any_seen(self, q, k, rows, columns) -> Array:
        """Whether positions let any query see any key."""
        m_q, m_k, unit = q.shape[3], k.shape[3], self.view.unit
        first_q, last_q = rows * m_q // unit, (rows * m_q + m_q - 1) // unit
        first_k, last_k = columns * m_k // unit, (columns * m_k + m_k - 1) // unit
        seen = jnp.bool_(True)
        if self.view.causal:
            seen &= first_k <= last_q
        if self.view.window is not None:
            seen &= jnp.maximum(first_k - last_q, first_q - last_k) < self.view.window
        return seen


@dataclasses.dataclass(frozen=True)
class ZigZag:
    """See `ring.Tiles`; T = 1, and chunks hold whole units.

    Attributes:
      kernel: of the tiles.
      view: the causal one; between different members nothing is left of it but the scale.
      masks: key mask and segments, no dense mask.
      members: of the ring.
    """

    kernel: Kernel
    view: View
    masks: Masks
    members: int

    def forward(self, q, k, v, rows, columns, home):
        """See `ring.Tiles`."""
        if home:
            return _forward(self.kernel, q, k, v, self._view(self.view, rows, columns, q))
        c = q.shape[3] // 2

        def earlier():
            view = self._view(View(self.view.scale), rows, columns, q, k_part=0)
            return _forward(self.kernel, q, k[..., :c, :], v[..., :c, :], view)

        def later():
            view = self._view(View(self.view.scale), rows, columns, q, q_part=1)
            out, lse = _forward(self.kernel, q[..., c:, :], k, v, view)
            return _behind(out, c, 0.0), _behind(lse[..., None], c, NEG)[..., 0]

        return jax.lax.cond(columns < rows, earlier, later)

    def backward(self, q, k, v, lse, delta, d_out, rows, columns, home):
        """See `ring.Tiles`."""
        if home:
            view = self._view(self.view, rows, columns, q)
            return _backward(self.kernel, q, k, v, lse, delta, d_out, view)
        c = q.shape[3] // 2

        def earlier():
            view = self._view(View(self.view.scale), rows, columns, q, k_part=0)
            dq, dk, dv = _backward(self.kernel, q, k[..., :c, :], v[..., :c, :], lse, delta, d_out, view)
            return dq, *(jnp.pad(x, [(0, 0)] * 3 + [(0, c), (0, 0)]) for x in (dk, dv))

        def later():
            view = self._view(View(self.view.scale), rows, columns, q, q_part=1)
            high = (q[..., c:, :], k, v, lse[..., c:], delta[..., c:], d_out[..., c:, :])
            dq, dk, dv = _backward(self.kernel, *high, view)
            return _behind(dq, c, 0.0), dk, dv

        return jax.lax.cond(columns < rows, earlier, later)

    def _view(self, view: View, rows, columns, q, q_part: int | None = None, k_part: int | None = None) -> View:
        """The view of both chunks, or of the first (0) or second (1) one, of queries and of keys."""
        c = q.shape[3] // 2

        def span(member: Array, part: int | None) -> Span:
            starts = (member * c, (2 * self.members - 1 - member) * c)
            return Span(starts if part is None else (starts[part],), c)

        return self.masks.view(view, span(rows, q_part), span(columns, k_part))


def _behind(x: Array, missing: int, value: float) -> Array:
    """`[N, H, T, c, D]` behind `missing` tokens of a constant."""
    return jnp.pad(x, [(0, 0)] * 3 + [(missing, 0), (0, 0)], constant_values=value)


def _flat(x: Array) -> Array:
    """`[N, H, T, S, ...] -> [N, H, T * S, ...]`."""
    return fold(x[:, None])


def _forward(kernel: Kernel, q: Array, k: Array, v: Array, view: View) -> tuple[Array, Array]:
    out, lse = kernel.forward(_flat(q), _flat(k), _flat(v), view)
    return out.reshape(q.shape), lse.reshape(q.shape[:-1])


def _backward(kernel: Kernel, q, k, v, lse, delta, d_out, view: View) -> Grads:
    grads = kernel.backward(*map(_flat, (q, k, v, lse, delta, d_out)), view)
    return tuple(grad.astype(jnp.float32).reshape(x.shape) for grad, x in zip(grads, (q, k, v)))
