"""Noise of a long clip that is that of its first frames over and over, shuffled (FreeNoise, arXiv 2310.15169).

    eps_f, f < w, is drawn;     eps_f .. eps_{f+s-1} = a permutation of eps_{f-w} .. eps_{f-w+s-1},   f = w, w + s, ...

Every frame is standard normal by itself, as a short clip's are, but windows of w frames that are far from each other
hold nearly the same noise, and what a network makes of them resembles each other.  Within a block of s frames the order
is new each time, so that the clip does not repeat itself.

Shape legend: N frames, w of the first ones, s of a block.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax.diffusion.leaves import noise_like
from vdm_jax.types import Array, Clip

_ORDER = 0x5C4ED  # of the key: which order, apart from what is drawn


@dataclasses.dataclass(frozen=True)
class Rescheduled:
    """See the top of this file; with N = w it is plain noise, bit for bit.

    Attributes:
      window: w, what the network was trained on.
      stride: s.

    Raises:
      ValueError: names the field and what is allowed.
    """

    window: int = 16
    stride: int = 4

    variance = 1.0
    reads = frozenset()

    def __post_init__(self):
        if self.window < 1:
            raise ValueError(f"window: {self.window!r} must be 1 or more")
        if not 1 <= self.stride <= self.window:
            raise ValueError(f"stride: {self.stride!r} must be 1 to window={self.window}")

    def __call__(self, rng: Array, like: Clip, given: Mapping[str, Any]) -> Clip:
        """See `NoiseSource`; raises as `order`."""
        order = self.order(jax.random.fold_in(rng, _ORDER), len(jax.tree.leaves(like)[0]))
        return jax.tree.map(lambda leaf: leaf[order], noise_like(rng, like))

    def order(self, rng: Array, frames: int) -> Array:
        """Of which of the first frames each frame has the noise, `[N]` int32; raises as `blocks`."""
        keys = jax.random.split(rng, self.blocks(frames))
        return self.arrange(jax.vmap(lambda key: jax.random.permutation(key, self.stride))(keys))

    def arrange(self, permutations: Array) -> Array:
        """The same, `[w + n s]`, of the permutations of all n blocks behind the first window, `[n, s]`."""
        order = jnp.arange(self.window, dtype=jnp.int32)
        for number, permutation in enumerate(permutations):
            begin = number * self.stride
            order = jnp.append(order, order[begin : begin + self.stride][permutation])
        return order

    def blocks(self, frames: int) -> int:
        """How many blocks stand behind the first window of a clip.

        Raises:
          ValueError: fewer frames than a window has, or a last block that is not whole.
        """
        if frames < self.window:
            raise ValueError(f"frames: {frames} is less than the window of {self.window} frames")
        if left := (frames - self.window) % self.stride:
            near = f"{frames - left} and {frames - left + self.stride}"
            raise ValueError(
                f"frames: {frames} is not the window of {self.window} and whole blocks of {self.stride};"
                f" the nearest that are: {near}"
            )
        return (frames - self.window) // self.stride
