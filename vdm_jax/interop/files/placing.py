"""Parameters put together from the tensors of files, each device's piece by itself.

A parameter here is often many tensors there (the layers of a stack, queries beside keys), and a device of a mesh holds
a part of it.  Only these parts are allocated, and a tensor none of which belongs to a device of this process is not
read: on the host is what is being placed, and beside it the tensors that are read at once, in the system's own pages.
"""

import concurrent.futures
import math
import mmap
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from vdm_jax.interop.files.keymap import Entry, Shape, Slices
from vdm_jax.interop.files.tensors import Stored

Source = tuple[Entry, Stored]
Bounds = tuple[tuple[int, int], ...]  # start and stop of each dim
_LINE = 64  # bytes of a cache line


def place(
    sources: Sequence[Source],
    shape: Shape,
    dtype: np.dtype,
    sharding: jax.sharding.Sharding,
    pool: concurrent.futures.Executor,
    room: int,
) -> jax.Array:
    """One of our parameters.

    Args:
      sources: the tensors that make it, each with its place.
      shape, dtype, sharding: of the parameter.
      pool: reads several tensors at once.
      room: bytes that those together may have; a larger one is read alone.

    Raises:
      RunError: see `Stored.read`.
    """
    pieces = _pieces(shape, dtype, sharding)
    for batch in _batches(sources, room):
        for done in [pool.submit(_fill, pieces, shape, entry, stored) for entry, stored in batch]:
            done.result()
    return jax.make_array_from_callback(shape, sharding, lambda index: pieces[_bounds(shape, index)])


def _batches(sources: Sequence[Source], room: int) -> Iterator[list[Source]]:
    batch, filled = [], 0
    for source in sources:
        if batch and filled + source[1].size > room:
            yield batch
            batch, filled = [], 0
        batch.append(source)
        filled += source[1].size
    yield batch


def _bounds(shape: Shape, index: Slices) -> Bounds:
    return tuple(cut.indices(size)[:2] for size, cut in zip(shape, index, strict=True))


def _pieces(shape: Shape, dtype: np.dtype, sharding: jax.sharding.Sharding) -> dict[Bounds, np.ndarray]:
    """Room for what each device of this process holds, one piece for all that hold the same."""
    held = {_bounds(shape, index) for index in sharding.addressable_devices_indices_map(shape).values()}
    return {bounds: _room(tuple(stop - start for start, stop in bounds), dtype) for bounds in held}


def _room(shape: Shape, dtype: np.dtype) -> np.ndarray:
    """Zeros on pages of their own, which the CPU's runtime takes over without a copy.

    Of the ordinary size: NumPy asks for huge ones, which took 3.3 s a GiB to come by on a machine whose memory was in
    use, and these 0.5 s.
    """
    size = math.prod(shape)
    pages = mmap.mmap(-1, max(size * dtype.itemsize, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype, size).reshape(shape)


def _fill(pieces: Mapping[Bounds, np.ndarray], shape: Shape, entry: Entry, stored: Stored) -> None:
    """Reads a tensor, unless none of its values belongs here, and puts these where they belong."""
    cuts = {bounds: entry.cut(shape, tuple(slice(*ends) for ends in bounds)) for bounds in pieces}
    if not any(cuts.values()):
        return
    values = entry.values(stored.mapped(), shape)
    for bounds, cut in cuts.items():
        if cut is not None:
            there, these = cut
            _copy(pieces[bounds][(*there, ...)], values[these])


def _copy(to: np.ndarray, values: np.ndarray) -> None:
    """A transposed matrix in strips of a cache line: row by row, each line would be fetched for one value of it."""
    if values.ndim < 2 or values.strides[-1] == values.itemsize:
        to[...] = values
        return
    width = _LINE // values.itemsize
    for start in range(0, values.shape[-1], width):
        strip = (..., slice(start, start + width))
        to[strip] = values[strip]
