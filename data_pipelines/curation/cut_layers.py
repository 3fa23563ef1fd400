"""A picture as the sum of two others: what the middle of a dissolve is, also where the cameras of both shots move.

With a and b a picture of the old shot and one of the new shot, without their finest and coarsest structure,

    m(x) ~ p a(x + u(x)) + q b(x + v(x)),        u, v affine,        explained = 1 - |rest|^2 / |m|^2.

Where the shots stand still u = v = 0, and p and q follow by least squares.  Else all are found by Gauss-Newton, on
blurred pictures first, from rest and from the speeds that both shots have outside of the dissolve.  u and v grow evenly
with time, which gives them for the other pictures as well, and p and q with them: the one goes as the other comes.

Motion is not explained so.  A camera that passes from a to b shows parts of them side by side, where both are seen they
are alike, and what comes close or leaves is in neither: no sum of two unlike pictures explains more than a fifth of it
(measured on pans, zooms and changes of focus over real pictures), of a dissolve it explains half and more.

Shape legend: h, w every `FINE`-th pixel of the small picture.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.curation.cut_checks import FINE, SEEN, Shown, in_both
from data_pipelines.curation.scores.opencv import import_opencv

UNRELATED = 0.8  # share of one picture's energy, at least, that the other does not explain
BLURS = (3.0, 0.0)  # pixels [h, w] by which pictures are blurred while u and v are sought
ROUNDS, SETTLED = 8, 0.03  # of Gauss-Newton at most; pixels [h, w], a smaller step of which ends them
DAMPING, FLOOR = 0.01, 1e-3  # of the diagonal, and added to it
LEAST = 0.1  # part of each picture while u and v are sought: without one nothing tells where it is
FARTHEST = 0.35  # of the shorter side: what moves farther is not found so


@dataclasses.dataclass(frozen=True)
class Mix:
    """A picture as a sum of two others.

    Attributes:
      explained: share of its energy that the sum has.
      first, second: how much of each is in it.
    """

    explained: float
    first: float
    second: float

    @property
    def share(self) -> float:
        """Of the second in the sum; 0 where there is no sum."""
        return self.second / max(self.first + self.second, 1e-3)


@dataclasses.dataclass(frozen=True, eq=False)
class Layers:
    """Two pictures, and how each of them moves.

    Attributes:
      first, second: of the old and of the new shot.
      ways: float32 [2, 2, 3], for each the affine displacement from a place (x, y, 1) of a picture to where the layer
        has it, in pixels [h, w] for each second between them; None where neither moves.
    """

    first: Shown
    second: Shown
    ways: np.ndarray | None = None

    def mix(self, shown: Shown) -> Mix:
        """How a picture is mixed of the two, by least squares; nothing where too little of both is in the frame."""
        bands, where = [self.first.band, self.second.band], in_both(self.first, self.second, FINE)
        if self.ways is not None:
            gaps = (shown.time - self.first.time, shown.time - self.second.time)
            moved = [carried(band, way * np.float32(gap)) for band, way, gap in zip(bands, self.ways, gaps)]
            bands, where = [band for band, _ in moved], where & moved[0][1] & moved[1][1]
            if np.count_nonzero(where) < SEEN * where.size:
                return Mix(0.0, 0.0, 0.0)
        return _solved(bands[0][where], bands[1][where], shown.band[where])


def moving(a: Shown, m: Shown, b: Shown, speeds: Iterable[np.ndarray]) -> Layers:
    """The layers a and b with the ways that explain m best.

    Args:
      a, m, b: a picture of the old shot, of the mix, and of the new shot.
      speeds: float32 [2, 2] each, displacement (x, y) of both shots in pixels of the small picture a second: guesses.
    """
    gaps = np.float32([m.time - a.time, m.time - b.time])[:, None, None]
    starts = [np.zeros((2, 2, 3), np.float32)]
    for speed in speeds:
        starts.append(np.zeros((2, 2, 3), np.float32))
        starts[-1][:, :, 2] = -speed / FINE * gaps[:, :, 0]
    found = (Layers(a, b, _sought((a, b, m), start) / gaps) for start in starts)
    return max(found, key=lambda layers: layers.mix(m).explained)


def carried(band: np.ndarray, way: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A layer float32 [h, w] after an affine displacement [2, 3], and which places show what lies within it."""
    height, width = band.shape
    across, down = _places(band.shape)
    x = way[0, 0] * across + way[0, 1] * down + (way[0, 2] + np.arange(width, dtype=np.float32))
    y = way[1, 0] * across + way[1, 1] * down + (way[1, 2] + np.arange(height, dtype=np.float32)[:, None])
    cv2 = import_opencv()
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return cv2.remap(band, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), inside


def _solved(first: np.ndarray, second: np.ndarray, middle: np.ndarray) -> Mix:
    """How the values `middle` are mixed of two others, float32 [N] each."""
    aa, bb, ab = first @ first, second @ second, first @ second
    am, bm, mm = first @ middle, second @ middle, middle @ middle
    rest = aa * bb - ab * ab
    if not rest > UNRELATED * aa * bb or mm < len(middle):  # what both show explains all, or nothing does
        return Mix(0.0, 0.0, 0.0)
    p, q = (am * bb - bm * ab) / rest, (bm * aa - am * ab) / rest
    return Mix(float((p * am + q * bm) / mm), float(p), float(q))


def _sought(pictures: Sequence[Shown], ways: np.ndarray) -> np.ndarray:
    """The displacements [2, 2, 3] of two pictures that explain the third best, sought from `ways` on."""
    cv2 = import_opencv()
    shares, where = np.full(2, 0.5, np.float32), in_both(*pictures[:2], FINE)
    for blur in BLURS:
        bands = [cv2.GaussianBlur(s.band, (0, 0), blur) if blur else s.band for s in pictures]
        for _ in range(ROUNDS):
            step = _step(bands, ways, shares, where)
            shares, ways = np.clip(shares + step[:2], LEAST, 1), ways + step[2:].reshape(2, 2, 3)
            if np.abs(step[2:]).max() < SETTLED:
                break
    return ways if np.abs(ways).max() <= FARTHEST * min(where.shape) else np.zeros_like(ways)


def _step(bands: Sequence[np.ndarray], ways: np.ndarray, shares: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A step of Gauss-Newton: of the shares [2], then of the ways [12]; zeros where too little is in the frame."""
    cv2 = import_opencv()
    moved = [carried(band, way) for band, way in zip(bands, ways)]
    where = where & moved[0][1] & moved[1][1]
    if np.count_nonzero(where) < SEEN * where.size:
        return np.zeros(14, np.float32)
    x, y = (places[where] for places in _places(where.shape))
    columns = [band[where] for band, _ in moved]
    rest = bands[2][where] - shares[0] * columns[0] - shares[1] * columns[1]
    for share, (band, _) in zip(shares, moved):
        for along in ((1, 0), (0, 1)):
            slope = share * cv2.Sobel(band, cv2.CV_32F, *along, ksize=3, scale=0.125)[where]
            columns += [slope * x, slope * y, slope]
    matrix = np.stack(columns)
    normal = matrix @ matrix.T
    normal[np.diag_indices(len(normal))] *= 1 + DAMPING
    normal[np.diag_indices(len(normal))] += FLOOR
    return np.linalg.solve(normal, matrix @ rest)


def _places(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the places of a layer, -1 to 1 along its shorter side: float32 [h, w] each."""
    scale = np.float32(2 / min(shape))
    down, across = (scale * (np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2)) for n in shape)
    return np.broadcast_to(across, shape), np.broadcast_to(down[:, None], shape)
