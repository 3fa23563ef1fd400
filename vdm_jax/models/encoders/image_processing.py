"""Pictures as CLIP's vision tower wants them, by two published roads; both are products with a matrix for each side.

  processor (Wan, `CLIPImageProcessor`):  bicubic (a = -1/2, widened when shrinking) so that the shorter side fits,
                                          the middle of it, then (x / 255 - mean) / std
  SVD:                                    Gaussian blur of sigma (in / out - 1) / 2, bicubic (a = -3/4) through the
                                          corners onto the square, then (x - mean) / std

8-bit pictures are rounded to 8 bits after each side, as Pillow does, and differ from the processor's by one of 255
levels at most, in fewer than one value of a thousand; by two where a picture is more than twice as tall as wide, whose
height newer versions of Pillow take first.  Float pictures are not rounded.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def clip_picture(pictures: Array, size: int = 224, crop: bool = True) -> Array:
    """Resizes, crops and normalises as the published processor does.

    Args:
      pictures: `[B, H, W, 3]`, uint8 in 0 .. 255, or float in 0 .. 1.
      size: height and width of the result.
      crop: keep the aspect ratio and take the middle (CLIP); otherwise squeeze the whole picture into the square.

    Returns:
      `[B, size, size, 3]` float32.

    Raises:
      ValueError: no pictures of three channels.
    """
    _check(pictures)
    height, width = pictures.shape[1:3]
    short = min(height, width)
    to = (size * height // short, size * width // short) if crop else (size, size)
    eight = pictures.dtype == jnp.uint8
    x = pictures.astype(jnp.float32) * (1 if eight else 255)
    x = _along(x, 2, _bicubic_antialiased(width, to[1]))  # the width first, as Pillow does
    x = _round(x) if eight else x
    x = _along(x, 1, _bicubic_antialiased(height, to[0]))
    x = _round(x) if eight else x
    top, left = (to[0] - size) // 2, (to[1] - size) // 2
    return normalise(x[:, top : top + size, left : left + size] / 255)


def svd_picture(pictures: Array, size: int = 224) -> Array:
    """Blurs, resizes and normalises as the pipeline of Stable Video Diffusion does.

    Args:
      pictures: `[B, H, W, 3]` float in -1 .. 1.
      size: height and width of the result.

    Returns:
      `[B, size, size, 3]` float32.

    Raises:
      ValueError: no float pictures of three channels, or some smaller than the blur (never with sides of 3 and more).
    """
    _check(pictures)
    if not jnp.issubdtype(pictures.dtype, jnp.floating):
        raise ValueError(f"pictures: {pictures.dtype}, expected floats in -1 .. 1")
    return normalise((resize_blurred(pictures.astype(jnp.float32), (size, size)) + 1) / 2)


def resize_blurred(x: Array, to: tuple[int, int]) -> Array:
    """`[B, H, W, C] -> [B, *to, C]`: the blur and the bicubic resize of Stable Video Diffusion (after scikit-image)."""
    if min(x.shape[1:3]) < 3:
        raise ValueError(f"pictures: shape {x.shape}, height and width must be 3 or more")
    for axis, out in zip((1, 2), to):
        blurred = _bicubic_corners(x.shape[axis], out) @ _gaussian(x.shape[axis], out)
        x = _along(x, axis, blurred)
    return x


def normalise(x: Array) -> Array:
    """`[..., 3]` in 0 .. 1 -> with CLIP's mean and deviation taken out."""
    return (x - jnp.asarray(MEAN, x.dtype)) / jnp.asarray(STD, x.dtype)


def _check(pictures: Array) -> None:
    if pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise ValueError(f"pictures: shape {pictures.shape}, expected [B, H, W, 3]")


def _along(x: Array, axis: int, matrix: np.ndarray) -> Array:
    """A matrix `[out, in]` on one dim."""
    y = jnp.tensordot(x, jnp.asarray(matrix, x.dtype), axes=(axis, 1), precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(y, -1, axis)


def _round(x: Array) -> Array:
    return jnp.clip(jnp.floor(x + 0.5), 0, 255)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@functools.lru_cache
def _bicubic_antialiased(size: int, to: int) -> np.ndarray:
    """`[to, size]`: weights of each output, none beyond the edge."""
    scale = size / to
    wide = max(scale, 1.0)
    centre = (np.arange(to)[:, None] + 0.5) * scale
    weights = _cubic((np.arange(size)[None] + 0.5 - centre) / wide, -0.5)
    # Pillow looks at whole pixels within two (widened) pixels of the centre.
    first, last = np.floor(centre - 2 * wide + 0.5), np.floor(centre + 2 * wide + 0.5)
    weights = np.where((np.arange(size) >= first) & (np.arange(size) < last), weights, 0.0)
    return weights / weights.sum(1, keepdims=True)


@functools.lru_cache
def _bicubic_corners(size: int, to: int) -> np.ndarray:
    """`[to, size]`: the corners stay where they are, edges are repeated, nothing is widened."""
    at = np.arange(to) * ((size - 1) / (to - 1) if to > 1 else 0.0)
    first = np.floor(at).astype(int)
    weights = np.zeros((to, size))
    for tap in range(-1, 3):
        index = np.clip(first + tap, 0, size - 1)
        np.add.at(weights, (np.arange(to), index), _cubic(at - (first + tap), -0.75))
    return weights


@functools.lru_cache
def _gaussian(size: int, to: int) -> np.ndarray:
    """`[size, size]`: the blur in front of a resize to `to`, edges mirrored."""
    sigma = max((size / to - 1) / 2, 0.001)
    window = int(max(4 * sigma, 3)) | 1
    taps = np.exp(-((np.arange(window) - window // 2) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    weights = np.zeros((size, size))
    for offset, tap in enumerate(taps, -(window // 2)):
        index = np.abs(np.arange(size) + offset)
        index = np.where(index >= size, 2 * (size - 1) - index, index)
        np.add.at(weights, (np.arange(size), index), tap)
    return weights
