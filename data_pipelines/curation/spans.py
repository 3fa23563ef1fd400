"""Clips inside shots: never across a cut, on keyframes where asked.

Between two cuts (a fade counts from its first to its last mixed picture) lies a shot.  A margin is taken off where it
touches a cut, then clips of at most `longest` seconds are laid into it every `stride` seconds.

On keyframes (2311.15127, appendix C): the start moves forward to the first keyframe of the shot, the end back to the
last one, so that what lies between is whole groups of pictures.
"""

import bisect
import dataclasses
import math
from collections.abc import Iterator, Sequence

from data_pipelines.curation.cuts import Cut
from data_pipelines.curation.probe import Facts
from data_pipelines.curation.source import Span

TICK = 0.0005  # seconds; times are rounded to twice that


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


def clip_spans(cuts: Sequence[Cut], facts: Facts, settings: SpanSettings, within: Span | None = None) -> list[Span]:
    """Lays clips into the shots of a video.

    Args:
      cuts: of the whole video, in any order.
      facts: of its file.
      settings: which stretches.
      within: the stretch of the file that the source is; None for all of it.

    Returns:
      clips in order of their starts, each inside one shot.
    """
    last = min(within.end, facts.duration) if within else facts.duration
    first = within.start if within else 0.0
    spans = [span for shot in shots(cuts, first, last, settings.margin) for span in _laid(shot, facts, settings)]
    if settings.limit and len(spans) > settings.limit:
        spans = [spans[i * len(spans) // settings.limit] for i in range(settings.limit)]
    return spans


def shots(cuts: Sequence[Cut], first: float, last: float, margin: float = 0.0) -> list[Span]:
    """What lies between cuts, from `first` to `last` (seconds), `margin` away from each cut."""
    found, start = [], first
    for cut in sorted(cuts, key=lambda cut: (cut.start, cut.end)):
        end = min(cut.start - margin, last)
        if end - start > TICK:
            found.append(Span(start, end))
        start = max(start, cut.end + margin)
    return [*found, Span(start, last)] if last - start > TICK else found


def _laid(shot: Span, facts: Facts, settings: SpanSettings) -> Iterator[Span]:
    longest, shortest = settings.longest or shot.duration, max(settings.shortest, 2 * TICK)
    start, step = shot.start, 0
    while start + shortest <= shot.end + TICK:
        end = min(start + longest, shot.end)
        if settings.keyframes:
            start, end = _snapped(start, shot, longest, facts)
        if end - start + TICK >= shortest:
            yield Span(start, end)
        if end + TICK >= shot.end:
            return
        step += 1
        if settings.keyframes:
            start = start + settings.stride if settings.stride else max(end, start + 2 * TICK)
        else:
            start = shot.start + step * (settings.stride or longest)


def _snapped(start: float, shot: Span, longest: float, facts: Facts) -> tuple[float, float]:
    """The first keyframe from `start` on, and the last one within reach of it, or the video's end."""
    keys = facts.keyframes
    i = bisect.bisect_left(keys, start - TICK)
    if i == len(keys):
        return shot.end, shot.end
    limit = min(keys[i] + longest, shot.end)
    if limit + TICK >= facts.duration:
        return keys[i], facts.duration
    j = bisect.bisect_right(keys, limit + TICK) - 1
    return keys[i], keys[max(j, i)]
