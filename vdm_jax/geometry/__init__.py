"""Where things are in pictures: flow, warps and splats, pinhole cameras.

The conventions, for all of it:

  pixels   pixel (i, j), row i and column j, has its centre at (x, y) = (j + 1/2, i + 1/2); x points right, y down
  flow     forward: `F[t]` at pixel p is (dx, dy), in pixels of its own grid, such that what is at p in frame t is at
           p + F[t](p) in frame t + 1; a clip of T frames has `[T - 1, H, W, 2]`
  cameras  world to camera `[R | t]`, `[..., 3, 4]`; a camera looks along z, with x right and y down
  lenses   `K`, `[..., 3, 3]` in pixels: (x, y, 1) ~ K (X, Y, Z)
  depth    Z, along the camera's axis

Leading dims are free everywhere: `[H, W, 2]`, `[T, H, W, 2]` and `[B, T, H, W, 2]` all do.
"""

from vdm_jax.geometry.cameras import (
    flow_from_depth,
    fundamental,
    grid,
    inverse,
    plucker,
    project,
    relative,
    to_camera,
    unproject,
)
from vdm_jax.geometry.flow import check_flow, compose, consistent, direction_errors, lands_inside, resize_flow
from vdm_jax.geometry.splat import splat, splat_nearest
from vdm_jax.geometry.warp import warp

__all__ = [
    "check_flow",
    "compose",
    "consistent",
    "direction_errors",
    "flow_from_depth",
    "fundamental",
    "grid",
    "inverse",
    "lands_inside",
    "plucker",
    "project",
    "relative",
    "resize_flow",
    "splat",
    "splat_nearest",
    "to_camera",
    "unproject",
    "warp",
]
