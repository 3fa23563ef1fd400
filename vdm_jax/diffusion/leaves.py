"""Clips leaf by leaf: one array `[B, T, ...]` or a dict of such arrays, all with the same B and T.

Everything in `diffusion/` and `sampling/` multiplies leaves by quantities that exist once per frame (`alpha`,
`sigma`, a mask), so the only two operations are "give `[B, T]` the rank of this leaf" and "do it on each leaf".
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vdm_jax.types import Array, Clip, Time, as_time


def expand(per_frame: Array, leaf: Array) -> Array:
    """Gives `[B, T]` (or `[1, T]`) the rank of `leaf`: `[B, T, 1, ..., 1]`."""
    return per_frame.reshape(per_frame.shape + (1,) * (leaf.ndim - per_frame.ndim))


def leading_shape(clip: Clip) -> tuple[int, int]:
    """Returns `(B, T)` of a clip.

    Raises:
      ValueError: a leaf with fewer than two dims, leaves that disagree on B or T, or no leaf at all.
    """
    leaves = jax.tree.leaves_with_path(clip)
    if not leaves:
        raise ValueError("clip: has no arrays")
    first = None
    for path, leaf in leaves:
        name = f"clip{jax.tree_util.keystr(path)}"
        if jnp.ndim(leaf) < 2:
            raise ValueError(f"{name}: shape {jnp.shape(leaf)} has no [B, T] in front")
        first = first or leaf.shape[:2]
        if leaf.shape[:2] != first:
            raise ValueError(f"{name}: [B, T] is {leaf.shape[:2]}, the other leaves have {first}")
    return first


def frame_times(t: Time, clip: Clip) -> Time:
    """Broadcasts a scalar, `[B]`, `[B, 1]` or `[B, T]` time to the `[B, T]` of a clip; refuses a bare `[T]`."""
    return as_time(t, *leading_shape(clip))


def map_frames(function: Callable, clips: tuple[Clip, ...], per_frame: tuple[Array, ...]) -> Clip:
    """Calls `function(*leaves, *per_frame)` on corresponding leaves, with each `[B, T]` expanded to their rank."""
    return jax.tree.map(lambda *leaves: function(*leaves, *(expand(q, leaves[0]) for q in per_frame)), *clips)


def select_frames(condition: Array, yes: Clip, no: Clip) -> Clip:
    """Takes whole frames of `yes` where `condition [B, T]` holds and of `no` elsewhere, bit for bit."""
    return map_frames(lambda a, b, c: jnp.where(c, a, b), (yes, no), (condition,))


def noise_like(rng: Array, clip: Clip) -> Clip:
    """Standard normal float32 noise of a clip's shape, from a key of its own for each leaf."""
    leaves, structure = jax.tree.flatten(clip)
    if len(leaves) == 1:  # so that an array and a dict with one array get the same noise from the same key
        keys = [rng]
    else:
        keys = list(jax.random.split(rng, len(leaves)))
    noise = [jax.random.normal(key, leaf.shape, jnp.float32) for key, leaf in zip(keys, leaves)]
    return jax.tree.unflatten(structure, noise)
