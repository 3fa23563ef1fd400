"""Black bars: the box of the picture inside them, to the pixel of the source.

A line of the frame belongs to a bar if it is black, and evenly so, in nearly every picture that was looked at.  Bars
start at the border and end where lines become lighter at once and all along; a night sky does so gradually, and what
stands in the dark at one place.  Bars of a
dark grey (a picture whose contrast was lowered) must be perfectly even, and on both sides.
"""

import dataclasses

import numpy as np

from data_pipelines.curation.scores.protocol import Column, Edges, Sample, rounded

BLACK = 10.0, 8.0  # luma of a bar at most, and its standard deviation along the line
GREY = 56.0, 4.0  # the same where both sides have a bar
ALIKE = 0.2  # by which two grey bars differ in width at most
STEP = 3.0  # by which the picture beside a bar is lighter at least
EVEN = 3.0  # by which the lines of a bar differ at most; those beside the picture are smeared by compression
AT_ONCE = 0.4  # share of the lines further in that the line beside a bar reaches
ALONG = 0.9  # mean over standard deviation along it: a bar ends all along, a round thing in the dark at one place
LEAST = 0.01  # a thinner bar, as a share of the extent, is a line of the picture


def content_box(edges: Edges) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the picture inside bars, in pixels of the source, half open."""
    return (*_inside(edges.rows), *_inside(edges.columns))


def inside(sample: Sample, pictures: np.ndarray) -> np.ndarray:
    """The part of small pictures [T, h, w, ...] that lies inside the bars, a pixel away from them; a view."""
    height, width = pictures.shape[1:3]
    rows = _scaled(_inside(sample.edges.rows), sample.height, height)
    columns = _scaled(_inside(sample.edges.columns), sample.width, width)
    return pictures[:, slice(*rows), slice(*columns)]


@dataclasses.dataclass(frozen=True)
class Bars:
    """Letterbox and pillarbox."""

    name: str = "bars"
    version: int = 1
    columns: tuple[Column, ...] = (
        Column("bars", "black bars", "share of the frame", "worse", 0.01),
        Column("letterbox", "black bars above and below", "share of the height", "worse", 0.01),
        Column("pillarbox", "black bars left and right", "share of the width", "worse", 0.01),
        Column("content", "the picture inside bars: left,top,right,bottom in pixels of the source"),
    )

    def score(self, sample: Sample) -> dict[str, float | str]:
        """See `Scorer`."""
        top, bottom, left, right = content_box(sample.edges)
        height, width = (bottom - top) / sample.height, (right - left) / sample.width
        return rounded(
            {
                "bars": 1 - height * width,
                "letterbox": 1 - height,
                "pillarbox": 1 - width,
                "content": f"{left},{top},{right},{bottom}",
            }
        )


def _inside(lines: np.ndarray) -> tuple[int, int]:
    """The first line of the picture and the one after its last, from statistics [L, 2]."""
    first, last = _bars(lines, *BLACK)
    if not first and not last:
        first, last = _bars(lines, *GREY)
        if abs(first - last) > max(1, ALIKE * max(first, last)):
            first, last = 0, 0
    return first, len(lines) - last


def _bars(lines: np.ndarray, level: float, spread: float) -> tuple[int, int]:
    """Lines of the bars at the beginning and at the end."""
    black = (lines[:, 0] <= level) & (lines[:, 1] <= spread)
    return (0, 0) if black.all() else (_bar(lines, black), _bar(lines[::-1], black[::-1]))


def _bar(lines: np.ndarray, black: np.ndarray) -> int:
    """Lines of the bar at the beginning, 0 if there is none."""
    size = int(np.argmin(black))
    if size < max(1, LEAST * len(lines)):
        return 0
    level = lines[:size, 0].mean()
    if np.ptp(lines[: max(1, size - 2 - len(lines) // 100), 0]) > EVEN:
        return 0
    beside = lines[size + 1 + len(lines) // 300 :][: max(2, len(lines) // 50)]
    if not len(beside):
        return 0
    mean, spread = beside[0]  # of the first line that no scaling has mixed with the bar
    along = mean - level >= ALONG * spread
    return size if along and mean - level >= max(STEP, AT_ONCE * (beside[:, 0].max() - level)) else 0


def _scaled(box: tuple[int, int], source: int, small: int) -> tuple[int, int]:
    first, last = box
    start = int(np.ceil(first * small / source)) + 1 if first else 0
    stop = int(last * small / source) - 1 if last < source else small
    return (start, stop) if stop - start >= 8 else (0, small)
