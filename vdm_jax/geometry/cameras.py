"""Pinhole cameras: where points are seen, what pixels show, and the flow of a still world (conventions: `geometry`).

    Q = R P + t,    Z = Q_z,    (x, y, 1) ~ K Q,        P = R^T (Z K^-1 (x, y, 1) - t)

Between two views, with [R | t] from the axes of camera i to those of j (Hartley & Zisserman, chapter 9):

    F_ij = K_j^-T [t]_x R K_i^-1,    v~^T F_ij u~ = 0     for every pixel u of i and the same point's pixel v of j
"""

import jax.numpy as jnp

from vdm_jax.types import Array

NEAREST = 1e-6  # depth below which a point counts as being at the lens, and is seen nowhere in particular


def grid(height: int, width: int) -> Array:
    """Centres (x, y) of pixels, float32 `[H, W, 2]`."""
    x, y = jnp.arange(width) + 0.5, jnp.arange(height) + 0.5
    return jnp.stack(jnp.broadcast_arrays(x[None], y[:, None]), -1).astype(jnp.float32)


def inverse(camera: Array) -> Array:
    """Camera to world of world to camera, or the other way round: `[..., 3, 4]`."""
    back = jnp.swapaxes(camera[..., :3], -1, -2)
    return jnp.concatenate([back, -back @ camera[..., 3:]], -1)


def relative(here: Array, there: Array) -> Array:
    """From the axes of one camera to those of another, `[..., 3, 4]`; both world to camera."""
    turn = there[..., :3] @ jnp.swapaxes(here[..., :3], -1, -2)
    return jnp.concatenate([turn, there[..., 3:] - turn @ here[..., 3:]], -1)


def to_camera(points: Array, camera: Array) -> Array:
    """Points `[..., H, W, 3]` in the axes of cameras `[..., 3, 4]`."""
    return jnp.einsum("...ij,...hwj->...hwi", camera[..., :3], points) + camera[..., None, None, :, 3]


def project(points: Array, intrinsics: Array) -> tuple[Array, Array]:
    """Pixels (x, y) `[..., H, W, 2]` and depths `[..., H, W]` of points in the axes of a camera.

    Args:
      points: `[..., H, W, 3]`; where the depth is not positive they are behind the camera, and the pixel means nothing.
      intrinsics: K, `[..., 3, 3]`.
    """
    depth = points[..., 2]
    flat = points / jnp.maximum(depth, NEAREST)[..., None]
    return jnp.einsum("...ij,...hwj->...hwi", intrinsics[..., :2, :], flat), depth


def unproject(depth: Array, intrinsics: Array) -> Array:
    """Points `[..., H, W, 3]` in the axes of the camera, of depths `[..., H, W]` at the pixels' centres."""
    return depth[..., None] * _rays(*depth.shape[-2:], intrinsics)


def flow_from_depth(depth: Array, camera: Array, intrinsics: Array) -> Array:
    """The flow that a moving camera makes of a world in which nothing moves.

    Args:
      depth: `[..., T, H, W]`, or `[..., 1, H, W]`, the first frame's, for a flow that all starts from there.
      camera: world to camera `[..., T, 3, 4]`.
      intrinsics: K, `[..., T, 3, 3]`.

    Returns:
      `[..., T - 1, H, W, 2]`: from each frame to the next; from the first to each other one with a depth of one frame.
    """
    one = depth.shape[-3] == 1
    here = slice(0, 1) if one else slice(None, -1)
    turn = relative(camera[..., here, :, :], camera[..., 1:, :, :])
    points = unproject(depth if one else depth[..., :-1, :, :], intrinsics[..., here, :, :])
    places, _ = project(to_camera(points, turn), intrinsics[..., 1:, :, :])
    return places - grid(*depth.shape[-2:])


def plucker(camera: Array, intrinsics: Array, height: int, width: int) -> Array:
    """Pluecker coordinates (o x d, d) of the rays through the pixels' centres, `[..., H, W, 6]` (2404.02101).

    Args:
      camera: world to camera `[..., 3, 4]`.
      intrinsics: K, `[..., 3, 3]`.
      height, width: of the picture.

    Returns:
      The moment o x d and the unit direction d in the world; o is the centre of the camera.
    """
    back = inverse(camera)
    rays = jnp.einsum("...ij,...hwj->...hwi", back[..., :3], _rays(height, width, intrinsics))
    direction = rays / jnp.linalg.norm(rays, axis=-1, keepdims=True)
    centre = jnp.broadcast_to(back[..., None, None, :, 3], direction.shape)
    return jnp.concatenate([jnp.cross(centre, direction), direction], -1)


def fundamental(here: Array, there: Array, lens_here: Array, lens_there: Array) -> Array:
    """F above, `[..., 3, 3]`: `v~^T F u~ = 0` for u in `here` and v in `there`; 0 where both have one centre.

    Args:
      here, there: world to camera `[..., 3, 4]`.
      lens_here, lens_there: K, `[..., 3, 3]`.
    """
    turn = relative(here, there)
    x, y, z = (turn[..., i, 3] for i in range(3))
    zero = jnp.zeros_like(x)
    cross = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    return jnp.swapaxes(jnp.linalg.inv(lens_there), -1, -2) @ cross @ turn[..., :3] @ jnp.linalg.inv(lens_here)


def _rays(height: int, width: int, intrinsics: Array) -> Array:
    """K^-1 (x, y, 1) at the pixels' centres, `[..., H, W, 3]`."""
    places = grid(height, width)
    places = jnp.concatenate([places, jnp.ones_like(places[..., :1])], -1)
    return jnp.einsum("...ij,hwj->...hwi", jnp.linalg.inv(intrinsics), places)
