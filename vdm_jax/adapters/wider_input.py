"""Weights of a network put into one that reads more of the same kind: channels stacked on the clip, numbers of it.

    y = W x + c   becomes   y = [W 0] (x, more) + c

The rows of what is new are zero, so the wider network starts as the narrower one was, whatever it is shown.  That is
how an image-to-video model starts from a text-to-video one, whose clips had no picture stacked on them (2311.15127).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from vdm_jax.errors import did_you_mean

Array = jax.Array
CHANNELS, NUMBERS = "concat_channels", "scalars"
WIDER = (CHANNELS, NUMBERS)  # fields of a network's config
ROWS = -2  # the dim of a kernel that its inputs are in


def check_wider(have: Any, want: Any, fields: tuple[str, ...]) -> None:
    """Refuses what zero rows cannot bring.

    Args:
      have, want: configs of one kind of network; they differ in `fields` at most.
      fields: those that may be wider, of `WIDER`.

    Raises:
      ValueError: a field that is none of these, that the network lacks, or that is narrower than it was.
    """
    for field in fields:
        if field not in WIDER:
            raise ValueError(f"widen: {did_you_mean(field, WIDER)}")
        if not hasattr(want, field) or (field == NUMBERS and not hasattr(want, "scalar_dim")):
            raise ValueError(f"widen: {type(want).__name__} reads no {field}, or each by parameters of its own")
        old, new = getattr(have, field), getattr(want, field)
        if field == CHANNELS and new < old:
            raise ValueError(f"widen: {field} is {new}, but the weights read {old}; it may only be more")
        if field == NUMBERS and new[: len(old)] != old:
            raise ValueError(f"widen: {field} {new} must begin with those of the weights, {old}")


def widened(params: Mapping[str, Any], have: Any, want: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of the wider network.

    Args:
      params: nested dict, of the network as it was.
      have: its config.
      want: nested dict of arrays or their shapes, of the wider network, which may hold more (an adapter).  Leaves with
        a sharding are put there.

    Returns:
      `params` with zero rows in the kernels that read what is new.

    Raises:
      ValueError: a parameter that differs otherwise.
    """
    flat, wanted = flatten_dict(params), flatten_dict(want)
    for path, leaf in flat.items():
        if path in wanted and leaf.shape != wanted[path].shape:
            flat[path] = _with_rows(leaf, wanted[path], have, path)
    return unflatten_dict(flat)


def _with_rows(kernel: Array, like: Any, have: Any, path: tuple[str, ...]) -> Array:
    """A kernel `[..., in, out]` with zero rows behind the numbers, or behind the channels so far of each position."""
    rows, wide = kernel.shape[ROWS], like.shape[ROWS]
    each, front = (rows, rows) if NUMBERS in path else (have.in_channels, have.channels + have.concat_channels)
    expected = (*kernel.shape[:ROWS], wide, kernel.shape[-1])
    positions = rows // each
    if expected != like.shape or wide < rows or rows % each or wide % positions:
        raise ValueError(f"widen: {'/'.join(path)} {kernel.shape} is not {like.shape} by further inputs alone")
    put = jax.jit(_padded, static_argnums=(1, 2, 3), out_shardings=getattr(like, "sharding", None))
    return put(kernel, positions, front, (wide - rows) // positions)


def _padded(kernel: Array, positions: int, front: int, more: int) -> Array:
    split = kernel.reshape(*kernel.shape[:ROWS], positions, -1, kernel.shape[-1])
    zeros = jnp.zeros((*split.shape[:ROWS], more, split.shape[-1]), kernel.dtype)
    joined = jnp.concatenate([split[..., :front, :], zeros, split[..., front:, :]], axis=ROWS)
    return joined.reshape(*kernel.shape[:ROWS], -1, kernel.shape[-1])
