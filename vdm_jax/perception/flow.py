"""Optical flow of pixels: what estimates it, and one that needs no weights.

`LucasKanade` (B. D. Lucas, T. Kanade, IJCAI 1981; J.-Y. Bouguet's pyramid) finds, in a window g around each pixel, the
step that explains the difference to the next picture, looked up by the flow so far:

    [ g*(I_x I_x) + a    g*(I_x I_y)     ]          [ g*(I_x I_t) ]
    [ g*(I_x I_y)        g*(I_y I_y) + a ] step = - [ g*(I_y I_t) ]

from coarse pictures to fine ones.  It is right to a fraction of a pixel where there is texture and nothing is hidden;
where there is none, `a` keeps what the coarser picture said.

Shape legend: T frames, H height, W width, C channels.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.geometry import lands_inside, resize_flow, warp
from vdm_jax.types import Array

LEAST_SIDE = 8  # pixels of the coarsest picture
LONGEST_STEP = 1.0  # pixels that a pixel may be moved at once; what is farther is a coarser picture's business


class FlowEstimator(Protocol):
    """Clips to flow: this one, a published network with its weights, or what a world knows exactly."""

    def __call__(self, video: Array) -> Array:
        """Args:
          video: float `[..., T, H, W, C]` in [-1, 1].

        Returns:
          float32 `[..., T - 1, H, W, 2]`, forward, (dx, dy) in pixels (see `geometry`).
        """


@dataclasses.dataclass(frozen=True)
class LucasKanade:
    """See the top of this file.

    Attributes:
      levels: pictures of the pyramid, fewer where they would be smaller than 8 pixels.
      iterations: steps at each level.
      window: standard deviation of g, in pixels.
      blur: the same of what pictures are smoothed with before anything else, for looking up between pixels is exact
        only where neighbours are alike.
      damping: a, against squares of differences between neighbouring pixels of a clip in [-1, 1].

    Raises:
      ValueError: names the field and what is allowed.
    """

    levels: int = 4
    iterations: int = 6
    window: float = 2.5
    blur: float = 0.7
    damping: float = 1e-3

    def __post_init__(self):
        for name in ("levels", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be 1 or more")
        for name in ("window", "blur", "damping"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)} must be above 0")

    def __call__(self, video: Array) -> Array:
        """See `FlowEstimator`; a clip of one frame has no flow.

        Raises:
          ValueError: fewer dims than `[T, H, W, C]`.
        """
        if video.ndim < 4:
            raise ValueError(f"video: shape {video.shape} is not [..., T, H, W, C]")
        lead, size = video.shape[:-4], video.shape[-3:-1]
        flat = video.astype(jnp.float32).reshape(-1, *video.shape[-3:])
        flat = _smooth(flat, self.blur).reshape(-1, *video.shape[-4:])
        earlier, later = flat[:, :-1].reshape(-1, *size, flat.shape[-1]), flat[:, 1:].reshape(-1, *size, flat.shape[-1])
        flow = self._between(earlier, later)
        return flow.reshape(*lead, video.shape[-4] - 1, *size, 2)

    def _between(self, earlier: Array, later: Array) -> Array:
        pyramid = [(earlier, later)]
        while len(pyramid) < self.levels and min(pyramid[-1][0].shape[1:3]) >= 2 * LEAST_SIDE:
            pyramid.append(tuple(_halved(picture) for picture in pyramid[-1]))
        flow = jnp.zeros((len(earlier), *pyramid[-1][0].shape[1:3], 2))
        for here, there in reversed(pyramid):
            flow = resize_flow(flow, *here.shape[1:3])
            flow = jax.lax.fori_loop(0, self.iterations, lambda _, f, a=here, b=there: f + self._step(a, b, f), flow)
        return flow

    def _step(self, earlier: Array, later: Array, flow: Array) -> Array:
        """How far the flow is to be moved, `[N, H, W, 2]`."""
        found = warp(later, flow)
        seen = lands_inside(flow)[..., None]
        x, y = (_slope((earlier + found) / 2, axis) for axis in (2, 1))
        change = found - earlier
        products = jnp.stack([(seen * p).mean(-1) for p in (x * x, x * y, y * y, x * change, y * change)], -1)
        xx, xy, yy, xt, yt = jnp.moveaxis(_smooth(products, self.window), -1, 0)
        xx, yy = xx + self.damping, yy + self.damping
        step = jnp.stack([xy * yt - yy * xt, xy * xt - xx * yt], -1) / (xx * yy - xy**2)[..., None]
        return jnp.clip(step, -LONGEST_STEP, LONGEST_STEP)


def _halved(picture: Array) -> Array:
    """Half as large along each side, `[N, H, W, C]`."""
    batch, height, width, channels = picture.shape
    return jax.image.resize(picture, (batch, height // 2, width // 2, channels), "linear")


def _slope(picture: Array, axis: int) -> Array:
    """Half the difference between the neighbours on both sides; at the edge that of the one there is."""
    padding = [(0, 0)] * picture.ndim
    padding[axis] = (1, 1)
    padded = jnp.pad(picture, padding, "edge")
    size = padded.shape[axis]
    after, before = (jax.lax.slice_in_dim(padded, start, size - 2 + start, axis=axis) for start in (2, 0))
    return (after - before) / 2


def _smooth(picture: Array, sigma: float) -> Array:
    """Means under a Gaussian window, `[N, H, W, C]`; beyond the edge it goes on."""
    reach = int(np.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps = jnp.asarray(taps / taps.sum(), jnp.float32)
    moved = jnp.moveaxis(picture, -1, 1)  # [N, C, H, W]
    flat = jnp.pad(moved.reshape(-1, 1, *picture.shape[1:3]), ((0, 0), (0, 0), (reach, reach), (reach, reach)), "edge")
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        flat = jax.lax.conv_general_dilated(flat, taps.reshape(shape), (1, 1), "VALID")
    return jnp.moveaxis(flat.reshape(moved.shape), 1, -1)
