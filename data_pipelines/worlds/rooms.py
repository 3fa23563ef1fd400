"""A room with boxes and boards in it: textured rectangles, met by rays exactly.

A face is a rectangle `o + a u + b v`, a and b in [0, 1], with normal n = u x v.  The ray c + s d meets it at

    s = <n, o - c> / <n, d>,    a = <c + s d - o, u> / <u, u>,    b likewise;

the nearest s > 0 of all faces is seen.  Colours come from pictures, averaged over about a pixel's footprint (mip-maps:
two neighbouring levels, each interpolated between its texels), times a constant light for each face.

Shape legend: R rays, F faces, L levels.
"""

import dataclasses
import functools

import numpy as np
from PIL import Image

from data_pipelines.worlds import pictures

TEXELS, LEVELS = 64, 6  # of a picture's side, and how often it is halved
PICTURES = 48  # different ones
NEAR = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Faces:
    """Rectangles.

    Attributes:
      corners, u, v: [F, 3], one corner and the two sides from it.
      pictures: [F], which picture each wears.
      tints: [F, 3], what its colours are multiplied with.
      objects: [F], 0 for the room, k for the k-th object.
    """

    corners: np.ndarray
    u: np.ndarray
    v: np.ndarray
    pictures: np.ndarray
    tints: np.ndarray
    objects: np.ndarray

    def __add__(self, other: "Faces") -> "Faces":
        return Faces(
            *(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in dataclasses.fields(self))
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Hits:
    """What rays meet first: depth [R], face [R], and where on it, (a, b) [R, 2]."""

    depth: np.ndarray
    face: np.ndarray
    place: np.ndarray


def cuboid(low: np.ndarray, high: np.ndarray, yaw: float, picture: np.ndarray, tint: np.ndarray, number: int) -> Faces:
    """The six faces of a box, turned about the vertical through its middle.

    Args:
      low, high: corners [3] before it is turned.
      yaw: radians.
      picture: [6], or one for all.
      tint: [3]; each pair of opposite faces is also lit differently.
      number: of the object.
    """
    size, middle = high - low, (low + high) / 2
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    corners, us, vs, lights = [], [], [], []
    for dim, light in ((0, 0.8), (1, 1.0), (2, 0.9)):
        first, second = np.eye(3)[(dim + 1) % 3] * size, np.eye(3)[(dim + 2) % 3] * size
        for side in (0, 1):
            corner = low + np.eye(3)[dim] * size * side
            corners.append(middle + turn @ (corner - middle))
            us.append(turn @ first)
            vs.append(turn @ second)
            lights.append(light - 0.06 * side)
    tints = np.array(lights)[:, None] * tint
    return Faces(*map(np.stack, (corners, us, vs)), np.broadcast_to(picture, 6), tints, np.full(6, number))


def board(corner: np.ndarray, u: np.ndarray, v: np.ndarray, picture: int, tint: np.ndarray, number: int) -> Faces:
    """One rectangle, seen from both sides."""
    return Faces(corner[None], u[None], v[None], np.array([picture]), tint[None], np.array([number]))


def meet(faces: Faces, centres: np.ndarray, directions: np.ndarray) -> Hits:
    """What each ray meets first; the room must be closed, so that it does.

    Args:
      faces: all there are.
      centres: [R, 3], or one [3] for all.
      directions: [R, 3].
    """
    normals = np.cross(faces.u, faces.v)
    u, v = (side / (side**2).sum(-1, keepdims=True) for side in (faces.u, faces.v))
    plane = np.concatenate([normals, u, v]).astype(np.float32)  # [3 F, 3]
    offset = np.einsum("fi,fi->f", np.concatenate([normals, u, v]), np.tile(faces.corners, (3, 1)))
    start = (np.atleast_2d(centres) @ plane.T.astype(float) - offset).astype(np.float32)  # [R or 1, 3 F]
    along = directions.astype(np.float32) @ plane.T
    count = len(faces.corners)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = -start[:, :count] / along[:, :count]
        a = start[:, count : 2 * count] + depth * along[:, count : 2 * count]
        b = start[:, 2 * count :] + depth * along[:, 2 * count :]
        outside = (a < 0) | (a > 1) | (b < 0) | (b > 1) | ~(depth > NEAR)
    depth[outside] = np.inf
    face = depth.argmin(1)
    rows = np.arange(len(face))
    return Hits(depth[rows, face], face, np.stack([a[rows, face], b[rows, face]], -1))


def shade(faces: Faces, hits: Hits, directions: np.ndarray, focal_length: float) -> np.ndarray:
    """Colours float32 [R, 3], 0 to 255, of what rays meet.

    Args:
      faces, hits, directions: see `meet`.
      focal_length: in rays: one over the angle between neighbouring rays.
    """
    normals = np.cross(faces.u, faces.v)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    slant = np.abs((normals[hits.face] * directions).sum(-1)) / np.linalg.norm(directions, axis=-1)
    texel = np.sqrt(np.linalg.norm(faces.u, axis=-1) * np.linalg.norm(faces.v, axis=-1))[hits.face] / TEXELS
    footprint = hits.depth / focal_length / texel / np.sqrt(np.maximum(slant, 0.05))
    level = np.clip(np.log2(np.maximum(footprint, 1e-6)), 0, LEVELS - 1 - 1e-3).astype(np.float32)
    lower = level.astype(int)
    share = (level - lower)[:, None]
    number = faces.pictures[hits.face]
    colours = (1 - share) * _texels(number, lower, hits.place) + share * _texels(number, lower + 1, hits.place)
    return colours * faces.tints[hits.face].astype(np.float32)


def _texels(number: np.ndarray, level: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Interpolated colours [R, 3] of one level of pictures."""
    atlas, starts = _atlas()
    side = TEXELS >> level
    at = np.clip(place * side[:, None] - 0.5, 0, (side - 1)[:, None]).astype(np.float32)
    low = np.minimum(at.astype(int), np.maximum(side - 2, 0)[:, None])
    x, y = (at - low).T[..., None]
    step = np.minimum(1, side - 1)
    base = starts[number, level] + low[:, 1] * side + low[:, 0]
    below = base + step * side
    top = (1 - x) * atlas[base] + x * atlas[base + step]
    return (1 - y) * top + y * ((1 - x) * atlas[below] + x * atlas[below + step])


@functools.cache
def _atlas() -> tuple[np.ndarray, np.ndarray]:
    """All texels of all pictures at all levels, float32 [N, 3], and where each picture's level begins [PICTURES, L]."""
    texels, starts, total = [], np.zeros((PICTURES, LEVELS), int), 0
    for number in range(PICTURES):
        image = Image.fromarray(pictures.picture(np.random.default_rng([0x7E5, number]), TEXELS, TEXELS, TEXELS / 3))
        for level in range(LEVELS):
            side = TEXELS >> level
            shrunk = np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float32)
            starts[number, level] = total
            total += side * side
            texels.append(shrunk.reshape(-1, 3))
    return np.concatenate(texels), starts
