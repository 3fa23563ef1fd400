"""Static overlays: marks and logos that stand still while the picture behind them moves.

With the gradient of luma g_t(x), its mean direction over time n(x) and

    a(x) = 35th percentile over t of g_t(x) . n(x)          s(x) = a(x) / (mean over t of |g_t(x)|),

an edge that is always there and always the same has s near 1, even where something moves behind a half-transparent
mark; edges of the moving picture come and go, and have s near 0 (visible watermarks by their median gradients: Dekel et
al., CVPR 2017).  Two things look alike and are none: edges along which the picture moves, which have all one direction,
while a mark has edges of several; and places of the scene that stand still.  So a mark is looked for only where the
camera moves the scene (`motion`): nothing can be said of one in front of a camera on a tripod.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.curation.scores.bars import inside
from data_pipelines.curation.scores.motion import SIDE, Movement, movements, reduced
from data_pipelines.curation.scores.opencv import import_opencv
from data_pipelines.curation.scores.protocol import Column, Sample, rounded

EDGE = 1.5  # luma per pixel: a weaker edge is noise
STEADY = 0.65  # s of an edge of an overlay
ALWAYS = 35  # percentile over the pictures: a mark may be lost in a third of them
REACH = 0.06  # of the shorter side: half the window in which edges belong together
DIRECTIONS = 0.2  # smaller over larger eigenvalue of the gradients of a mark
DENSE = 0.15  # share of steady edges in the window of a mark
HELD = 0.003  # shorter sides: between such pictures nothing moves, and they count once
TRAVEL = 0.05  # shorter sides that the camera must move a place for it to be judged


@dataclasses.dataclass(frozen=True)
class Overlay:
    """Area of static overlays.

    Attributes:
      side: pixels of the shorter side at which edges are looked at.
    """

    side: int = 128
    name: str = "overlay"
    version: int = 1
    columns: tuple[Column, ...] = (
        Column("overlay", "marks that stand still over a moving picture", "share of the picture", "worse", 0.01, True),
    )

    def score(self, sample: Sample) -> dict[str, float | str]:
        """See `Scorer`."""
        if not sample.pairs():
            return {}
        moves = [move for move in movements(sample, SIDE) if move.speed > HELD]
        if len(moves) < 2:
            return {"overlay": 0.0}
        seen = sorted({k for move in moves for k in (move.first, move.first + 1)})
        grey = reduced(inside(sample, sample.grey[seen]), self.side)
        passed = travel(moves, grey.shape[1:])
        if passed.max() < TRAVEL:
            return {"overlay": 0.0}
        return rounded({"overlay": (overlaid(grey) & (passed >= TRAVEL)).mean()})


def travel(moves: Sequence[Movement], size: tuple[int, int]) -> np.ndarray:
    """How far the camera moves what is at each place, in shorter sides: standard deviation of its path, [h, w]."""
    y, x = (v / min(size) for v in np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32))
    steps = np.stack([x[..., None] * m.camera[0] + y[..., None] * m.camera[1] + m.camera[2] for m in moves])
    path = np.concatenate([np.zeros_like(steps[:1]), steps.cumsum(0)])
    return np.sqrt(path.var(0).sum(-1))


def overlaid(grey: np.ndarray) -> np.ndarray:
    """Where a static overlay lies, bool [h, w], from luma uint8 [T, h, w]."""
    cv2 = import_opencv()
    mean, edge, steady = steadiness(*gradients(grey))
    held = (steady > STEADY) & (edge > EDGE)
    reach = max(2, round(REACH * min(grey.shape[1:])))
    window = (2 * reach + 1,) * 2
    xx, yy, xy = (cv2.blur(np.where(held, a * b, 0), window) for a, b in ((mean[0],) * 2, (mean[1],) * 2, mean))
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy**2)
    several = xx + yy - spread > DIRECTIONS * (xx + yy + spread)
    dense = cv2.blur(held.astype(np.float32), window) > DENSE
    marked = held & several & dense
    return cv2.morphologyEx(marked.astype(np.uint8), cv2.MORPH_CLOSE, np.ones(window, np.uint8)) > 0


def gradients(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of luma uint8 [T, h, w], slightly smoothed: two float32 [T, h, w], in luma per pixel."""
    cv2 = import_opencv()
    smooth = [cv2.GaussianBlur(g, (3, 3), 0.8) for g in grey]
    return tuple(
        np.stack([cv2.Sobel(g, cv2.CV_32F, *d, ksize=3, scale=0.125) for g in smooth]) for d in ((1, 0), (0, 1))
    )


def steadiness(gx: np.ndarray, gy: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Mean gradient (two [h, w]), mean length of gradients [h, w], and s [h, w], of gradients [T, h, w]."""
    mx, my = gx.mean(0), gy.mean(0)
    along = (gx * mx + gy * my) / (np.hypot(mx, my) + 1e-6)
    edge = np.hypot(gx, gy).mean(0)
    k = int(len(gx) * ALWAYS / 100)
    return (mx, my), edge, np.partition(along, k, axis=0)[k] / (edge + 0.5)
