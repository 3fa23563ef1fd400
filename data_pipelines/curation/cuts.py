"""Where the shots of a video end.

Shot boundaries are hard cuts (one picture to the next) and fades (dissolves, and fades through a plain colour, over
some tenths of a second up to seconds).  A video is decoded once, small; a cascade of PySceneDetect's detectors names
candidates (`cut_cascade`), and what is motion, a flash or flicker among them is sorted out by looking at the pictures
before, within and after (`cut_checks`).  Pictures of a few seconds are held, however long the video is.

Times are seconds since the first picture, to the millisecond.
"""

import bisect
import dataclasses
import math
import operator
import os
from collections.abc import Iterator

import numpy as np

from data_pipelines.curation.cut_cascade import Candidate, Cascade, CascadeSettings
from data_pipelines.curation.cut_checks import GONE, Checker, Shown
from data_pipelines.curation.cut_layers import Layers, moving
from data_pipelines.curation.small_pictures import small_pictures

VERSION = 3
HARD, FADE = "hard", "fade"
STANDS_OUT = 0.1
AROUND, FAINT = 0.5, 0.3  # seconds, and the share of their variance
MIDDLES = 6  # pictures of each candidate, at least, that may be the middle of a fade
LONG = 1.0  # seconds; a longer fade through a plain colour shows that colour
SURELY = 0.1  # more unlike than that are the shots that a dissolve joins, by its mixes alone
PART, OUTSIDE = 0.2, -0.1  # least part of each shot in the middle of a mix; part of one that the other may lack
RISE, EDGE = 0.75, 0.08  # of a fade's profile that is looked for, and the share of its width that lies beyond it
MIXED = 0.2, 0.62  # share of the variance that the middle of a mix of moving shots has, least and most
STEPS = (0.08, 0.2)  # seconds over which the speeds of two shots are taken
_time = operator.attrgetter("time")


@dataclasses.dataclass(frozen=True)
class CutSettings:
    """How cuts are looked for.

    Attributes:
      side: pixels of the shorter side of the pictures that are compared; they are never enlarged.
      rate: pictures compared a second, at most; every picture of a slower video is.
      unlike: two pictures show different scenes below that (`cut_checks`, -1 to 1).
      dip: a picture is a mix of its surroundings below that share of their variance.
      ramp: how far the mean of a fade's profile lies above its lowest point, least and most; 1/3 for an even ramp, 0
        for a stretch with a step at both ends, 1 for a notch.
      followed: what looks like a fade is motion if its middle resembles both of its ends so much,
      moved: or has more than that share of their variance, when what moves is followed.
      uneven: what looks like a fade is motion if its structure goes so much more in some places than in others.
      explained, explained_moving: a picture is a mix whatever its variance if two unlike ones explain so much of it:
        as they are, or carried along by their cameras.
      flash: seconds after which the old shot may be back, so that there was no cut.
      cascade: rates and thresholds of the detectors.
    """

    side: int = 64
    rate: float = 30.0
    unlike: float = 0.55
    dip: float = 0.68
    ramp: tuple[float, float] = (0.15, 0.8)
    followed: float = 0.65
    moved: float = 0.85
    uneven: float = 1.5
    explained: float = 0.85
    explained_moving: float = 0.5
    flash: float = 0.35
    cascade: CascadeSettings = dataclasses.field(default_factory=CascadeSettings)

    def __post_init__(self):
        bounds = (
            ("side", 32, 512),
            ("rate", 4, 240),
            ("unlike", -1, 1),
            ("dip", 0, 1),
            ("followed", 0, 1),
            ("moved", 0, 1),
            ("uneven", 0, 10),
            ("explained", 0, 1),
            ("explained_moving", 0, 1),
            ("flash", 0, 2),
        )
        for name, low, high in bounds:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not within {low}..{high}")
        if not (len(self.ramp) == 2 and 0 <= self.ramp[0] < self.ramp[1]):
            raise ValueError(f"ramp: {self.ramp!r} is not two rising shares")


@dataclasses.dataclass(frozen=True, order=True)
class Cut:
    """The end of a shot.

    Attributes:
      time: display time of the new shot's first picture (`hard`), or of the middle of the transition (`fade`).
      kind: `hard` or `fade`.
      strength: how different the shots are, 0 to 1.
      width: `fade`: seconds from the last picture of the old shot alone to the first of the new one alone; `hard`:
        seconds before `time` that show either shot, because not all pictures were compared.
    """

    time: float
    kind: str
    strength: float
    width: float = 0.0

    def __post_init__(self):
        for name, digits in (("time", 3), ("strength", 4), ("width", 3)):
            object.__setattr__(self, name, round(float(getattr(self, name)), digits))
        if self.kind not in (HARD, FADE):
            raise ValueError(f"kind: {self.kind!r} is neither {HARD} nor {FADE}")

    @property
    def start(self) -> float:
        """Second from which the pictures no longer belong to the old shot alone."""
        return round(self.time - (self.width if self.kind == HARD else self.width / 2), 3)

    @property
    def end(self) -> float:
        """Second from which the pictures belong to the new shot alone."""
        return self.time if self.kind == HARD else round(self.time + self.width / 2, 3)


def find_cuts(path: str | os.PathLike, settings: CutSettings) -> list[Cut]:
    """Finds the cuts of a video file.

    Args:
      path: a local file.
      settings: how.

    Returns:
      the cuts, in order of time, none inside another; a single picture has none.

    Raises:
      VideoError: the file cannot be read, holds no video or no picture, or is damaged.
      RunError: PySceneDetect or OpenCV is not installed.
    """
    judge, cascade = _Judge(settings), Cascade(settings.cascade)
    waiting: list[Candidate] = []
    for number, small in enumerate(small_pictures(path, settings.side, settings.rate)):
        shown = Shown(number, small.time, small.before, small.pixels)
        judge.film.append(shown)
        waiting += cascade.feed(number, small.time, small.pixels)
        waiting = judge.consider(waiting, small.time)
    judge.consider(waiting, math.inf)
    return judge.found()


@dataclasses.dataclass(frozen=True)
class _Fade:
    """A fade between two pictures, the last of the old shot and the first of the new one.

    Attributes:
      dip: its lowest share of the variance.
      period: of the pass that saw it.
      explained: how well the two explain the pictures between; 0 if that was not asked.
    """

    before: int
    after: int
    dip: float
    period: float
    cut: Cut
    explained: float = 0.0


class _Judge:
    """Decides about candidates, as soon as what comes after them has been seen.

    Attributes:
      film: the latest pictures, enough for the slowest pass.
    """

    def __init__(self, settings: CutSettings):
        self._settings = settings
        self._checker = Checker()
        self.film: list[Shown] = []
        self._hard: dict[int, Cut] = {}  # by the number of the new shot's first picture
        self._fades: list[_Fade] = []
        self._reach = 2.5 * max((1 / rate for rate in settings.cascade.rates), default=0.0) + 1.0

    def consider(self, waiting: list[Candidate], now: float) -> list[Candidate]:
        """Judges the candidates whose surroundings are complete at `now`; returns the others."""
        left = []
        for candidate in sorted(waiting, key=lambda c: (c.period, c.last)):
            after = self._settings.flash + 0.2 + 2 * candidate.period  # hard cuts first: a fade ends at one
            if self._at(candidate.last).time + after > now:
                left.append(candidate)
            elif candidate.period:
                self._judge_fade(candidate)
            else:
                self._judge_hard(candidate)
        oldest = min((self._at(c.first).time for c in left), default=now)
        gone = bisect.bisect_left(self.film, min(oldest, now) - self._reach, key=_time)
        del self.film[: min(gone, len(self.film) - 2)]
        return left

    def found(self) -> list[Cut]:
        """All cuts: fades, and the hard cuts that are not part of one."""
        fades = _joined(_told_apart(self._fades))
        hard = [cut for number, cut in self._hard.items() if not any(f.before < number < f.after for f in fades)]
        return sorted([*hard, *(fade.cut for fade in fades)])

    def _at(self, number: int) -> Shown:
        return self.film[min(max(0, number - self.film[0].number), len(self.film) - 1)]

    def _judge_hard(self, candidate: Candidate) -> None:
        before, after = self._at(candidate.first), self._at(candidate.last)
        if before.is_flat or after.is_flat or self._is_faint(before, after):
            return  # through a plain colour: the passes for fades see what is on its other side
        same = self._checker.same(before, after)
        if same >= self._settings.unlike or not self._stands_out(before, after, same):
            return
        if self._is_flash(before, after):
            return
        width = after.before - before.time  # pictures between the two that were not compared
        time = math.floor(after.time * 1000 + 1e-6) / 1000
        self._hard[after.number] = Cut(time, HARD, 1 - max(same, 0.0), max(width, 0.0))

    def _is_faint(self, before: Shown, after: Shown) -> bool:
        """Whether both pictures have far less contrast than those around them: the middle of a fade."""
        earlier = self._shown_at(before.time - AROUND, self.film[0].number, before.number)
        later = self._shown_at(after.time + AROUND, after.number, self.film[-1].number)
        return all(near.contrast < FAINT * far.contrast for near, far in ((before, earlier), (after, later)))

    def _stands_out(self, before: Shown, after: Shown, same: float) -> bool:
        """Whether each of the two pictures resembles its other neighbour more: noise has no neighbour it resembles."""
        pairs = (self._at(before.number - 1), before), (after, self._at(after.number + 1))
        return all(a is b or self._checker.same(a, b) > same + STANDS_OUT for a, b in pairs)

    def _is_flash(self, before: Shown, after: Shown) -> bool:
        """Whether the old shot is there again after some pictures, or the new one was there some pictures before."""
        reach, alike = self._settings.flash, self._settings.unlike + 0.15
        later = (s for s in self._between(after.number + 1, self.film[-1].number + 1) if s.time <= after.time + reach)
        earlier = (s for s in self._between(0, before.number) if s.time >= before.time - reach)
        return any(self._checker.same(before, s) >= alike for s in later) or any(
            self._checker.same(s, after) >= alike for s in earlier
        )

    def _between(self, first: int, stop: int) -> Iterator[Shown]:
        start = self.film[0].number
        return iter(self.film[max(first - start, 0) : max(stop - start, 0)])

    def _judge_fade(self, candidate: Candidate) -> None:
        middles, period = list(self._between(candidate.first, candidate.last + 1)), candidate.period
        step = max(1, len(middles) // MIDDLES)
        triples = [(a, m, b) for m in middles[::step] for a, b in [self._around(m, period)] if a is not m is not b]
        dips = [self._checker.dip(*triple) for triple in triples]
        fade = self._unmixed(triples, dips, period)
        if fade is None:
            mixes = (self._checker.mixed(*t, dip, self._settings.dip) for t, dip in zip(triples, dips))
            dip, middle = min(zip(mixes, (m.number for _, m, _ in triples)), default=(1.0, 0))
            fade = self._measured(middle, period) if dip <= self._settings.dip else None
        if fade is not None:
            self._fades.append(fade)

    def _unmixed(self, triples: list[tuple[Shown, ...]], dips: list[float], period: float) -> "_Fade | None":
        """The dissolve that one of some pictures is in the middle of, if it shows: what each shot adds, and how."""
        bar = self._settings.explained
        clear = [(_clear(Layers(a, b), m, bar), m.number, Layers(a, b)) for a, m, b in triples]
        part, middle, layers = max(clear, key=lambda found: found[:2], default=(0.0, 0, None))
        if part >= PART:
            return self._dissolve(layers, middle, period, bar)
        lowest, (a, m, b) = min(zip(dips, triples), key=lambda found: found[0], default=(1.0, (None,) * 3))
        layers = self._moving(a, m, b) if MIXED[0] <= lowest <= MIXED[1] else None
        bar = self._settings.explained_moving
        if layers is None or _clear(layers, m, bar) < PART:
            return None
        return self._dissolve(layers, m.number, period, bar)

    def _moving(self, a: Shown, middle: Shown, b: Shown) -> Layers | None:
        """Two pictures as moving layers of one between them; None where they are not unlike."""
        if self._checker.same(a, b) >= self._settings.unlike - SURELY:
            return None
        (low, high), speeds = self._room(middle.number), []
        for step in STEPS:
            earlier, later = self._shown_at(a.time - step, low, high), self._shown_at(b.time + step, low, high)
            speeds.append(np.stack([self._checker.speed(earlier, a), self._checker.speed(b, later)]))
        return moving(a, middle, b, speeds)

    def _dissolve(self, layers: Layers, middle: int, period: float, bar: float) -> "_Fade | None":
        """The dissolve of two layers round one of its pictures, if the one goes as the other comes."""
        m, a, b = self._at(middle), layers.first, layers.second
        outside = [layers.mix(shown) for shown in self._around(m, 1.5 * period)]
        if outside[0].second < OUTSIDE or outside[1].first < OUTSIDE:
            return None  # the mix goes on: a slower pass sees all of it
        mixes = {s.number: layers.mix(s) for s in self._between(a.number, b.number + 1)}
        if min(mixes[a.number].explained, mixes[b.number].explained) < bar:
            return None  # what the one layer would show is out of the frame, or nothing
        first = max(n for n, mix in mixes.items() if n == a.number or (n < middle and mix.share <= EDGE))
        last = min(n for n, mix in mixes.items() if n == b.number or (n > middle and mix.share >= 1 - EDGE))
        inside = [mixes[first + (last - first) * k // 4] for k in (1, 2, 3)]
        rising = inside[0].share < inside[1].share < inside[2].share
        explained = sum(mix.explained for mix in inside) / 3
        before, after = self._at(first), self._at(last)
        same = self._checker.same(a, b)
        if not rising or explained < bar or same >= self._settings.unlike - SURELY:
            return None
        width = (1 + 2 * EDGE) * (after.time - before.time)
        cut = Cut((before.time + after.time) / 2, FADE, 1 - max(same, 0.0), width)
        return _Fade(first, last, self._checker.dip(before, m, after), period, cut, explained)

    def _around(self, middle: Shown, period: float) -> tuple[Shown, Shown]:
        """The pictures a period before and after one, or the farthest that no hard cut divides from it."""
        low, high = self._room(middle.number)
        return self._shown_at(middle.time - period, low, high), self._shown_at(middle.time + period, low, high)

    def _room(self, middle: int) -> tuple[int, int]:
        """Numbers of the first and last picture around one that no hard cut divides from it."""
        low = max((n for n in self._hard if n <= middle), default=0)
        high = min((n - 1 for n in self._hard if n > middle), default=self.film[-1].number)
        return max(low, self.film[0].number), high

    def _is_motion(self, first: int, middle: int, last: int) -> bool:
        """Whether what the middle picture shows is in the first and the last one as well, and no fainter there."""
        sides = (list(self._between(first, middle + 1))[::-1], list(self._between(middle, last + 1)))
        (before, share_before), (after, share_after) = (self._checker.followed(side) for side in sides)
        same = min(before, after) >= self._settings.followed
        return same or math.sqrt(share_before * share_after) > self._settings.moved

    def _shown_at(self, time: float, low: int, high: int) -> Shown:
        """The picture of those numbers that is nearest in time."""
        start = self.film[0].number
        low, high = max(low - start, 0), min(high - start, len(self.film) - 1)
        after = bisect.bisect_left(self.film, time, low, high, key=_time)
        before = max(after - 1, low)
        return min(self.film[before], self.film[after], key=lambda shown: abs(shown.time - time))

    def _measured(self, middle: int, period: float) -> "_Fade | None":
        """The fade around a picture, if there is one: the pictures just outside of it, and the cut."""
        m, (low, high) = self._at(middle), self._room(middle)
        a = self._shown_at(m.time - 1.25 * period, low, middle - 1)
        b = self._shown_at(m.time + 1.25 * period, middle + 1, high)
        profile = {s.number: self._checker.dip(a, s, b) for s in self._between(a.number, b.number + 1)}
        first = _edge(profile, middle, -1)
        last = _edge(profile, middle, +1)
        if first == middle or last == middle:
            return None
        inside = [profile[n] for n in range(first, last + 1)]
        top = (profile[first] + profile[last]) / 2
        lowest = min(inside)
        ramp = (sum(inside) / len(inside) - lowest) / max(top - lowest, 1e-6)
        before, after = self._at(first), self._at(last)
        least, most = self._settings.ramp
        if ramp > most or (ramp < least and not m.is_flat):
            return None
        same = max(
            self._checker.same(s, t) for s in self._between(first - 1, first + 1) for t in (after, self._at(last + 1))
        )
        width = (1 + 2 * EDGE) * (after.time - before.time)
        mixed = lowest >= GONE or (width > LONG and not m.is_flat)  # else nothing is left, evenly or not
        uneven = mixed and self._checker.unevenness(before, m, after) > self._settings.uneven
        if same >= self._settings.unlike or uneven or self._is_motion(first, middle, last):
            return None
        cut = Cut((before.time + after.time) / 2, FADE, 1 - max(same, 0.0), width)
        return _Fade(first, last, lowest, period, cut)


def _clear(layers: Layers, middle: Shown, bar: float) -> float:
    """The smaller part that one of two layers has of a picture; 0 if they explain less than `bar` of it."""
    mix = layers.mix(middle)
    return min(mix.first, mix.second) if mix.explained >= bar else 0.0


def _told_apart(fades: list[_Fade]) -> list[_Fade]:
    """Of fades that overlap the one that is explained best, or that a fast pass saw.

    But one that a slower pass saw, and nothing else, better.
    """
    kept: list[_Fade] = []
    for fade in sorted(fades, key=lambda f: (-f.explained, f.period, f.dip, f.before)):
        others = [other for other in kept if fade.before < other.after and other.before < fade.after]
        if not others:
            kept.append(fade)
        elif (
            len(others) == 1
            and not others[0].explained
            and fade.dip < others[0].dip - 0.05
            and fade.period > others[0].period
        ):
            kept[kept.index(others[0])] = fade
    return kept


def _joined(fades: list[_Fade]) -> list[_Fade]:
    """One dissolve for those of which one begins where another ends: fast passes saw parts of it."""
    joined: list[_Fade] = []
    for fade in sorted(fades, key=lambda f: f.before):
        if joined and fade.explained and joined[-1].explained and fade.cut.start <= joined[-1].cut.end:
            last = joined.pop()
            start, end = min(last.cut.start, fade.cut.start), max(last.cut.end, fade.cut.end)
            cut = Cut((start + end) / 2, FADE, max(last.cut.strength, fade.cut.strength), end - start)
            fade = dataclasses.replace(fade, before=last.before, after=max(last.after, fade.after), cut=cut)
        joined.append(fade)
    return joined


def _edge(profile: dict[int, float], middle: int, step: int) -> int:
    """The number of the first picture outside of a fade, from its middle in one direction."""
    numbers = range(middle, max(profile) + 1) if step > 0 else range(middle, min(profile) - 1, -1)
    top = max(profile[n] for n in numbers)
    bar = profile[middle] + RISE * (top - profile[middle])
    return next(n for n in numbers if profile[n] >= bar)
