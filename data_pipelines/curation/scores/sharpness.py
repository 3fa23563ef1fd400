"""Blur: how wide the edges of the picture are.

An edge blurred by a Gaussian of standard deviation s has the slope `contrast / (s sqrt(2 pi))`.  So with the largest
slope and the range of luma round it, `s = range / (slope sqrt(2 pi))` tells blur from low contrast and from a lack of
detail.  Each block of a grid says how sharp its sharpest edges are; blocks without contrast say nothing.  The picture
is as sharp as the sharper part of its blocks: a subject in focus is enough, a caption over a blurred picture is not.
"""

import dataclasses

import numpy as np

from data_pipelines.curation.scores.bars import inside
from data_pipelines.curation.scores.opencv import import_opencv
from data_pipelines.curation.scores.protocol import Column, Sample, rounded
from data_pipelines.curation.scores.slope import slope

BLOCKS = 10  # along the shorter side
RADIUS = 6  # pixels round an edge in which its contrast is measured
LEAST_CONTRAST, SHARE_OF_CONTRAST = 8.0, 0.15  # of a block: luma, and of the picture's own contrast
SHARPER = 60  # percentile of the blocks
WORSE = 75  # percentile of the pictures


@dataclasses.dataclass(frozen=True)
class Sharpness:
    """Width of edges.

    Attributes:
      side: pixels of the shorter side at which edges are measured; larger pictures are reduced to it.
    """

    side: int = 256
    name: str = "sharpness"
    version: int = 2
    columns: tuple[Column, ...] = (
        Column(
            "blur", "standard deviation of the blur of edges", "pixels, shorter side 256 or the source's", "worse", 2.1
        ),
    )

    def score(self, sample: Sample) -> dict[str, float | str]:
        """See `Scorer`."""
        widths = [edge_width(grey) for grey in inside(sample, sample.grey)]
        return rounded({"blur": np.percentile(widths, WORSE)})


def edge_width(grey: np.ndarray) -> float:
    """Standard deviation of the blur, in pixels, of luma uint8 [h, w]; `RADIUS` where nothing has an edge."""
    cv2 = import_opencv()
    smooth = cv2.GaussianBlur(grey, (3, 3), 0.6)
    window = np.ones((2 * RADIUS + 1, 2 * RADIUS + 1), np.uint8)
    contrast = cv2.subtract(cv2.dilate(smooth, window), cv2.erode(smooth, window)).astype(np.float32)
    low, high = np.percentile(grey, (2, 98))
    least = max(LEAST_CONTRAST, SHARE_OF_CONTRAST * (high - low))
    block = max(6, min(grey.shape) // BLOCKS)
    rows, columns = grey.shape[0] // block, grey.shape[1] // block
    ratio = np.where(contrast >= least, slope(smooth) / np.maximum(contrast, 1), 0)[: rows * block, : columns * block]
    sharpest = ratio.reshape(rows, block, columns, block).max((1, 3)).ravel()
    sharpest = sharpest[sharpest > 0]
    if len(sharpest) == 0:
        return float(RADIUS)
    return float(min(RADIUS, 1 / (np.percentile(sharpest, SHARPER) * np.sqrt(2 * np.pi))))
