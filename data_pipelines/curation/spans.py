"""Clips inside shots: never across a cut, on keyframes where asked.

Between two cuts (a fade counts from its first to its last mixed picture) lies a shot.  A margin is taken off where it
touches a cut, then clips of at most `longest` seconds are laid into it every `stride` seconds.
"""

import dataclasses
import math

from data_pipelines.curation.cuts import Cut
from data_pipelines.curation.source import Span


@dataclasses.dataclass(frozen=True)
class SpanSettings:
    """Which stretches of a shot become clips.

    Attributes:
      shortest: seconds; what is left of a shot below that is not used.
      longest: seconds; longer shots give several clips.  0 takes each shot whole.
      stride: seconds between the starts of two clips; 0 means `longest`, so that clips do not overlap.
      margin: seconds kept away from every cut, on both sides.
      keyframes: a clip starts on a keyframe and ends before one (or with its video), so that its packets can be
        copied without encoding anew.
      limit: at most so many clips of one source, evenly spaced; 0 takes all.
    """

    shortest: float = 1.0
    longest: float = 10.0
    stride: float = 0.0
    margin: float = 0.1
    keyframes: bool = False
    limit: int = 0

    def __post_init__(self):
        for name in ("shortest", "longest", "stride", "margin", "limit"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name}: {value!r} is not at least 0")
        if self.longest and self.longest < self.shortest:
            raise ValueError(f"longest: {self.longest!r} is below shortest={self.shortest!r}; no clip can be both")
        if self.stride and not self.longest:
            raise ValueError(f"stride: {self.stride!r} without longest: a shot taken whole gives one clip")
