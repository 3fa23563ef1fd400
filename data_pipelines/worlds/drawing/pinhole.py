"""Pinhole cameras: poses, projection, rays.

A camera looks along z with x to the right and y down.  World points P, pixels p and depth z are tied by

    Q = R P + t,     z = Q_z,     p = (f Q_x / z + W / 2, f Q_y / z + H / 2),     f = W / (2 tan(fov / 2)),

so that P = c + z R^T ((p_x - W / 2) / f, (p_y - H / 2) / f, 1) with the centre c = -R^T t: along a ray whose z in the
camera's axes is 1, the parameter is the depth.

Shape legend: T frames, H height, W width.
"""

import numpy as np


def focal(width: int, field_of_view: float) -> float:
    """Focal length in pixels of a camera that sees `field_of_view` degrees across `width` pixels."""
    return width / (2 * np.tan(np.radians(field_of_view) / 2))


def intrinsics(height: int, width: int, focal_length: float) -> np.ndarray:
    """The matrix K, float64 [3, 3]."""
    return np.array([[focal_length, 0, width / 2], [0, focal_length, height / 2], [0, 0, 1.0]])


def turned(yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Rotations [..., 3, 3] from camera to world.

    Args:
      yaw: radians [...]; positive looks to the right.
      pitch: positive looks up.
      roll: positive turns the camera clockwise, hence the picture counter-clockwise.
    """
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)

    def matrix(*rows):
        return np.stack([np.stack(row, -1) for row in rows], -2)

    c, s = np.cos(yaw), np.sin(yaw)
    about_y = matrix((c, zero, s), (zero, one, zero), (-s, zero, c))
    c, s = np.cos(pitch), np.sin(pitch)
    about_x = matrix((one, zero, zero), (zero, c, -s), (zero, s, c))
    c, s = np.cos(roll), np.sin(roll)
    about_z = matrix((c, -s, zero), (s, c, zero), (zero, zero, one))
    return about_y @ about_x @ about_z


def extrinsics(rotation: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """World to camera [..., 3, 4] from rotations [..., 3, 3] (camera to world) and centres [..., 3]."""
    back = np.swapaxes(rotation, -1, -2)
    return np.concatenate([back, -back @ centre[..., None]], -1)


def project(points: np.ndarray, camera: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and depths of world points.

    Args:
      points: [N, 3].
      camera: world to camera [..., 3, 4].
      matrix: K [3, 3].

    Returns:
      (x, y) in pixels [..., N, 2], NaN behind the camera, and depths [..., N]; in the type of the cameras.
    """
    local = points.astype(camera.dtype) @ np.swapaxes(camera[..., :3], -1, -2) + camera[..., None, :, 3]
    depth = local[..., 2]
    ahead = np.where(depth > 1e-6, depth, np.nan)
    return local[..., :2] / ahead[..., None] * float(matrix[0, 0]) + matrix[:2, 2].astype(camera.dtype), depth


def rays(pixels: np.ndarray, camera: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres [T, 3] and directions [T, N, 3] in the world of the rays through pixels; the parameter is the depth.

    Args:
      pixels: [T, N, 2] or [N, 2], (x, y).
      camera: world to camera [T, 3, 4].
      matrix: K [3, 3].
    """
    flat = (pixels - matrix[:2, 2]) / matrix[0, 0]
    local = np.concatenate([flat, np.ones((*flat.shape[:-1], 1))], -1)
    rotation = camera[:, :, :3]
    centres = -np.einsum("tij,ti->tj", rotation, camera[:, :, 3])
    return centres, np.broadcast_to(local, (len(camera), *local.shape[-2:])) @ rotation


def grid(height: int, width: int, samples: int = 1) -> np.ndarray:
    """Places (x, y) of `samples x samples` rays in each pixel, evenly spread: [H W samples^2, 2], pixel by pixel."""
    inside = (np.arange(samples) + 0.5) / samples
    y, x = (np.arange(side)[:, None] + inside for side in (height, width))  # [side, samples]
    places = np.stack(np.broadcast_arrays(x[None, :, None, :], y[:, None, :, None]), -1)
    return places.reshape(-1, 2)
