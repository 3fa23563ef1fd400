"""Optical flow as a quantity: checked, resized, chained, and compared in both directions (conventions: `geometry`).

chained     F_02(p) = F_01(p) + F_12(p + F_01(p))
consistent  |F + B(p + F)|^2 < a (|F|^2 + |B(p + F)|^2) + b          B: the flow back; else p is hidden in the other
                                                                     frame (Sundaram et al., ECCV 2010)
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.geometry.warp import warp
from vdm_jax.types import Array


def check_flow(flow: np.ndarray, frames: int, size: tuple[int, int] | None = None, name: str = "flow") -> np.ndarray:
    """Returns a clip's flow as float32 `[T - 1, H, W, 2]` after judging it on the host.

    That it leads forward cannot be seen from it; `direction_errors` can tell where the clip is at hand.

    Args:
      flow: `[T - 1, H, W, 2]`.
      frames: T.
      size: (H, W); None for any.
      name: for messages.

    Raises:
      ValueError: another shape, values that are not finite, or larger than the frame: those of another resolution.
    """
    flow = np.asarray(flow)
    expected = f"[T - 1, H, W, 2] with T={frames}" + ("" if size is None else f", H={size[0]}, W={size[1]}")
    if flow.ndim != 4 or flow.shape[-1] != 2 or not np.issubdtype(flow.dtype, np.floating):
        raise ValueError(f"{name}: {flow.dtype} {list(flow.shape)} is not float {expected}, (dx, dy) in pixels")
    if len(flow) == frames:
        raise ValueError(f"{name}: {frames} fields for {frames} frames; expected {expected}, one between neighbours")
    if len(flow) != frames - 1 or 0 in flow.shape[1:3] or (size is not None and flow.shape[1:3] != tuple(size)):
        raise ValueError(f"{name}: shape {list(flow.shape)} is not {expected}; resize_flow changes size and values")
    flow = flow.astype(np.float32)
    if not np.isfinite(flow).all():
        t, i, j, _ = np.argwhere(~np.isfinite(flow))[0]
        raise ValueError(f"{name}[{t}, {i}, {j}]: {flow[t, i, j]} is not finite")
    longest, (height, width) = np.abs(flow).max(initial=0.0), flow.shape[1:3]
    if longest > max(height, width):
        raise ValueError(
            f"{name}: moves {longest:.6g} pixels on a grid of {height}x{width}; expected pixels of that grid (values"
            " are scaled with the size, see resize_flow)"
        )
    return flow


def warn_if_still(flow: np.ndarray, size: tuple[int, int], name: str = "flow") -> None:
    """Warns of a flow that is not zero, and yet too small to move anything by a whole pixel on a grid of `size`."""
    ratio = np.float32([size[1] / flow.shape[2], size[0] / flow.shape[1]])
    longest = float((np.abs(flow) * ratio).max(initial=0.0))
    if 0.0 < longest < 0.5:
        warnings.warn(
            f"{name}: moves at most {longest:.3g} pixels on a grid of {size[0]}x{size[1]}, which rounds to none;"
            f" expected pixels of its grid of {flow.shape[1]}x{flow.shape[2]}, not parts of the frame",
            stacklevel=2,
        )


def resize_flow(flow: Array, height: int, width: int) -> Array:
    """Flow on another grid, `[..., H, W, 2] -> [..., height, width, 2]`: bilinear, and its values scaled with the size.

    Raises:
      ValueError: a size below 1.
    """
    if height < 1 or width < 1:
        raise ValueError(f"size: {height}x{width} must be 1 or more")
    old_height, old_width = flow.shape[-3:-1]
    if (old_height, old_width) == (height, width):
        return flow
    resized = jax.image.resize(flow, (*flow.shape[:-3], height, width, 2), "bilinear")
    return resized * jnp.asarray([width / old_width, height / old_height], flow.dtype)


def compose(first: Array, second: Array) -> Array:
    """The flow from frame 0 to 2 of those from 0 to 1 and from 1 to 2, all `[..., H, W, 2]`."""
    return first + warp(second, first)


def lands_inside(flow: Array) -> Array:
    """Where the flow stays in the frame, bool `[..., H, W]`."""
    height, width = flow.shape[-3:-1]
    x = jnp.arange(width) + 0.5 + flow[..., 0]
    y = jnp.arange(height)[:, None] + 0.5 + flow[..., 1]
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


def consistent(forward: Array, backward: Array, relative: float = 0.01, absolute: float = 0.5) -> Array:
    """Where a pixel is seen in both frames: the flow there and back ends where it began.

    Args:
      forward: `[..., H, W, 2]`, from the frame of these pixels to another.
      backward: `[..., H, W, 2]`, from that one to this, on its own pixels.
      relative, absolute: a and b above; b in pixels^2.

    Returns:
      bool `[..., H, W]`; False where it is hidden or leaves the frame.
    """
    back = warp(backward, forward)
    apart = ((forward + back) ** 2).sum(-1)
    allowed = relative * ((forward**2).sum(-1) + (back**2).sum(-1)) + absolute
    return (apart < allowed) & lands_inside(forward)


def direction_errors(video: Array, flow: Array) -> tuple[Array, Array]:
    """How far off the pixels are if the flow leads forward, and if it leads backward: the smaller one is right.

    Args:
      video: float `[..., T, H, W, C]`.
      flow: `[..., T - 1, H, W, 2]`.

    Returns:
      Two scalars, mean absolute differences: frame t against t + 1 looked up by the flow, and t + 1 against t.
    """
    earlier, later = video[..., :-1, :, :, :], video[..., 1:, :, :, :]
    seen = lands_inside(flow)[..., None]

    def error(here: Array, there: Array) -> Array:
        return (jnp.abs(here - warp(there, flow)) * seen).sum() / (seen.sum() * video.shape[-1]).clip(1)

    return error(earlier, later), error(later, earlier)
