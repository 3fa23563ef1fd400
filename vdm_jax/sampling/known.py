"""Known content: frames or regions that are given, and stay what they are.

One model does image-to-video, prediction, interpolation, continuation and inpainting by being told that part of
the clip is given (`known` True).  Three published ways of showing it to the network:

  clean    given frames enter clean and are told level 0               (FVDM, arXiv 2410.03160); frame masks only
  shared   given content enters clean, the level told is everybody's   (VDT, arXiv 2305.13311)
  renoise  given content enters noised to the current level            (inpainting; RePaint, arXiv 2201.09865)

Frame masks `[B, T]` default to clean.  Masks inside frames `[B, T, H, W, 1]` default to renoise: a frame has only
one level, so part of it cannot be at 0.  Whatever the way, x0_hat is the truth where it is known.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdm_jax.diffusion.leaves import expand, frame_times, leading_shape
from vdm_jax.diffusion.process import Process
from vdm_jax.errors import did_you_mean
from vdm_jax.sampling.denoiser import Denoiser
from vdm_jax.types import Array, Clip, Condition, Time

WAYS = ("clean", "shared", "renoise")


class Known(NamedTuple):
    """Content that is given.

    Attributes:
      mask: bool `[B, T]` or `[B, T, H, W, 1]` (or whatever broadcasts to a leaf from the left, `[B, T, ...]`).
      value: the clip that holds it, like x; what lies outside the mask is never read.
    """

    mask: Array
    value: Clip

    @property
    def whole_frames(self) -> bool:
        """Whether the mask is `[B, T]`."""
        return self.mask.ndim == 2


def check_mask(mask: Array, x: Clip) -> Array:
    """Returns a mask of what is given, bool with the batch of a clip, after checking its type and shape against it.

    Raises:
      ValueError: a mask that is not bool (0/1 numbers have no agreed polarity), or does not fit the clip.
    """
    mask = jnp.asarray(mask)
    if mask.dtype != jnp.bool_:
        raise ValueError(f"known: the mask must be bool, True where content is given; got {mask.dtype}")
    batch, frames = leading_shape(x)
    if mask.ndim < 2 or mask.shape[0] not in (1, batch) or mask.shape[1] != frames:
        raise ValueError(f"known: mask shape {mask.shape} does not start with [B, T]=({batch}, {frames})")
    for leaf in jax.tree.leaves(x):
        fits = mask.ndim == leaf.ndim and all(m in (1, n) for m, n in zip(mask.shape, leaf.shape))
        if mask.ndim > 2 and not fits:
            raise ValueError(f"known: mask shape {mask.shape} does not fit a clip of {leaf.shape}")
    return jnp.broadcast_to(mask, (batch, *mask.shape[1:]))


def check_known(known: Known, x: Clip) -> Known:
    """Returns `known` with a bool mask after checking its shapes against a clip.

    Raises:
      ValueError: as `check_mask`; a value unlike x.
    """
    mask = check_mask(known.mask, x)
    if jax.tree.structure(known.value) != jax.tree.structure(x):
        raise ValueError("known: the value has other leaves than the clip")
    for given, leaf in zip(jax.tree.leaves(known.value), jax.tree.leaves(x)):
        if jnp.shape(given) != leaf.shape:
            raise ValueError(f"known: value shape {jnp.shape(given)}, the clip has {leaf.shape}")
    return Known(mask, jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), known.value))


def paste(known: Known, x: Clip, value: Clip | None = None) -> Clip:
    """Puts `value` (default: the known content) where the mask holds, bit for bit; x elsewhere."""
    value = known.value if value is None else value
    return jax.tree.map(lambda leaf, v: jnp.where(expand(known.mask, leaf), v, leaf), x, value)


def replace_known(
    denoiser: Denoiser, process: Process, known: Known, noise: Clip | None = None, way: str | None = None
) -> Denoiser:
    """Shows a denoiser what is known, and makes it believe it.

    Args:
      denoiser: any denoiser.
      process: to noise the given content.
      known: mask and content.
      noise: the noise under the given content, like it; needed for `renoise` (fixed, so that the given content
        runs along one path through the levels).
      way: `clean`, `shared` or `renoise`; by default clean for frame masks and renoise for others.

    Returns:
      A denoiser whose x0_hat equals the content bit for bit where it is known, and does not depend on x_t there.

    Raises:
      ValueError: an unknown way, `clean` with a mask inside frames, `renoise` without noise.
    """
    way = way or ("clean" if known.whole_frames else "renoise")
    if way not in WAYS:
        raise ValueError(f"way: {did_you_mean(way, WAYS)}")
    if way == "clean" and not known.whole_frames:
        raise ValueError("way: 'clean' needs a frame mask [B, T]; part of a frame has no level of its own")
    if way == "renoise" and noise is None:
        raise ValueError("noise: missing; 'renoise' noises the given content to the current level")

    def informed(x_t: Clip, t: Time, cond: Condition) -> Clip:
        given = check_known(known, x_t)
        t = frame_times(t, x_t)
        shown = process.q_sample(given.value, noise, t) if way == "renoise" else given.value
        told = jnp.where(given.mask, 0.0, t) if way == "clean" else t
        return paste(given, denoiser(paste(given, x_t, shown), told, cond))

    return informed
