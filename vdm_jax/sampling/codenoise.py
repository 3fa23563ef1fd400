"""Co-denoising of overlapping windows (Gen-L-Video, arXiv 2305.18264) as a denoiser transform.

    D_f(x_t) = sum_i W(f - s i) D^i_f / sum_i W(f - s i),        D^i = D(frames [s i, s i + w) of x_t, their t, c^i)

A denoiser of short clips becomes one of long clips.  Averaging beliefs equals averaging the next states of any solver
whose step is affine in the belief (DDIM, Euler); solvers that draw noise draw one for each frame of the whole clip, so
windows that share a frame share its noise.  The network runs once for each window: (N - w) / s + 1 times the cost.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax.diffusion.leaves import frame_times
from vdm_jax.diffusion.windows import Windows
from vdm_jax.sampling.denoiser import Denoiser
from vdm_jax.types import PER_FRAME_KEYS, Array, Clip, Condition, Time


def codenoised(
    denoiser: Denoiser,
    windows: Windows,
    conditions: Sequence[Mapping[str, Any]] | None = None,
    one_by_one: bool = False,
) -> Denoiser:
    """Makes a denoiser of long clips of one of short clips.

    Args:
      denoiser: of clips of w frames, guided or not.
      windows: over the frames of the long clip.
      conditions: what is said to each of the n windows in place of the entries of the condition with the same keys
        (a prompt of its own); each `[B, ...]`, or `[1, ...]` for all clips.
      one_by_one: run windows one after the other, for memory that does not grow with the clip; otherwise all n at once.

    Returns:
      `D(x_t, t, cond)`, x_t `[B, N, ...]`.  Of the condition, entries with a frame each are cut into windows
      (`types.PER_FRAME_KEYS`, and `tokens [B, N, L, D]`), all others hold for every window.

    Raises:
      ValueError: when called, frames that the windows do not cover, or conditions of another number of windows.
    """

    def long(x_t: Clip, t: Time, cond: Condition) -> Clip:
        t = frame_times(t, x_t)
        batch, frames = t.shape
        count = len(windows.starts(frames))
        if conditions is not None and len(conditions) != count:
            raise ValueError(f"conditions: {len(conditions)} for the {count} windows of {frames} frames")

        def cut(leaf: Array) -> Array:
            return jnp.moveaxis(windows.cut(leaf, axis=1), 1, 0)  # [n, B, w, ...]

        own = _of_windows(cond, cut, frames, count)
        for key in conditions[0] if conditions else ():
            own[key] = jnp.stack([_of_batch(jnp.asarray(said[key]), batch) for said in conditions])
        parts = (jax.tree.map(cut, x_t), cut(t), own)
        beliefs = jax.lax.map(lambda part: denoiser(*part), parts) if one_by_one else _at_once(denoiser, parts, count)
        return jax.tree.map(lambda leaf: windows.fuse(jnp.moveaxis(leaf, 0, 1), frames, axis=1), beliefs)

    return long


def _at_once(denoiser: Denoiser, parts: tuple, count: int) -> Clip:
    """All windows as one batch: leaves `[n, B, ...]`."""
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), parts)
    return jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), denoiser(*flat))


def _of_windows(cond: Condition, cut, frames: int, count: int) -> dict[str, Any]:
    """The condition of each window, leaves `[n, B, ...]`."""

    def one(key: str, leaf: Array) -> Array:
        by_prompt = {"tokens": 4, "tokens_mask": 3}  # dims of those that have a frame each
        per_frame = key in PER_FRAME_KEYS or leaf.ndim == by_prompt.get(key)
        if per_frame and leaf.shape[1] != frames:
            raise ValueError(f"condition: {key} is given for {leaf.shape[1]} frames, the clip has {frames}")
        return cut(leaf) if per_frame else jnp.broadcast_to(leaf, (count, *leaf.shape))

    return {key: jax.tree.map(lambda leaf, key=key: one(key, leaf), value) for key, value in cond.items()}


def _of_batch(value: Array, batch: int) -> Array:
    if value.shape[0] not in (1, batch):
        raise ValueError(f"conditions: {value.shape[0]} entries of a window for {batch} clips")
    return jnp.broadcast_to(value, (batch, *value.shape[1:]))
