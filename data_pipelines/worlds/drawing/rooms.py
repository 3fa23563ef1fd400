"""A room with boxes and boards in it: textured rectangles, seen by pinhole cameras exactly.

A face is a rectangle `o + a u + b v`, a and b in [0, 1], with normal n = u x v.  The ray through the pixel
p = (x, y, 1) of a camera with centre c is c + z B p, B = R^T K^-1, and meets the plane of the face where

    1/z = -<n, B p> / <n, c - o>,     a/z = <u, B p> / <u, u> + (1/z) <u, c - o> / <u, u>,     b/z likewise,

which are all linear in p: a 3 x 3 matrix for each face and frame answers everything, without a division.  The walls are
a closed convex room with the camera in it, so that the ray meets the one with the largest 1/z; what else there is, is
compared only inside the window that its corners span, and faces that a box turns away are left out.

Colours come from pictures, averaged over about a pixel's footprint (mip-maps: two neighbouring levels, each
interpolated between its texels), times a constant light for each face.

Shape legend: T frames, F faces, H height, W width, R rays, L levels.
"""

import dataclasses
import functools

import numpy as np
from PIL import Image

from data_pipelines.worlds.drawing import pictures, pinhole

TEXELS, LEVELS = 64, 6  # of a picture's side, and how often it is halved
PICTURES = 48  # different ones
NEAR = 1e-4  # a plane so close to the camera's centre is seen edge-on
SAME = 2e-3  # relative difference in depth from which on a point is behind another


@dataclasses.dataclass(frozen=True, eq=False)
class Faces:
    """Rectangles.

    Attributes:
      corners, u, v: [F, 3], one corner and the two sides from it.
      pictures: [F], which picture each wears.
      tints: [F, 3], what its colours are multiplied with.
      objects: [F], 0 for the walls, k for the k-th object, which is one rectangle or closed and seen from outside.
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
class Views:
    """How cameras see faces.

    Attributes:
      maps: [T, F, 3, 3], (a/z, b/z, 1/z) = map (x, y, 1), pixels.
      windows: [T, F, 4], (left, top, right, bottom) in pixels; nothing of the face is seen outside.
      facing: bool [T, F], false where it is turned away.
      distances: [T, F], from the camera to the plane.
    """

    maps: np.ndarray
    windows: np.ndarray
    facing: np.ndarray
    distances: np.ndarray


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


def views(faces: Faces, camera: np.ndarray, matrix: np.ndarray) -> Views:
    """How cameras see faces.

    Args:
      faces: all there are, among them walls all around.
      camera: world to camera [T, 3, 4].
      matrix: K [3, 3].
    """
    rotation = camera[:, :, :3]
    centres = -np.einsum("tij,ti->tj", rotation, camera[:, :, 3])
    normals = np.cross(faces.u, faces.v)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    sides = np.stack([side / (side**2).sum(-1, keepdims=True) for side in (faces.u, faces.v)], 1)  # [F, 2, 3]
    away = centres[:, None] - faces.corners  # [T, F, 3]
    heights = (away * normals).sum(-1)
    rays = np.swapaxes(rotation, 1, 2) @ np.linalg.inv(matrix)  # [T, 3, 3]
    facing = (heights * _outward(faces, normals) >= 0) & (np.abs(heights) > NEAR)
    inverse = -(normals @ rays) / np.where(facing, heights, 1)[..., None]  # [T, F, 3]
    along = np.einsum("fsi,tij->tfsj", sides, rays)
    along += inverse[:, :, None] * np.einsum("tfi,fsi->tfs", away, sides)[..., None]
    maps = np.concatenate([along, inverse[:, :, None]], 2)
    return Views(maps, _windows(faces, camera, matrix), facing, np.abs(heights))


def look(faces: Faces, seen: Views, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which face is met first at the places (x_j, y_i): uint8 [T, rows, columns].

    Args:
      faces: all there are, at most 256.
      seen: their `views`.
      x, y: rising coordinates in pixels, [columns] and [rows].
    """
    met = np.zeros((len(seen.maps), len(y), len(x)), np.uint8)
    columns, rows = (
        np.concatenate([factor, np.ones_like(factor)], 1).astype(np.float32) for factor in (x[:, None], y[:, None])
    )
    across = seen.maps[..., :1].astype(np.float32) * columns[:, 0]  # [T, F, 3, columns]
    down = np.einsum("tfqk,yk->tfqy", seen.maps[..., 1:].astype(np.float32), rows)
    left, top, right, bottom = np.moveaxis(seen.windows, -1, 0)
    first = np.searchsorted(x, left), np.searchsorted(y, top)
    last = np.searchsorted(x, right, side="right"), np.searchsorted(y, bottom, side="right")
    walls, things = np.flatnonzero(faces.objects == 0), np.flatnonzero(faces.objects)
    for t, face in enumerate(met):
        nearest = np.full(face.shape, -np.inf, np.float32)
        for f in walls[seen.facing[t, walls]]:
            inverse = down[t, f, 2, :, None] + across[t, f, 2]
            np.copyto(face, np.uint8(f), where=inverse > nearest)
            np.maximum(nearest, inverse, out=nearest)
        for f in things[seen.facing[t, things]]:
            j, i = (slice(low[t, f], high[t, f]) for low, high in zip(first, last))
            if i.start < i.stop and j.start < j.stop:
                a, b, inverse = down[t, f, :, i, None] + across[t, f, :, None, j]
                hit = inverse > nearest[i, j]
                hit &= (a >= 0) & (b >= 0) & (a <= inverse) & (b <= inverse)
                np.copyto(face[i, j], np.uint8(f), where=hit)
                np.copyto(nearest[i, j], inverse, where=hit)
    return met


def depths(seen: Views, met: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Depths float64 [T, rows, columns] of the faces that `look` met."""
    key = np.arange(len(met))[:, None, None] * seen.maps.shape[1] + met
    across, down, there = (np.take(seen.maps[:, :, 2, k], key) for k in range(3))
    return 1 / (across * x + down * y[:, None] + there)


def hidden(faces: Faces, seen: Views, t: int, places: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Whether something is before points of the scene: bool [R].  Walls hide nothing.

    Args:
      faces, seen: see `look`.
      t: the frame.
      places: [R, 2], (x, y) in pixels.
      depth: [R].
    """
    x, y = np.ascontiguousarray(places.T)
    limit = 1 / (depth * (1 - SAME))
    result = np.zeros(len(x), bool)
    for f in np.flatnonzero(seen.facing[t] & (faces.objects > 0)):
        left, top, right, bottom = seen.windows[t, f]
        near = np.flatnonzero((x >= left) & (x <= right) & (y >= top) & (y <= bottom))
        if near.size:
            columns = seen.maps[t, f].T[..., None]
            a, b, inverse = columns[0] * x[near] + columns[1] * y[near] + columns[2]
            result[near] |= (inverse > limit[near]) & (a >= 0) & (b >= 0) & (a <= inverse) & (b <= inverse)
    return result


def shade(
    faces: Faces, seen: Views, keys: np.ndarray, x: np.ndarray, y: np.ndarray, matrix: np.ndarray, samples: int = 1
) -> np.ndarray:
    """Colours float32 [..., 3], 0 to 255 times the tints, of faces at places.

    Args:
      faces, seen: see `look`.
      keys: int [...], F t + f: the face f in the frame t.
      x, y: float32, in pixels, broadcast against `keys`.
      matrix: K [3, 3].
      samples: rays in a pixel, along each side; one for which the picture is averaged is smaller the more there are.
    """
    focal, (middle, centre) = np.float32(matrix[0, 0]), matrix[:2, 2].astype(np.float32)
    planes = seen.maps.reshape(-1, 9).T.astype(np.float32)
    a, b, inverse = (
        planes[k].take(keys) * x + (planes[k + 1].take(keys) * y + planes[k + 2].take(keys)) for k in (0, 3, 6)
    )
    length = np.sqrt(1 + ((x - middle) / focal) ** 2 + ((y - centre) / focal) ** 2)  # of the ray's direction
    slant = inverse * seen.distances.reshape(-1).astype(np.float32).take(keys) / length
    texel = np.sqrt(np.linalg.norm(faces.u, axis=-1) * np.linalg.norm(faces.v, axis=-1)) / TEXELS
    texel = np.tile((samples * focal * texel).astype(np.float32), len(seen.maps)).take(keys)
    footprint = (inverse * texel) ** 2 * np.maximum(slant, np.float32(0.05))  # one over its square, in texels
    level = np.clip(np.float32(-0.5) * np.log2(np.maximum(footprint, 1e-12)), 0, LEVELS - 1 - 1e-3)
    lower = level.astype(np.int32)
    share = level - lower
    number = np.tile(faces.pictures * LEVELS, len(seen.maps)).take(keys) + lower
    a, b = a / inverse, b / inverse
    colours = _texels(number, lower, a, b)
    colours += share * (_texels(number + 1, lower + 1, a, b) - colours)
    colours *= np.tile(faces.tints.T.astype(np.float32), len(seen.maps)).take(keys, 1)
    return np.moveaxis(colours, 0, -1)


def _texels(number: np.ndarray, level: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Interpolated colours [3, ...] at places (a, b) of levels of pictures, numbered `LEVELS picture + level`."""
    atlas, starts = _atlas()
    side = TEXELS >> level
    most = (side - 1).astype(np.float32)
    x, y = (np.clip(at * (most + 1) - np.float32(0.5), 0, most) for at in (a, b))
    left, up = (np.minimum(at.astype(np.int32), side - 2) for at in (x, y))
    x, y = x - left, y - up
    base = starts.take(number) + up * side + left
    top, below = atlas.take(base, 1), atlas.take(base + side, 1)
    top += x * (atlas.take(base + 1, 1) - top)
    below += x * (atlas.take(base + side + 1, 1) - below)
    top += y * (below - top)
    return top


def _outward(faces: Faces, normals: np.ndarray) -> np.ndarray:
    """Sign [F] of the normals that makes them point out of their object; 0 for walls and single rectangles."""
    middles = faces.corners + (faces.u + faces.v) / 2
    sums = np.zeros((faces.objects.max() + 1, 3))
    np.add.at(sums, faces.objects, middles)
    inside = (sums / np.bincount(faces.objects)[:, None])[faces.objects]
    side = ((middles - inside) * normals).sum(-1)
    return np.where((faces.objects > 0) & (np.abs(side) > NEAR), np.sign(side), 0)


def _windows(faces: Faces, camera: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Bounds [T, F, 4] of the corners in the picture; no bounds where one is behind the camera."""
    corners = np.stack([faces.corners + a * faces.u + b * faces.v for a in (0, 1) for b in (0, 1)], 1)
    places, _ = pinhole.project(corners.reshape(-1, 3), camera, matrix)
    places = places.reshape(len(camera), -1, 4, 2)
    behind = np.isnan(places).any((2, 3))[..., None]
    low, high = np.where(behind, -np.inf, places.min(2)), np.where(behind, np.inf, places.max(2))
    return np.concatenate([low - NEAR, high + NEAR], -1)


@functools.cache
def _atlas() -> tuple[np.ndarray, np.ndarray]:
    """All texels of all pictures at all levels, float32 [3, N], and where each picture's levels begin [PICTURES L]."""
    texels, starts, total = [], np.zeros((PICTURES, LEVELS), int), 0
    for number in range(PICTURES):
        image = Image.fromarray(pictures.picture(np.random.default_rng([0x7E5, number]), TEXELS, TEXELS, TEXELS / 3))
        for level in range(LEVELS):
            side = TEXELS >> level
            shrunk = np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float32)
            starts[number, level] = total
            total += side * side
            texels.append(shrunk.reshape(-1, 3))
    return np.ascontiguousarray(np.concatenate(texels).T), starts.reshape(-1)
