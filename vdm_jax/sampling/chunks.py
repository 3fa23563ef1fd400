"""Long videos chunk by chunk: each chunk begins with the last frames of the one before it.

    video = jnp.concatenate(list(chunks(generate, frames=40, chunk=16, overlap=8)), axis=1)

What makes a chunk is a plain function, so any sampler will do: one that is given the overlap as known frames (FVDM,
arXiv 2410.03160; VDT, 2305.13311), or with `overlap = 0` one that remembers by itself what it made (a KV cache).
The function sees arrays of one shape only, but for the first chunk, so it compiles once or twice.
"""

from collections.abc import Callable, Iterator

import jax

from vdm_jax.diffusion.leaves import leading_shape
from vdm_jax.types import Clip

GenerateChunk = Callable[[int, Clip | None], Clip]


def chunks(
    generate_chunk: GenerateChunk, frames: int, chunk: int, overlap: int, given: Clip | None = None
) -> Iterator[Clip]:
    """Generates a video of any length.

    Args:
      generate_chunk: (number of the chunk, its first frames `[B, overlap, ...]`, or None where there are none) -> the
        chunk `[B, chunk, ...]`, those frames included.
      frames: of the video, those of `given` included.
      chunk: frames of a chunk.
      overlap: of those, how many are the last ones of the chunk before; at least 0, below `chunk`.
      given: the frames that the video begins with, `[B, overlap, ...]`; None where the first chunk begins from nothing.

    Yields:
      The new frames of each chunk, `[B, n, ...]`, `given` with the first; the last one is cut to what is asked for.

    Raises:
      ValueError: an overlap that leaves nothing new, lengths that cannot be, given frames of another number, a chunk of
        another length than asked for.
    """
    if chunk < 1 or not 0 <= overlap < chunk:
        raise ValueError(f"overlap: {overlap} frames must be at least 0 and below the {chunk} frames of a chunk")
    if given is not None and (count := leading_shape(given)[1]) != overlap:
        raise ValueError(f"given: {count} frames, but a chunk begins with overlap={overlap} of them")
    if frames < 1:
        raise ValueError(f"frames: {frames} must be 1 or more")
    return _chunks(generate_chunk, frames, chunk, overlap, given)


def _chunks(generate_chunk: GenerateChunk, frames: int, chunk: int, overlap: int, given: Clip | None) -> Iterator[Clip]:
    made = number = 0
    while made < frames:
        clip = generate_chunk(number, given)
        if (count := leading_shape(clip)[1]) != chunk:
            raise ValueError(f"generate_chunk: made {count} frames, a chunk has {chunk}")
        skip = overlap if number else 0
        count = min(chunk - skip, frames - made)
        yield jax.tree.map(lambda x, a=skip, b=skip + count: x[:, a:b], clip)
        made, number = made + count, number + 1
        given = jax.tree.map(lambda x: x[:, chunk - overlap :], clip) if overlap else None
