"""What every attention kernel is given and gives back.

A kernel computes one *tile* of attention: some queries against some keys, which may be all of both.  Besides the
output it gives the log of the softmax denominator, and its backward pass is told that number instead of finding it:

    out = softmax(S) V,   lse = log sum_k e^S,   S = scale Q K^T where seen, else -inf,
    P = e^(S - lse),   dS = P (dO V^T - delta),   delta = rowsum(dO O).

Tiles of one row of the matrix therefore add up with weights `e^(lse_tile - lse)`, and a tile's gradients are right
under the `lse` and `delta` of the whole row.  So a partition that streams keys past queries (arXiv 2310.01889)
works with every kernel.
"""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp

from vdm_jax.attention import policy as policies
from vdm_jax.attention.policy import Policy

Array = jax.Array
LOG2_E = math.log2(math.e)
NEG = -1e30  # finite, so that a row which sees nothing gives zeros and not NaN


@dataclasses.dataclass(frozen=True)
class View:
    """What one call of a kernel sees of the attention matrix.  A pytree; Python numbers in it stay static.

    Attributes:
      scale: of the scores.
      causal, window, unit: as in `Policy`; they count from `q_start` and `k_start`.
      q_start, k_start: tokens of the whole sequence before the first query and key here; may be traced.
      key_mask: `[B, Nk]` bool.
      mask: `[B | 1, H | 1, Nq, Nk]` bool.
      bias: the same, float, added to the scaled scores.
      q_segments, k_segments: `[B, Nq]`, `[B, Nk]` int; only equal ones see each other.
    """

    scale: float
    causal: bool = False
    window: int | None = None
    unit: int = 1
    q_start: Array | int = 0
    k_start: Array | int = 0
    key_mask: Array | None = None
    mask: Array | None = None
    bias: Array | None = None
    q_segments: Array | None = None
    k_segments: Array | None = None

    @classmethod
    def of(cls, policy: Policy, scale: float) -> "View":
        """The whole matrix of a policy."""
        return cls(scale, **{f.name: getattr(policy, f.name) for f in dataclasses.fields(policy)})

    @property
    def positional(self) -> bool:
        """True if what is seen depends on where query and key stand."""
        return self.causal or self.window is not None

    def visible(self, q_index: Array, k_index: Array) -> Array:
        """The positional part: indices `[q]`, `[k]` counted from the beginning of the view -> `[q, k]` bool."""
        return policies.visible(self, self.q_start + q_index, self.k_start + k_index)

    def dense(self, n_q: int, n_k: int) -> Array | None:
        """The whole mask, broadcastable to `[B, H, Nq, Nk]`; None if everything is seen."""
        return policies.dense(self, self.q_start + jnp.arange(n_q), self.k_start + jnp.arange(n_k))

    def keys(self, part: slice) -> "View":
        """The tile of all queries against some keys, `part.start <= j < part.stop`."""
        cut = {name: x[:, part] for name in ("key_mask", "k_segments") if (x := getattr(self, name)) is not None}
        cut |= {name: x[..., part] for name in ("mask", "bias") if (x := getattr(self, name)) is not None}
        return dataclasses.replace(self, k_start=self.k_start + part.start, **cut)


_MAY_BE_TRACED = ("q_start", "k_start", "key_mask", "mask", "bias", "q_segments", "k_segments")


def _flatten(view: View):
    traced = {name: getattr(view, name) for name in _MAY_BE_TRACED if not isinstance(getattr(view, name), int)}
    static = {f.name: getattr(view, f.name) for f in dataclasses.fields(view) if f.name not in traced}
    return tuple(traced.values()), (tuple(traced), tuple(static.items()))


def _unflatten(names, children) -> View:
    traced, static = names
    return View(**dict(static), **dict(zip(traced, children, strict=True)))


jax.tree_util.register_pytree_node(View, _flatten, _unflatten)


class Kernel(Protocol):
    """One way to compute a tile.  Kernels are frozen dataclasses: equal settings are equal kernels.

    Attributes:
      name: as in a config.
      differentiable: JAX may differentiate `forward` itself where it is called on the whole matrix; otherwise
        `local.attend` gives it a derivative made of `backward`.
      anywhere: positions may be counted from anywhere: `q_start` and `k_start` may differ and be traced.
    """

    name: str
    differentiable: bool
    anywhere: bool

    def refuses(self, policy: Policy, q_shape: tuple, k_shape: tuple, dtype, platform: str) -> str | None:
        """One line of why this kernel cannot honour a request (`[B, H, N, D]` shapes), or None."""

    def forward(self, q: Array, k: Array, v: Array, view: View) -> tuple[Array, Array]:
        """`[B, H, Nq, D], [B, H, Nk, D] x 2 -> out [B, H, Nq, D], lse [B, H, Nq]` float32.

        A query that sees nothing has out 0 and lse `NEG` (or less).
        """

    def backward(
        self, q: Array, k: Array, v: Array, lse: Array, delta: Array, d_out: Array, view: View
    ) -> tuple[Array, Array, Array]:
        """Gradients of q, k, v in any float dtype, given `lse`, `delta` `[B, H, Nq]` float32 of the whole rows."""


def in_base_2(q: Array, view: View) -> Array:
    """Queries whose products with keys are `log2 e` times the scores: an accelerator's exponential is that of 2."""
    return (q.astype(jnp.float32) * (view.scale * LOG2_E)).astype(q.dtype)
