"""Clips of any length in bounded memory: chunk after chunk, with what causal layers remember carried along.

A causal layer sees its own frame and earlier ones, so all it needs of a chunk that went before are its last frames:

    y, past = step(x_1, None);   y, past = step(x_2, past);   ...

Put together the y are what one pass over the whole clip gives.  `step` is compiled twice: for the first chunk, which
has no past, and for all others.
"""

from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp

Array = jax.Array
Past = tuple[Array, ...]
Step = Callable[[Array, Past | None], tuple[Array, Past]]


class Tape:
    """What the layers of one pass remember, in the order in which they ask.

    Args:
      past: of the chunk before; None at the start of a clip.

    Attributes:
      first: whether the clip starts here.
    """

    def __init__(self, past: Past | None = None):
        self.first = past is None
        self._before = iter(past or ())
        self._after: list[Array] = []

    def extend(self, x: Array, count: int, start: Array) -> Array:
        """Puts the frames that went before in front, and keeps the last ones for the next chunk.

        Args:
          x: `[B, T, ...]`.
          count: frames to keep.
          start: what stands in front of the first chunk, `[B, count or 0, ...]`.
        """
        joined = jnp.concatenate([start if self.first else next(self._before), x], axis=1)
        self._after.append(joined[:, -count:])
        return joined

    def past(self) -> Past:
        """For the next chunk."""
        return tuple(self._after)


def zeros_before(x: Array, count: int) -> Array:
    """`count` frames of zeros, like those of `x`."""
    return jnp.zeros((x.shape[0], count, *x.shape[2:]), x.dtype)


def first_before(x: Array, count: int) -> Array:
    """`count` times the first frame of `x`."""
    return jnp.repeat(x[:, :1], count, axis=1)


def in_chunks(step: Step, x: Array, first: int, every: int) -> Array:
    """Runs a step over a clip by `lax.scan`; working memory is that of one chunk.

    Args:
      step: see above.
      x: `[B, T, ...]`.
      first: frames of the first chunk.
      every: frames of each other one; must divide the rest.

    Returns:
      The outputs, one after the other.
    """
    out, past = step(x[:, :first], None)
    if x.shape[1] == first:
        return out
    rest = x[:, first:]
    rest = jnp.moveaxis(rest.reshape(rest.shape[0], -1, every, *rest.shape[2:]), 1, 0)  # [K, B, every, ...]

    def body(past: Past, chunk: Array) -> tuple[Past, Array]:
        out, past = step(chunk, past)
        return past, out

    _, outs = jax.lax.scan(body, past, rest)
    outs = jnp.moveaxis(outs, 0, 1)
    return jnp.concatenate([out, outs.reshape(outs.shape[0], -1, *outs.shape[3:])], axis=1)


def chunk_size(chunk: int | None, length: int) -> int:
    """Size of a chunk of `length` things; None is all of them.  Raises ValueError for less than 1."""
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk: {chunk} must be 1 or more, or None for all at once")
    return length if chunk is None else min(chunk, length)


def first_chunk(length: int, every: int) -> int:
    """Size of the first of `length` things, so that the others are whole chunks: 1 to `every`."""
    return min(length, (length - 1) % every + 1)


def stream(step: Step, chunks: Iterable[Array]) -> Iterator[Array]:
    """Encodes or decodes a clip that comes in pieces and that no memory has to hold.

    Args:
      step: compiled by the caller, `jax.jit(step)`.
      chunks: `[B, T, ...]` each, in order, of equal size from the second on.

    Yields:
      What each chunk gives.
    """
    past = None
    for chunk in chunks:
        out, past = step(chunk, past)
        yield out
