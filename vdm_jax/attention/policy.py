"""What a query may see.  A policy says nothing of how (kernel) or where (partition) attention is computed.

Queries and keys are numbered along the sequence; `unit` tokens form one unit (a frame of a flattened clip, say)
and `causal` and `window` count in units.  So causal over frames in a `[T * H * W]` sequence is
`Policy(causal=True, unit=H * W)`: all tokens of a frame see each other and every earlier frame.
"""

import dataclasses

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

    A query that sees nothing gets zeros, not NaN.
    """

    causal: bool = False
    window: int | None = None
    unit: int = 1
    key_mask: Array | None = None
    mask: Array | None = None

    def __post_init__(self):
        if self.window is not None and self.window < 1:
            raise ValueError(f"window: {self.window} must be at least 1 (or None for no limit)")
        if self.unit < 1:
            raise ValueError(f"unit: {self.unit} must be at least 1 token")

    @property
    def positional(self) -> bool:
        """True if what is seen depends on where query and key stand."""
        return self.causal or self.window is not None

    def check(self, batch: int, heads: int, n_q: int, n_k: int) -> None:
        """Raises ValueError where a mask does not fit the operands."""
        if self.key_mask is not None and self.key_mask.shape != (batch, n_k):
            raise ValueError(f"key_mask: shape {self.key_mask.shape}, expected [B, Nk]={(batch, n_k)}")
        if self.mask is not None:
            got = self.mask.shape
            if len(got) != 4 or got[0] not in (1, batch) or got[1] not in (1, heads) or got[2:] != (n_q, n_k):
                raise ValueError(f"mask: shape {got}, expected [B|1, H|1, Nq, Nk]={(batch, heads, n_q, n_k)}")

    def visible(self, q_index: Array, k_index: Array) -> Array:
        """The positional part for any tile: `[q], [k]` token indices -> `[q, k]` bool."""
        i, j = q_index[:, None] // self.unit, k_index[None, :] // self.unit
        seen = jnp.ones(jnp.broadcast_shapes(i.shape, j.shape), bool)
        if self.causal:
            seen &= j <= i
        if self.window is not None:
            seen &= jnp.abs(i - j) < self.window
        return seen

    def dense(self, n_q: int, n_k: int) -> Array | None:
        """The whole mask, broadcastable to `[B, H, Nq, Nk]`; None if everything is seen."""
        parts = []
        if self.positional:
            parts.append(self.visible(jnp.arange(n_q), jnp.arange(n_k))[None, None])
        if self.key_mask is not None:
            parts.append(self.key_mask[:, None, None, :])
        if self.mask is not None:
            parts.append(self.mask)
        if not parts:
            return None
        seen = parts[0]
        for part in parts[1:]:
            seen = seen & part
        return seen


FULL = Policy()
CAUSAL = Policy(causal=True)
