"""Text area: the share of the picture that lines of overlaid writing cover.

Writing is thin strokes of strong contrast, many of them side by side, in all directions, and it stands still from one
picture to the next.  So strokes are what an opening (light ones) or a closing (dark ones) takes away, where they are
seen in a neighbouring picture too; places with many strokes of several directions are closed along the line; and what
is left must have the shape of a line.  That is done at two sizes, for small and for large writing.

No letters are read: fences and foliage in front of a camera that stands still may pass for writing.
"""

import dataclasses

import numpy as np

from data_pipelines.curation.scores.bars import inside
from data_pipelines.curation.scores.motion import reduced
from data_pipelines.curation.scores.opencv import import_opencv
from data_pipelines.curation.scores.overlay import gradients
from data_pipelines.curation.scores.protocol import Column, Sample, rounded

STROKE = 5  # pixels; strokes are thinner
STRONG, LEAST = 0.4, 10.0  # contrast of a stroke: of the picture's own, and luma
DENSE = 0.22  # share of strokes in the window of a line
DIRECTIONS = 0.2  # smaller over larger eigenvalue of their gradients
LINE = 1.5  # width of a line over its height, at least
FILLED = 0.6  # share of its box that a line fills
WORSE = 75  # percentile over the pictures


@dataclasses.dataclass(frozen=True)
class TextArea:
    """Area of writing.

    Attributes:
      sides: pixels of the shorter side at which strokes are looked for.
    """

    sides: tuple[int, ...] = (192, 96)
    name: str = "text"
    version: int = 1
    columns: tuple[Column, ...] = (
        Column("text", "overlaid writing, the boxes of its lines", "share of the picture", "worse", 0.04),
    )

    def score(self, sample: Sample) -> dict[str, float | str]:
        """See `Scorer`."""
        grey = inside(sample, sample.grey)
        neighbour = neighbours(sample)
        last = ()
        found = np.zeros(len(grey))
        for side in self.sides:
            pictures = reduced(grey, side)
            if pictures.shape[1:] != last:
                found = np.maximum(found, [m.mean() for m in lines(pictures, neighbour)])
            last = pictures.shape[1:]
        return rounded({"text": np.percentile(found, WORSE)})


def neighbours(sample: Sample) -> list[int]:
    """For each picture the index of the one that its writing is compared with; its own if there is none."""
    found = list(range(len(sample.frames)))
    for k in sample.pairs():
        found[k + 1] = k
        if found[k] == k:
            found[k] = k + 1
    return found


def lines(grey: np.ndarray, neighbour: list[int]) -> np.ndarray:
    """Where lines of writing are, bool [T, h, w], in luma uint8 [T, h, w]."""
    light, dark = zip(*(strokes(g) for g in grey))
    gx, gy = gradients(grey)
    found = []
    for k, other in enumerate(neighbour):
        steady = light[k] & light[other] | dark[k] & dark[other]
        found.append(boxes(steady, gx[k], gy[k]))
    return np.stack(found)


def strokes(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where light and where dark strokes are, both bool [h, w], of luma uint8 [h, w]."""
    cv2 = import_opencv()
    low, high = np.percentile(grey, (1, 99))
    least = max(LEAST, STRONG * (high - low))
    window = np.ones((STROKE, STROKE), np.uint8)
    light = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, window)
    return light > least, cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, window) > least


def boxes(stroke: np.ndarray, gx: np.ndarray, gy: np.ndarray) -> np.ndarray:
    """The boxes round lines of strokes, bool [h, w], from strokes bool [h, w] and the gradient of luma."""
    cv2 = import_opencv()
    window = (3 * STROKE, STROKE + 2)
    gx, gy = gx * stroke, gy * stroke
    xx, yy, xy = (cv2.blur(a, window) for a in (gx * gx, gy * gy, gx * gy))
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy**2)
    several = xx + yy - spread > DIRECTIONS * (xx + yy + spread)
    dense = (cv2.blur(np.float32(stroke), window) > DENSE) & several
    joined = cv2.morphologyEx(np.uint8(dense), cv2.MORPH_CLOSE, np.ones((1, 2 * STROKE + 1), np.uint8))
    joined = cv2.morphologyEx(joined, cv2.MORPH_OPEN, np.ones((3, STROKE), np.uint8))
    stats = cv2.connectedComponentsWithStats(joined, connectivity=4)[2]
    found = np.zeros(stroke.shape, bool)
    for left, top, width, height, area in stats[1:]:
        if width >= LINE * height and area >= FILLED * width * height and width >= 2 * STROKE:
            found[top : top + height, left : left + width] = True
    return found
