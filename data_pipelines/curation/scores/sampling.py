"""Decoding a source once, small, for all of its spans and all scorers.

What costs is decoding, so as little as possible is decoded.  Pictures are wanted at a slow, even rate; those that no
other picture refers to are left out by the decoder (a wanted one is then replaced by the next); and as every picture
of a group is decoded from its keyframe on, the first seconds of each group are looked at, as many as a span needs
for `least` pictures.  A group without a wanted picture costs nothing, and after the last wanted one of a group the
decoder stops until the next keyframe.

Luma comes from the decoder as it is; only the pictures that are kept become RGB, in the small size at once.
Pictures of one source are held for as long as a span needs them, however long the source is.
"""

import bisect
import collections
import dataclasses
import os
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.curation.scores.decoding import TICK, decode_at
from data_pipelines.curation.scores.protocol import Edges, Sample
from data_pipelines.curation.scores.reducing import Picture, Reducer
from data_pipelines.curation.source import Span
from vdm_jax.media.video import VideoError

_HOLD = 1.0  # seconds; a picture that is shown for longer is seen again at every wanted time
SHORT = 1.0  # seconds; of spans below that every picture counts
NEARLY_ALL = 80  # percentile over the pictures: a flash does not count
_BURST = 3  # pictures that stay together when a long span is thinned out


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """What the scorers get to see.

    Attributes:
      side: pixels of the shorter side of the small pictures; smaller sources are not enlarged.
      fps: pictures a second.
      few: pictures that a span too short for them at `fps` is seen at all the same, closer together: two pairs, from
        which motion, stillness and overlays can be told.
      head: seconds after each keyframe that are looked at; 0 looks at all, and at every single picture.
      least: pictures that a span gets even if that means to look further than `head`.
      most: pictures of a span at most, in groups of three spread over it.
    """

    side: int = 256
    fps: float = 2.0
    few: int = 3
    head: float = 1.5
    least: int = 6
    most: int = 48

    def __post_init__(self):
        bounds = (
            *(("side", 32, 1024), ("fps", 0.25, 30), ("few", 1, 64)),
            *(("head", 0, 3600), ("least", 1, 4096), ("most", 3, 4096)),
        )
        for name, low, high in bounds:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not within {low}..{high}")
        for less, more in (("least", "most"), ("few", "most")):
            if getattr(self, less) > getattr(self, more):
                raise ValueError(f"{less}: {getattr(self, less)!r} is more than {more}={getattr(self, more)!r}")

    def rate(self, span: Span) -> float:
        """Pictures a second of a span: `fps`, or more if it is short."""
        return max(self.fps, self.few / span.duration) if span.duration > 0 else self.fps


def wanted_times(span: Span, keyframes: Sequence[float], settings: SampleSettings) -> list[float]:
    """The seconds of a span at which pictures are wanted, rising; the first is its start.

    Args:
      span: seconds of the source.
      keyframes: times of the source's keyframes, rising; none if they are not known.
      settings: how many.
    """
    rate = settings.rate(span)
    count = max(1, int(np.ceil(round(span.duration * rate, 6))))
    times = [span.start + k / rate for k in range(count)]
    if settings.head and keyframes and count > settings.least:
        depth = [_since_keyframe(t, keyframes) for t in times]
        reach = max(settings.head, sorted(depth)[settings.least - 1])
        times = [t for t, d in zip(times, depth) if d <= reach]
    if len(times) > settings.most:
        bursts = settings.most // _BURST
        starts = [round(k * (len(times) - _BURST) / max(1, bursts - 1)) for k in range(bursts)]
        times = [times[i] for i in sorted({s + k for s in starts for k in range(_BURST)})]
    return times


def sample_spans(
    path: str | os.PathLike,
    spans: Sequence[Span],
    settings: SampleSettings,
    keyframes: Sequence[float] = (),
) -> Iterator[tuple[Span, Sample]]:
    """Decodes a file once and yields what scorers see of each span, in order of their ends.

    Args:
      path: a local file.
      spans: stretches of it, in any order; they may overlap.
      settings: how much is looked at.
      keyframes: `Facts.keyframes`; without them whole spans are looked at.

    Yields:
      (span, sample), every span once.

    Raises:
      VideoError: the file cannot be read or is damaged; `no_frames` if a span shows no picture.
      RunError: OpenCV is not installed.
    """
    gatherers = [_Gatherer(span, wanted_times(span, keyframes, settings), settings) for span in spans]
    gatherers.sort(key=lambda g: (g.until, g.span))
    reducer = Reducer(settings.side)
    thin = settings.head > 0 and all(span.duration >= SHORT for span in spans)
    wanted = {stretch for gatherer in gatherers for stretch in gatherer.stretches}
    left = collections.deque(gatherers)
    del gatherers  # a span that is done gives its pictures back
    for time, until, frame in decode_at(path, list(wanted), thin):
        picture = Picture(time, until, reducer, frame)
        for gatherer in left:
            gatherer.see(picture)
        while left and left[0].done:
            done = left.popleft()
            yield done.span, done.sample(path)
        if not left:
            return
    while left:
        gatherer = left.popleft()
        gatherer.finish()
        yield gatherer.span, gatherer.sample(path)


def _since_keyframe(time: float, keyframes: Sequence[float]) -> float:
    i = bisect.bisect_right(keyframes, time + TICK) - 1
    return time - keyframes[max(i, 0)]


class _Gatherer:
    """Collects the pictures of one span while the file goes by."""

    def __init__(self, span: Span, wanted: list[float], settings: SampleSettings):
        self.span, self.wanted, self._fps = span, wanted, settings.rate(span)
        whole = [(span.start, max(wanted[-1], span.end - 2 * TICK))]
        self.stretches = [(t, t) for t in wanted] if settings.head else whole
        self.until = self.stretches[-1][1]  # seconds to decode to
        self._open = collections.deque(wanted)
        self._over = False  # whether the last picture to look at has been seen
        self._before: Picture | None = None
        self._times: list[float] = []
        self._frames: list[np.ndarray] = []
        self._thumbs: list[tuple[float, np.ndarray]] = []
        self._lines: list[tuple[np.ndarray, np.ndarray]] = []
        self._size: tuple[int, int] | None = None

    @property
    def done(self) -> bool:
        return self._over and not self._open

    def see(self, picture: Picture) -> None:
        """The next picture of the file."""
        if self.done or picture.until <= self.span.start + TICK:
            return
        self._over = picture.until > self.until + TICK
        inside = picture.time < self.span.end - TICK
        if inside:
            self._thumbs.append((max(picture.time, self.span.start), picture.thumb))
        while self._open and (picture.time > self._open[0] + TICK or picture.shown_at(self._open[0])):
            time = self._open.popleft()
            if self._before is not None and self._before.shown_at(time):
                self._take(self._before, time)
            elif inside:
                self._take(picture, time)
        if inside:
            self._before = picture

    def finish(self) -> None:
        """The file has ended."""
        while self._open:
            time = self._open.popleft()
            if self._before is not None and (self._before.shown_at(time) or not self._times):
                self._take(self._before, time)

    def sample(self, path: str | os.PathLike) -> Sample:
        """What was collected.

        Raises:
          VideoError: nothing was, or the picture changes its size.
        """
        if not self._times:
            raise VideoError("no_frames", f"{path}: shows no picture from {self.span.start} to {self.span.end} s")
        if len({frame.shape for frame in self._frames}) > 1:
            raise VideoError(
                "damaged", f"{path}: its picture changes size between {self._times[0]} and {self._times[-1]} s"
            )
        times, thumbs = zip(*self._thumbs)
        return Sample(
            frames=np.stack(self._frames),
            times=np.array(self._times),
            fps=self._fps,
            thumbs=np.stack(thumbs),
            thumb_times=np.array(times),
            edges=Edges(*(np.percentile(lines, NEARLY_ALL, axis=0) for lines in zip(*self._lines))),
            height=self._size[0],
            width=self._size[1],
        )

    def _take(self, picture: Picture, time: float) -> None:
        """Keeps a picture for a wanted time; again only if it is held on screen."""
        again = self._times and picture.time <= self._times[-1] + TICK
        if again and picture.until - picture.time <= _HOLD:
            return
        self._times.append(time if again or picture.time < self.span.start else picture.time)
        self._frames.append(picture.small)
        self._lines.append(picture.lines)
        self._size = picture.size
