"""The ten digits as pen strokes, each drawn a little differently every time, as in handwriting.

A digit is a few strokes in the box [-1, 1]^2 (x right, y down), each a smooth curve through given points (Catmull-Rom),
cut into straight pieces.  A hand moves every point by normal noise, leans the digit (shear), turns it a little, makes
it narrower, and chooses how wide the pen is.  With pieces `[p, q]` the signed distance from the outline is

    phi(x) = min over pieces of |x - (p + clip(<x - p, q - p> / |q - p|^2, 0, 1) (q - p))| - pen / 2.
"""

import dataclasses
import functools

import numpy as np

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_LOOP = "loop"  # a stroke that ends where it began
_STROKES: tuple[tuple[tuple, ...], ...] = (
    ((_LOOP, (0, -1), (0.62, -0.62), (0.66, 0.4), (0, 1), (-0.66, 0.4), (-0.62, -0.62)),),
    (((-0.42, -0.52), (0.02, -0.98)), ((0.02, -0.98), (0.02, 1))),
    (((-0.6, -0.5), (-0.1, -1), (0.56, -0.62), (0.3, 0.05), (-0.64, 0.96)), ((-0.64, 0.96), (0.68, 0.96))),
    (
        ((-0.56, -0.76), (0.04, -1), (0.54, -0.56), (-0.08, -0.06)),
        ((-0.08, -0.06), (0.62, 0.4), (0.1, 1), (-0.6, 0.74)),
    ),
    (((0.24, -1), (-0.68, 0.34)), ((-0.68, 0.34), (0.72, 0.34)), ((0.32, -0.3), (0.28, 1))),
    (
        ((0.56, -0.98), (-0.46, -0.98)),
        ((-0.46, -0.98), (-0.54, -0.1)),
        ((-0.54, -0.1), (0.2, -0.3), (0.6, 0.32), (0.14, 0.98), (-0.6, 0.8)),
    ),
    (((0.44, -1), (-0.32, -0.42), (-0.6, 0.4), (-0.02, 1), (0.58, 0.46), (0.06, -0.06), (-0.52, 0.3)),),
    (((-0.62, -0.96), (0.64, -0.96)), ((0.64, -0.96), (-0.16, 1))),
    (
        (_LOOP, (0, -1), (0.46, -0.56), (0, -0.06), (-0.46, -0.56)),
        (_LOOP, (0, -0.06), (0.6, 0.48), (0, 1), (-0.6, 0.48)),
    ),
    (((0.52, -0.36), (-0.06, 0.06), (-0.56, -0.44), (0.02, -1), (0.56, -0.42), (0.42, 0.34), (0.06, 1)),),
)
_PIECES = 4  # straight pieces between two points of a curve


@dataclasses.dataclass(frozen=True)
class Hand:
    """How differently digits are written.

    Attributes:
      wobble: deviation of the points, normal, of half the digit's height.
      lean: largest shear, either way.
      turn: largest rotation, either way, in radians.
      narrow: narrowest width, of the normal one.
      pen: thinnest and widest pen, of half the digit's height.
    """

    wobble: float = 0.05
    lean: float = 0.25
    turn: float = 0.12
    narrow: float = 0.75
    pen: tuple[float, float] = (0.22, 0.36)


@dataclasses.dataclass(frozen=True, eq=False)
class Glyph:
    """A digit as it was written.

    Attributes:
      digit: 0 to 9.
      starts, ends: [N, 2] float32, of its straight pieces, (x, y); the box of what is inked is centred at (0, 0), and
        its longer side measures 2.
      pen: width of the stroke.
      half: (x, y), half the extent of the inked area, at most 1.
    """

    digit: int
    starts: np.ndarray
    ends: np.ndarray
    pen: float
    half: tuple[float, float]

    def distance(self, x: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
        """Signed distance to the outline of the digit `scale` times as large; x, y and the result in the same unit."""
        nearest = None
        for (px, py), (qx, qy) in zip(self.starts * scale, self.ends * scale):
            dx, dy = qx - px, qy - py
            along = ((x - px) * dx + (y - py) * dy) / max(dx * dx + dy * dy, np.float32(1e-12))
            np.clip(along, 0, 1, out=along)
            square = (x - px - along * dx) ** 2 + (y - py - along * dy) ** 2
            nearest = square if nearest is None else np.minimum(nearest, square, out=nearest)
        return np.sqrt(nearest) - np.float32(self.pen * scale / 2)

    @property
    def anchor(self) -> tuple[float, float]:
        """A point of the pen's way: the middle of the middle piece."""
        middle = len(self.starts) // 2
        return tuple(((self.starts[middle] + self.ends[middle]) / 2).tolist())


def write(digit: int, rng: np.random.Generator, hand: Hand) -> Glyph:
    """Writes a digit once.

    Args:
      digit: 0 to 9.
      rng: decides everything that `hand` leaves open.
      hand: how much it may.
    """
    shear, turn = rng.uniform(-hand.lean, hand.lean), rng.uniform(-hand.turn, hand.turn)
    width, pen = rng.uniform(hand.narrow, 1), rng.uniform(*hand.pen)
    cos, sin = np.cos(turn), np.sin(turn)
    shape = np.array([[cos, -sin], [sin, cos]]) @ np.array([[width, -shear], [0, 1]])
    knots = _knots(digit)
    moved = knots + hand.wobble * rng.standard_normal(knots.shape)
    first, last = _matrices(digit)
    starts, ends = first @ moved @ shape.T, last @ moved @ shape.T
    both = np.concatenate([starts, ends])
    low, high = both.min(0) - pen / 2, both.max(0) + pen / 2
    scale = 2 / (high - low).max()
    middle = (low + high) / 2
    half = (high - low) * scale / 2
    placed = ((part - middle) * scale for part in (starts, ends))
    return Glyph(digit, *(part.astype(np.float32) for part in placed), pen * scale, (float(half[0]), float(half[1])))


@functools.cache
def _knots(digit: int) -> np.ndarray:
    """The distinct points of a digit, [N, 2]; strokes that share a point stay joined when it is moved."""
    points = (p for stroke in _STROKES[digit] for p in stroke if p != _LOOP)
    return np.array(list(dict.fromkeys(points)), float)


@functools.cache
def _matrices(digit: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the straight pieces as linear functions of the points: [pieces, N] each."""
    order = list(dict.fromkeys(p for stroke in _STROKES[digit] for p in stroke if p != _LOOP))
    starts, ends = [], []
    for stroke in _STROKES[digit]:
        rows = np.eye(len(order))[[order.index(p) for p in stroke if p != _LOOP]]
        along = _curve(rows, closed=stroke[0] == _LOOP)
        starts.append(along[:-1])
        ends.append(along[1:])
    return np.concatenate(starts), np.concatenate(ends)


def _curve(points: np.ndarray, closed: bool) -> np.ndarray:
    """A Catmull-Rom curve through points [N, D], sampled; an open one ends as straight as it can."""
    if len(points) == 2:
        return points
    if closed:
        padded = np.concatenate([points[-1:], points, points[:2]])
    else:
        padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    u = (np.arange(_PIECES) / _PIECES)[None, :, None]
    p0, p1, p2, p3 = (padded[k : len(padded) - 3 + k][:, None] for k in range(4))
    bends = p1 + u / 2 * (p2 - p0 + u * (2 * p0 - 5 * p1 + 4 * p2 - p3 + u * (3 * (p1 - p2) + p3 - p0)))
    return np.concatenate([bends.reshape(-1, points.shape[1]), padded[-2:-1]])
