"""What a query may see.  A policy says nothing of how (kernel) or where (partition) attention is computed.

Queries and keys are numbered along the sequence; `unit` tokens form one unit (a frame of a flattened clip, say)
and `causal` and `window` count in units.  So causal over frames in a `[T * H * W]` sequence is
`Policy(causal=True, unit=H * W)`: all tokens of a frame see each other and every earlier frame.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which keys each query sees; the conditions are combined with `and`.

    Attributes:
      causal: unit i sees units j <= i.
      window: unit i sees units j with |i - j| < window; None is unlimited.
      unit: tokens that form one unit of `causal` and `window`.
      key_mask: `[B, Nk]` bool, True at keys that exist (text padding).
      mask: `[B | 1, H | 1, Nq, Nk]` bool, anything else.
      bias: `[B | 1, H | 1, Nq, Nk]` float, added to the scaled scores: relative positions, log-weights of keys.
      q_segments, k_segments: `[B, Nq]`, `[B, Nk]` int, both or neither: a query sees the keys of its own segment
        (several clips packed into one sequence).

    A query that sees nothing gets zeros, not NaN.
    """

    causal: bool = False
    window: int | None = None
    unit: int = 1
    key_mask: Array | None = None
    mask: Array | None = None
    bias: Array | None = None
    q_segments: Array | None = None
    k_segments: Array | None = None

    def __post_init__(self):
        if self.window is not None and self.window < 1:
            raise ValueError(f"window: {self.window} must be at least 1 (or None for no limit)")
        if self.unit < 1:
            raise ValueError(f"unit: {self.unit} must be at least 1 token")
        if (self.q_segments is None) != (self.k_segments is None):
            missing = "q_segments" if self.q_segments is None else "k_segments"
            raise ValueError(f"{missing}: None, but queries and keys need segments both or neither")

    @property
    def positional(self) -> bool:
        """True if what is seen depends on where query and key stand."""
        return self.causal or self.window is not None

    def check(self, batch: int, heads: int, n_q: int, n_k: int) -> None:
        """Raises ValueError where a mask does not fit the operands."""
        rows = (("key_mask", "Nk", n_k), ("q_segments", "Nq", n_q), ("k_segments", "Nk", n_k))
        for field, dim, length in rows:
            value = getattr(self, field)
            if value is not None and value.shape != (batch, length):
                raise ValueError(f"{field}: shape {value.shape}, expected [B, {dim}]={(batch, length)}")
        for field in ("mask", "bias"):
            if (value := getattr(self, field)) is None:
                continue
            got = value.shape
            if len(got) != 4 or got[0] not in (1, batch) or got[1] not in (1, heads) or got[2:] != (n_q, n_k):
                raise ValueError(f"{field}: shape {got}, expected [B|1, H|1, Nq, Nk]={(batch, heads, n_q, n_k)}")

    def dense(self, n_q: int, n_k: int) -> Array | None:
        """The whole mask, broadcastable to `[B, H, Nq, Nk]`; None if everything is seen."""
        return dense(self, jnp.arange(n_q), jnp.arange(n_k))


def visible(of, q_index: Array, k_index: Array) -> Array:
    """The positional part of `of` (a policy, or a kernel's view): token indices `[q]`, `[k]` -> `[q, k]` bool."""
    i, j = q_index[:, None] // of.unit, k_index[None, :] // of.unit
    seen = jnp.ones(jnp.broadcast_shapes(i.shape, j.shape), bool)
    if of.causal:
        seen &= j <= i
    if of.window is not None:
        seen &= jnp.abs(i - j) < of.window
    return seen


def dense(of, q_index: Array, k_index: Array) -> Array | None:
    """All that `of` (a policy, or a kernel's view) says, where its queries and keys are the tokens of these indices.

    Returns:
      A mask broadcastable to `[B, H, Nq, Nk]`; None if everything is seen.
    """
    parts = []
    if of.positional:
        parts.append(visible(of, q_index, k_index)[None, None])
    if of.key_mask is not None:
        parts.append(of.key_mask[:, None, None, :])
    if of.mask is not None:
        parts.append(of.mask)
    if of.q_segments is not None:
        parts.append((of.q_segments[:, :, None] == of.k_segments[:, None, :])[:, None])
    return functools.reduce(jnp.logical_and, parts) if parts else None


FULL = Policy()
CAUSAL = Policy(causal=True)
