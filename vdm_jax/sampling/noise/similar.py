"""The frame similarity prior (I2V-Adapter, 2312.16693): clips that start from a given picture, not from plain noise.

    x_i = alpha(t_0) D(x) + sigma(t_0) eps_i,      D(x) = M x + (1 - M) blur(x),      M = 1 with probability 1 - p

x is the given frame, i the others; mask and noise are drawn for every frame and element anew.  At moderately high noise
the first frame and those behind it are nearly alike, so sampling may begin there (`tau.from_level`).  A small p or t_0
keeps more of the picture: less moves.  With t_0 = 1 and p = 1 it is still not plain noise, as alpha(1) > 0 in the usual
schedules.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion.process import Process
from vdm_jax.types import Array


@dataclasses.dataclass(frozen=True)
class FrameSimilarityPrior:
    """See the top of this file.

    Attributes:
      t0: level of the start, as a share of the process's `t_max`.
      p: share of elements that are blurred.
      blur_sigma: of the Gaussian, in elements of the clip.
      blur_size: how many elements of a row it reads, odd.

    Raises:
      ValueError: names the field and what is allowed.
    """

    t0: float = 1.0
    p: float = 0.5
    blur_sigma: float = 18.0
    blur_size: int = 9

    def __post_init__(self):
        if not 0.0 < self.t0 <= 1.0:
            raise ValueError(f"t0: {self.t0!r} must be above 0 and at most 1, the level of the prior")
        if not 0.0 <= self.p <= 1.0:
            raise ValueError(f"p: {self.p!r} must lie between 0 and 1")
        if not self.blur_sigma > 0.0:
            raise ValueError(f"blur_sigma: {self.blur_sigma!r} must be above 0")
        if self.blur_size < 1 or self.blur_size % 2 == 0:
            raise ValueError(f"blur_size: {self.blur_size!r} must be odd, 1 or more")

    def level(self, process: Process) -> float:
        """The level that the clip starts at, in the unit of the process."""
        return self.t0 * process.t_max

    def start(self, key: Array, process: Process, image: Array, like: Array, frame: int = 0) -> Array:
        """The clip at that level, with the picture itself in its frame.

        Args:
          key: of mask and noise.
          process: says alpha and sigma.
          image: `[B, H, W, C]`, clean.
          like: `[B, T, H, W, C]`, the shape wanted.
          frame: where the picture stands.

        Returns:
          float32 like `like`; frame `frame` is `image` bit for bit.

        Raises:
          ValueError: a frame that the clip has not; see `noised`.
        """
        if not 0 <= frame < like.shape[1]:
            raise ValueError(f"frame: {frame} is not in a clip of {like.shape[1]} frames (0 to {like.shape[1] - 1})")
        return self.noised(key, process, image, like).at[:, frame].set(image)

    def noised(self, key: Array, process: Process, image: Array, like: Array) -> Array:
        """The same with every frame drawn; arguments as of `start`.

        Raises:
          ValueError: a picture of another size than the clip, nothing to generate, or sides narrower than the blur.
        """
        if image.shape != (like.shape[0], *like.shape[2:]):
            raise ValueError(f"image: shape {image.shape}, the clip {like.shape} needs [B, H, W, C]")
        if like.shape[1] < 2:
            raise ValueError("like: a clip of one frame, the picture itself; nothing is left to generate")
        image = jnp.asarray(image, jnp.float32)
        mask_key, noise_key = jax.random.split(key)
        blurred = blur(image, self.blur_sigma, self.blur_size)
        keep = jax.random.uniform(mask_key, like.shape) >= self.p
        base = jnp.where(keep, image[:, None], blurred[:, None])
        time = jnp.full(like.shape[:2], self.level(process), jnp.float32)
        return process.q_sample(base, jax.random.normal(noise_key, like.shape), time)


def blur(x: Array, sigma: float, size: int) -> Array:
    """Gaussian blur of `[B, H, W, C]`, its window cut to `size` elements a side; borders are mirrored.

    Raises:
      ValueError: a window that reaches further than a mirrored side.
    """
    reach = size // 2
    if reach >= min(x.shape[1:3]):
        raise ValueError(f"blur_size: {size} is too wide for {x.shape[1]} x {x.shape[2]}; at most {_widest(x)}")
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    x = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    for axis in (1, 2):
        length = x.shape[axis] - 2 * reach
        shifted = (jax.lax.slice_in_dim(x, k, k + length, axis=axis) for k in range(size))
        x = sum(weight * part for weight, part in zip(weights, shifted))
    return x


def _widest(x: Array) -> int:
    return 2 * min(x.shape[1:3]) - 1
