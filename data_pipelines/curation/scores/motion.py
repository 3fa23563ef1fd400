"""Motion by dense optical flow, and which part of it is the camera's.

The flow u(x) between neighbouring pictures (half a second apart) is Farneback's (OpenCV), on small pictures, as
curation for Stable Video Diffusion does it (arXiv 2311.15127).  A camera moves the whole picture by nearly an affine
map, so

    u(x) ~ A (x, 1)          A [2, 3] by iteratively reweighted least squares (Geman-McClure weights),

from places where the picture has structure, since flow is a guess elsewhere.  Flow is reliable only where it is small:
so the second picture is moved back, first by the shift that phase correlation finds, then by A, and the flow that is
left is found anew.  What of it is more than the error of flow, and can be seen as a difference of the pictures, is
motion of objects.
"""

import dataclasses
import functools

import numpy as np

from data_pipelines.curation.scores.bars import inside
from data_pipelines.curation.scores.opencv import import_opencv
from data_pipelines.curation.scores.protocol import Column, Sample, rounded
from data_pipelines.curation.scores.slope import slope

SIDE = 96  # pixels of the shorter side at which flow is computed
STEP = 4  # pixels between the places at which flow is read
FLAT = 1.5  # mean slope of luma below which a place has no structure
OBJECT = 0.5  # pixels of motion beside the camera's that are not an error of the flow
DIFFERENT = 5.0  # luma by which pictures differ where something moved beside the camera
ROUNDS, SMALL = 3, 1.0  # of flow at most, until the camera's motion changes by less than this, in pixels
WORTH = 0.9  # share of the difference of two pictures that a shift must leave at most, to be believed
ENOUGH = 12  # places to tell the camera's motion from
_SCALES = (8.0, 4.0, 2.0, 1.0, 1.0)  # pixels; width of the weights, from one iteration to the next


@dataclasses.dataclass(frozen=True)
class Motion:
    """Speed of the picture, of the camera and of objects.

    Attributes:
      side: pixels of the shorter side at which flow is computed.
    """

    side: int = SIDE
    name: str = "motion"
    version: int = 2
    columns: tuple[Column, ...] = (
        Column("motion", "mean speed of the picture", "shorter sides a second", "better", 0.005, temporal=True),
        Column("motion_camera", "mean speed that is the camera's", "shorter sides a second", temporal=True),
        Column("motion_object", "mean speed beside the camera's", "shorter sides a second", temporal=True),
        Column("moving", "pixels that move beside the camera", "share of the picture", temporal=True),
    )

    def score(self, sample: Sample) -> dict[str, float | str]:
        """See `Scorer`."""
        moves = movements(sample, self.side)
        if not moves:
            return {}
        speeds = np.mean(
            [(m.speed / m.seconds, m.camera_speed / m.seconds, m.beside / m.seconds, m.moving) for m in moves], 0
        )
        return rounded(dict(zip((c.name for c in self.columns), speeds)))


@dataclasses.dataclass(frozen=True, eq=False)
class Movement:
    """What happens between two neighbouring pictures.  Lengths are fractions of the shorter side.

    Attributes:
      first: index of the first picture.
      seconds: from one to the other.
      camera: float32 [3, 2], displacement by the camera at (x, y, 1), all in shorter sides.
      speed, camera_speed, beside: mean displacement, that of the camera, and that of the rest.
      moving: share of the picture that moves beside the camera.
    """

    first: int
    seconds: float
    camera: np.ndarray
    speed: float
    camera_speed: float
    beside: float
    moving: float


@functools.lru_cache(maxsize=1)
def movements(sample: Sample, side: int) -> tuple[Movement, ...]:
    """What happens between neighbouring pictures of a sample, inside its bars; the latest answer is remembered."""
    pictures = reduced(inside(sample, sample.grey), side)
    found = []
    for k in sample.pairs():
        camera, values = parts(pictures[k], pictures[k + 1])
        scale = min(pictures[k].shape)
        camera = camera * np.float32([[1], [1], [1 / scale]])
        seconds = float(sample.times[k + 1] - sample.times[k])
        found.append(Movement(k, seconds, camera, *(v / scale for v in values[:3]), values[3]))
    return tuple(found)


def reduced(grey: np.ndarray, side: int) -> np.ndarray:
    """Luma [T, h, w] with a shorter side of at most `side` pixels."""
    cv2 = import_opencv()
    scale = side / min(grey.shape[1:])
    if scale >= 1:
        return np.ascontiguousarray(grey)
    size = round(grey.shape[2] * scale), round(grey.shape[1] * scale)
    return np.stack([cv2.resize(g, size, interpolation=cv2.INTER_AREA) for g in grey])


def parts(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """The camera's map, and mean displacements.

    Args:
      before, after: luma uint8 [h, w].

    Returns:
      float32 [3, 2]; and in pixels the mean displacement, that of the camera and that beside it, and the share of
      pixels that move beside it.
    """
    places = _read(np.moveaxis(np.mgrid[0 : before.shape[0], 0 : before.shape[1]][::-1], 0, -1)).astype(np.float32)
    places = np.concatenate([places, np.ones((len(places), 1), np.float32)], axis=1)
    camera, rest = shift(before, after), np.zeros((len(places), 2), np.float32)
    structured = _read(structure(before))
    for _ in range(ROUNDS):
        registered, seen = moved_back(after, camera)
        trust = structured & _read(seen)
        if trust.sum() < ENOUGH:
            break
        rest = _read(flow(before, registered))
        correction = affine(places[trust], rest[trust])
        camera, rest = camera + correction, rest - places @ correction
        if np.linalg.norm(places @ correction, axis=1).max() < SMALL:
            break
    own = trust & (np.linalg.norm(rest, axis=1) > OBJECT) & _read(differ(before, registered))
    by_camera = places @ camera
    beside = rest * own[:, None]
    lengths = (float(np.linalg.norm(u, axis=1).mean()) for u in (by_camera + beside, by_camera, beside))
    return camera, (*lengths, float(own.mean()))


def shift(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """A first guess of the camera's map [3, 2]: a translation, or none if that explains the pictures as well."""
    cv2 = import_opencv()
    window = cv2.createHanningWindow(before.shape[::-1], cv2.CV_32F)
    found, _ = cv2.phaseCorrelate(before.astype(np.float32), after.astype(np.float32), window)
    still, moved = np.zeros((3, 2), np.float32), np.float32([[0, 0], [0, 0], found])
    registered, seen = moved_back(after, moved)
    if seen.mean() < 0.25:
        return still
    gain = cv2.absdiff(before, registered)[seen].mean() / max(1e-6, cv2.absdiff(before, after)[seen].mean())
    return moved if gain < WORTH else still


def flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Displacements float32 [h, w, 2] in pixels, from uint8 [h, w] to uint8 [h, w]."""
    levels = max(1, int(np.log2(min(before.shape) / 12)))
    return import_opencv().calcOpticalFlowFarneback(before, after, None, 0.5, levels, 15, 2, 5, 1.1, 0)


def structure(grey: np.ndarray) -> np.ndarray:
    """Whether a place has structure that flow can follow, bool [h, w]."""
    return import_opencv().blur(slope(grey), (9, 9)) > FLAT


def moved_back(after: np.ndarray, camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The second picture as it would be without the camera's motion, and where it is known, both [h, w]."""
    cv2 = import_opencv()
    warp = np.float32(np.eye(2, 3) + camera.T)
    size, how = after.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    known = cv2.warpAffine(np.full_like(after, 255), warp, size, flags=how)
    return cv2.warpAffine(after, warp, size, flags=how, borderMode=cv2.BORDER_REPLICATE), known == 255


def differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two pictures differ by more than their common change of brightness, bool [h, w]."""
    cv2 = import_opencv()
    change = cv2.subtract(b, a, dtype=cv2.CV_32F)
    return cv2.blur(np.abs(change - np.median(change)), (5, 5)) > DIFFERENT


def affine(places: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The affine map [3, 2] that most displacements `u` [N, 2] at `places` [N, 3] (x, y, 1) follow."""
    unit = np.float32([0.01, 0.01, 1])  # of about the same size
    places = places * unit
    found = np.zeros((3, 2), np.float32)
    found[2] = np.median(u, axis=0)
    for scale in _SCALES:
        weight = 1 / (1 + ((u - places @ found) ** 2).sum(1, keepdims=True) / scale**2) ** 2
        weighted = places * weight
        found = np.linalg.solve(weighted.T @ places + 1e-3 * np.eye(3), weighted.T @ u)
    return np.float32(found * unit[:, None])


def _read(pixels: np.ndarray) -> np.ndarray:
    """Every `STEP`-th pixel of [h, w] or [h, w, 2], as a list [N] or [N, 2]."""
    read = pixels[STEP // 2 :: STEP, STEP // 2 :: STEP]
    return read.reshape(-1, *read.shape[2:])
