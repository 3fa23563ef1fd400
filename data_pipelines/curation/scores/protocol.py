"""What a score is: the small pictures it sees, the columns it fills, and how it is called.

A source is decoded once, small, at about two pictures a second (`sampling.py`); every span of it becomes a `Sample`,
and every `Scorer` turns a sample into a few numbers.  Scores are measured, never judged: which of them a clip must
pass is decided later, over the table, as often as one likes.

Shape legend: T pictures kept, N pictures seen (most of those that were decoded), h, w small picture, H, W source.
"""

import dataclasses
import functools
from typing import Protocol, runtime_checkable

import numpy as np

from data_pipelines.curation.scores.opencv import import_opencv

PAIR_GAP = 2.1  # two pictures are neighbours if they are at most so many sampling steps apart


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of the table of scores.

    Attributes:
      name: the column; lower case, unique among all scorers.
      meaning: one line for a person.
      unit: what 1.0 is; "" for text.
      higher_is: `better`, `worse`, or `neither` (a fact rather than a quality).
      limit: the value that separates clean from defective clips on the calibration worlds; None without one.
      temporal: whether it needs pictures that follow each other; a single image has no such score.
    """

    name: str
    meaning: str
    unit: str = ""
    higher_is: str = "neither"
    limit: float | None = None
    temporal: bool = False

    def __post_init__(self):
        assert self.higher_is in ("better", "worse", "neither"), self.higher_is


@dataclasses.dataclass(frozen=True, eq=False)
class Edges:
    """What the lines of the source look like at full resolution, over the sampled pictures of one span.

    Attributes:
      rows: [H, 2]; for each row the mean and the standard deviation of luma along it, the 80th percentile over the
        pictures.  Luma is 0 (black) to 255, whatever range the file uses.
      columns: [W, 2]; the same for columns.
    """

    rows: np.ndarray
    columns: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One span of a source as the scorers see it.

    Attributes:
      frames: RGB uint8 [T, h, w, 3], T >= 1, upright, the shorter side at most `SampleSettings.side`.
      times: float64 [T], seconds of the source, rising.
      fps: pictures a second that were asked for, more of a short span; where decoding was thinned out, gaps are longer
        (see `pairs`).
      thumbs: luma uint8 [N, a, b] of every picture that was decoded within the span, tiny; N >= T.
      thumb_times: float64 [N], seconds.
      edges: line statistics at full resolution.
      height, width: pixels of the source, upright.
    """

    frames: np.ndarray
    times: np.ndarray
    fps: float
    thumbs: np.ndarray
    thumb_times: np.ndarray
    edges: Edges
    height: int
    width: int

    @functools.cached_property
    def grey(self) -> np.ndarray:
        """Luma of the frames, uint8 [T, h, w]."""
        cv2 = import_opencv()
        return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in self.frames])

    def pairs(self) -> list[int]:
        """Indices k for which pictures k and k + 1 are neighbours in time."""
        gaps = np.diff(self.times)
        return [int(k) for k in np.flatnonzero((gaps > 0) & (gaps <= PAIR_GAP / self.fps))]


@runtime_checkable
class Scorer(Protocol):
    """A family of scores: a frozen dataclass of its settings.

    Attributes:
      name: of the family, e.g. "motion".
      version: raised whenever the same sample may give other numbers.
      columns: what `score` returns, in order.
    """

    name: str
    version: int
    columns: tuple[Column, ...]

    def score(self, sample: Sample) -> dict[str, float | str]:
        """Measures one sample, the same whatever the process.

        Args:
          sample: of one span.

        Returns:
          column -> a finite number, rounded with `rounded`, or text.  What cannot be measured is left out: temporal
          columns of a single picture.
        """
        ...


def rounded(scores: dict[str, float | str]) -> dict[str, float | str]:
    """Plain floats of six digits after the point, which JSON and Parquet give back exactly; texts as they are.

    Raises:
      AssertionError: a number is not finite, which is a mistake of the scorer.
    """
    plain = {name: value if isinstance(value, str) else round(float(value), 6) for name, value in scores.items()}
    for name, value in plain.items():
        assert isinstance(value, str) or np.isfinite(value), f"{name} is {value}"
    return plain
