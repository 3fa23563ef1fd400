"""Tile sizes of the splash kernels, per chip.

A tile's operands, scores and accumulators must fit into the fast memory that the compiler gives one kernel (16 MiB
on v5e and v5p, 32 MiB on v6e and 7x), twice where they are streamed.  Within that, more queries per tile mean fewer
reads of the keys, and more keys per tile fewer rescalings of the accumulator.  `tools/tune_splash` measures on a TPU,
and without one ranks by what the compiler says.
"""

import dataclasses
import math

import jax.numpy as jnp

LANES = 128


@dataclasses.dataclass(frozen=True)
class Tile:
    """Queries and keys of one step of a kernel, and keys whose scores are formed at once; multiples of 128."""

    q: int
    kv: int
    compute: int

    def __post_init__(self):
        for name in ("q", "kv", "compute"):
            if getattr(self, name) < LANES or getattr(self, name) % LANES:
                raise ValueError(f"{name}: {getattr(self, name)} must be a multiple of {LANES}")
        if self.kv % self.compute:
            raise ValueError(f"compute: {self.compute} must divide kv={self.kv}")

    def fit(self, n_q: int, n_k: int) -> "Tile":
        """No larger, and of about equal blocks where a length needs several: little of the last one is padding."""
        q, kv = _even(n_q, self.q), _even(n_k, self.kv)
        return Tile(q, kv, next(c for c in range(min(self.compute, kv), 0, -LANES) if kv % c == 0))


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Tiles of the forward and the backward pass."""

    forward: Tile
    backward: Tile

    def halved(self) -> "Blocks":
        """For operands of twice the size."""
        half = lambda t: Tile(*(max(LANES, n // 2 // LANES * LANES) for n in (t.q, t.kv, t.compute)))  # noqa: E731
        return Blocks(half(self.forward), half(self.backward))


def _even(length: int, most: int) -> int:
    """The smallest block that covers a length with as few blocks as `most` does."""
    count = math.ceil(length / most)
    return math.ceil(length / count / LANES) * LANES


# Ranked by tools/tune_splash for heads of 128 in bfloat16.
BLOCKS = {
    "v5e": Blocks(Tile(1024, 1024, 512), Tile(1024, 1024, 512)),
    "v5p": Blocks(Tile(1024, 1024, 512), Tile(1024, 1024, 512)),
    "v6e": Blocks(Tile(2048, 2048, 512), Tile(1024, 1024, 512)),
    "tpu7x": Blocks(Tile(2048, 2048, 512), Tile(1024, 1024, 512)),
}
# What JAX calls them.
CHIP_OF = {
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "tpu7x",
}


def blocks_for(device_kind: str, dtype) -> Blocks:
    """The tile sizes for a chip, named as JAX names it; an unknown one gets those that fit the least memory."""
    blocks = BLOCKS[CHIP_OF.get(device_kind, "v5e")]
    return blocks if jnp.dtype(dtype).itemsize <= 2 else blocks.halved()
