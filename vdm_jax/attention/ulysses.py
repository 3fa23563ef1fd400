"""Ulysses: tokens cut over the devices become heads cut over the devices, and back (arXiv 2309.14509).

Before attention each of u devices holds all h heads of n tokens, after the exchange h / u heads of all u n tokens,
so any kernel and any policy works as on one device.  An exchange sends `(u - 1) / u` of a shard; a forward pass needs
four (q, k, v and the output), a backward pass four (the output's gradient and those of q, k, v).
"""

import dataclasses

import jax

from vdm_jax.attention.layout import HEADS, TOKENS

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Ulysses:
    """Neighbours on a mesh axis that exchange heads for tokens.

    Attributes:
      axis: of the mesh.
      degree: neighbours that exchange.
      size: devices along the axis, a multiple of `degree`.
    """

    axis: str
    degree: int
    size: int

    def to_heads(self, x: Array) -> Array:
        """`[B, G, H, T, S, D] -> [B, G, H / degree, T, S * degree, D]`, inside a `shard_map`."""
        return self._exchange(x, HEADS, TOKENS)

    def to_tokens(self, x: Array) -> Array:
        """The inverse of `to_heads`."""
        return self._exchange(x, TOKENS, HEADS)

    def index(self) -> Array:
        """Which of its neighbours this device is; it gets that part of the heads."""
        return jax.lax.axis_index(self.axis) % self.degree

    def _exchange(self, x: Array, split: int, concat: int) -> Array:
        if self.degree == 1:
            return x
        groups = [list(range(i, i + self.degree)) for i in range(0, self.size, self.degree)]
        every = groups if len(groups) > 1 else None
        return jax.lax.all_to_all(x, self.axis, split, concat, axis_index_groups=every, tiled=True)
