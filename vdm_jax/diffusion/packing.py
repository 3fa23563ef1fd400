"""Packed clips: several short clips one after the other in one sequence (`types.py`), told apart by segments.

  segments [B, T]: 0 0 0 0 0 1 1 2        K = 3 clips of 5, 2 and 1 frames

A clip must not notice its neighbours.  So whatever exists once per clip, `[B, K, ...]`, is spread over its frames
(`by_frame`), each clip counts its frames from 0 (`places`), and in a mean each clip weighs the same, however short
(`shares`).
"""

import jax
import jax.numpy as jnp

from vdm_jax.types import Array


def by_frame(per_clip: Array, segments: Array) -> Array:
    """`[B, K, ...]` and segments `[B, T]` -> `[B, T, ...]`: to each frame what belongs to its clip."""
    return jax.vmap(lambda values, clip: values[clip])(per_clip, segments)


def places(segments: Array) -> Array:
    """Segments `[B, T]` -> `[B, T]` int32: the number of each frame within its clip."""
    same = segments[:, :, None] == segments[:, None, :]
    return jnp.arange(segments.shape[1]) - jnp.argmax(same, axis=-1)


def shares(segments: Array, clips: int) -> Array:
    """Segments `[B, T]` of K clips -> `[B, T]` float32, T / (K |clip|): a mean with these weights is over clips."""
    sizes = (segments[:, :, None] == segments[:, None, :]).sum(-1)
    return segments.shape[1] / (clips * sizes.astype(jnp.float32))
