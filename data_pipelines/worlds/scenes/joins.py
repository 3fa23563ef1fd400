"""Reads how the shots of `scenes` are joined off the pixels of a clip: cuts, dissolves and fades.

Frames 1, 2, 4, 8 and 16 apart are matched block by block (`matching`).  A step between neighbours over which nothing is
found again is a cut; frames farther apart without a link are in a dissolve if the contrast dips there as that of a
mixture does, `sqrt(a^2 + b^2)` of what either shot has at shares a + b = 1.  Blank frames (`light`) make a fade.  What
is clipped in one of two frames is found again only once the other is exposed alike.  A weak link that stands alone,
that longer ones span, or that was sought from a place nobody knows, breaks nothing.

Shape legend: T frames, H height, W width.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from data_pipelines.worlds.scenes import matching
from data_pipelines.worlds.scenes.light import WHOLE, Light, exposed_alike
from data_pipelines.worlds.scenes.matching import Match

FOUND_AGAIN = 0.7  # correlation of a block that is found again
DOUBTFUL = 0.5  # of few blocks so many may be found by chance: a cut, if all is found on either side
LINKED = {1: 0.4, 2: 0.2, 4: 0.2, 8: 0.16, 16: 0.1}  # share of the blocks of a shot that are, so many frames later
ONE_SHOT = 0.35  # share of the blocks that two shots hardly have in common by chance: no dissolve is between
BESIDE_A_CUT = (0.4, 1.2)  # share on either side of a cut, and more for each share over it; a dissolve has less
NEAR = {"dissolve": 3, "fade": 0}  # frames between two parts of one, at most
LEAST_BLOCKS, UNTOLD = 10, 0.3  # fewer tell nothing; what of the steps has fewer, at most, in a clip that is told
UNLIKE_EXPOSED = 0.15  # of the frame, by which more is clipped in one frame than in another
DIP = 0.88  # of the detail before and after: a mixture of two shots has less


@dataclasses.dataclass(frozen=True)
class Found:
    """A transition that was read: kind as in `labels.TRANSITIONS`, frames `start <= k < stop` (a cut: none)."""

    kind: str
    start: int
    stop: int


def shots(video: np.ndarray, luma: np.ndarray, picture: np.ndarray, light: Light) -> tuple[Found, ...] | None:
    """Reads cuts, dissolves and fades; None where bars and writing leave too little of the picture to tell.

    Args:
      video: uint8 [T, H, W, 3].
      luma: float32 [T, H, W], its luminance.
      picture: bool [T, H, W], what is neither bars nor writing.
      light: of the clip.
    """
    fades = _joined([Found("fade", *_widened(light, *span)) for span in light.blank])
    kept = ~light.flash
    for fade in fades:
        kept[fade.start : fade.stop] = False
    frames = np.flatnonzero(kept)
    if len(frames) < 2:
        return tuple(fades)
    usable = matching.usable(picture[frames])
    detail = matching.detail(luma[frames], usable)
    both = np.logical_and(usable[1:], usable[:-1])
    if np.mean([len(matching.corners(fits)) < LEAST_BLOCKS for fits in both]) > UNTOLD:
        return None
    taken = np.zeros(len(luma) + 1, bool)
    for fade in fades:
        taken[max(0, fade.start - 1) : fade.stop + 1] = True
    clipped = light.clipped[frames]

    def pair(k: int, j: int) -> tuple[np.ndarray, np.ndarray]:
        if abs(clipped[k] - clipped[j]) < UNLIKE_EXPOSED:
            return detail[k], detail[j]
        alike = exposed_alike(video[frames[[k, j]]], picture[frames[[k, j]]])
        return tuple(matching.detail(alike, usable[[k, j]]))

    found = _joined([*fades, *_breaks(links(pair, usable), frames, taken)])
    level = [np.mean(luma[k][picture[k]]) if picture[k].any() else 0.0 for k in frames]
    contrast = [np.std(d[u]) / max(mean, 1.0) if u.any() else 0.0 for d, u, mean in zip(detail, usable, level)]
    contrast = np.interp(np.arange(len(luma)), frames, contrast)
    edges = [(0, 0), *((f.start, f.stop) for f in found), (len(luma), len(luma))]
    between = [(before[1], after[0]) for before, after in zip(edges, edges[2:])]
    told = []
    for f, span in zip(found, between):
        if f.kind == "cut" and _mixed(contrast, f.start, span):
            told.append(Found("dissolve", f.start - 1, f.start + 1))
        elif f.kind != "dissolve" or _dips(contrast, f, span):
            told.append(f)
        elif f.start == f.stop:  # a single step, and no mixture
            told.append(Found("cut", f.start, f.stop))
    return tuple(told)


def _breaks(again: dict[int, np.ndarray], frames: np.ndarray, taken: np.ndarray) -> list[Found]:
    """Where links break: between neighbours that have good ones beside them it is a cut, else a dissolve.

    Args:
      again: see `links`, between the frames of those numbers.
      frames: rising.
      taken: bool [T + 1], steps into frames that need no other explanation; those explained here are added.
    """
    found = []
    shares = again | {1: _over(again, frames)}
    for lag, least in LINKED.items():
        for k in np.argsort(shares[lag], kind="stable"):
            if shares[lag][k] >= (DOUBTFUL if lag == 1 else least):
                break
            first, last = int(frames[k]), int(frames[k + lag])
            if taken[first + 1 : last + 1].any():
                continue
            beside = [again[lag][j] for j in (k - 1, k + 1) if 0 <= j < len(again[lag])]
            sharp = lag == 1 and min(beside, default=1.0) > BESIDE_A_CUT[0] + BESIDE_A_CUT[1] * shares[lag][k]
            alone = lag > 1 and min(beside, default=0.0) >= least  # a mixture of some frames breaks more than one
            if not sharp and (shares[lag][k] >= least or alone or _beyond(again, int(k), lag) > ONE_SHOT):
                continue
            taken[first + 1 : last + 1] = True
            found.append(Found("cut", last, last) if sharp else Found("dissolve", first + 1, last))
    return found


def _beyond(again: dict[int, np.ndarray], k: int, lag: int) -> float:
    """The best of the longer links that lead from frame k or before to frame k + lag or after."""
    longer = {more: shares for more, shares in again.items() if more > lag}
    over = [shares[max(0, k + lag - more) : k + 1] for more, shares in longer.items()]
    shares = np.concatenate([[0.0], *over])
    return float(shares[np.isfinite(shares)].max())


def _over(again: dict[int, np.ndarray], frames: np.ndarray) -> np.ndarray:
    """The best link over each step between neighbours: where frames beyond it are linked, it is no cut.

    Over a flash, neighbours are farther apart than is sought at once, and longer links count as well.
    """
    best, flash = again[1].copy(), np.diff(frames) > 1
    for lag in (2, 4):
        for first in np.flatnonzero(np.isfinite(again[lag])):
            steps = np.arange(first, first + lag)
            steps = steps if lag == 2 else steps[flash[steps]]
            best[steps] = np.maximum(best[steps], again[lag][first])
    return best


def _joined(found: list[Found]) -> list[Found]:
    """In order, with the parts of one dissolve, and of one fade, as one."""
    joined: list[Found] = []
    for f in sorted(found, key=lambda f: f.start):
        if joined and f.kind == joined[-1].kind and f.start - joined[-1].stop <= NEAR.get(f.kind, -1):
            joined[-1] = Found(f.kind, joined[-1].start, max(f.stop, joined[-1].stop))
        else:
            joined.append(f)
    return joined


def _dips(contrast: np.ndarray, found: Found, between: tuple[int, int]) -> bool:
    """Whether the contrast [T] is less in the course of a dissolve than around it, as that of a mixture must be.

    What a fast camera loses out of sight breaks links as well.  `between` are the frames that belong to the two shots.
    """
    before = contrast[max(between[0], found.start - 8) : found.start]
    after = contrast[found.stop : min(between[1], found.stop + 8)]
    whole = [np.quantile(side, 0.8) for side in (before, after) if len(side)]
    inside = slice(max(between[0], found.start - 1), min(between[1], found.stop + 1))
    return not whole or bool(contrast[inside].min() < DIP * np.mean(whole))


def _mixed(contrast: np.ndarray, step: int, between: tuple[int, int]) -> bool:
    """Whether the frames on both sides of a step have less contrast than their shots, as those of a short dissolve."""
    before, after = contrast[max(between[0], step - 8) : step - 1], contrast[step + 1 : min(between[1], step + 8)]
    whole = [np.quantile(side, 0.8) for side in (before, after) if len(side)]
    return len(whole) == 2 and bool((contrast[step - 1 : step + 1] < DIP * np.array(whole)).all())


def _widened(light: Light, start: int, stop: int) -> tuple[int, int]:
    """The whole of a fade of which the frames `start <= k < stop` are nearly blank."""
    whole = light.brightest * light.range
    while start > 0 and whole[start - 1] < WHOLE * whole[max(0, start - 3) : start].max():
        start -= 1
    while stop < len(whole) and whole[stop] < WHOLE * whole[stop : stop + 3].max():
        stop += 1
    return start, stop


def links(pair: Callable[[int, int], tuple[np.ndarray, np.ndarray]], usable: np.ndarray) -> dict[int, np.ndarray]:
    """Lag -> share of the blocks of each frame that are found again so many frames later; infinite if untold.

    Args:
      pair: the details [H, W] of two frames.
      usable: bool [T, H, W], see `matching.match`.
    """
    shares, maps = {lag: np.ones(max(0, len(usable) - lag)) for lag in LINKED}, []
    for lag, share in shares.items():
        now = []
        for k in range(len(share)):
            both = *pair(k, k + lag), usable[[k, k + lag]]
            start = np.eye(3) if lag == 1 else maps[k + lag // 2] @ maps[k]
            found, start = _link(*both, start)
            if lag == 1 and _share(found) < LINKED[1]:  # perhaps it moved farther than is sought
                far, there = _link(*both, matching.shift(*both[:2]))
                if len(far.correlation) >= LEAST_BLOCKS and _share(far) > _share(found):
                    found, start = far, there
            now.append(start)
            share[k] = _share(found)
            halves = shares[lag // 2][[k, k + lag // 2]] if lag > 1 else np.zeros(1)
            if share[k] < LINKED[lag] and not np.isfinite(halves).all():
                share[k] = np.inf  # it was sought where nobody knows
        maps = now
    return shares


def _link(first: np.ndarray, second: np.ndarray, usable: np.ndarray, start: np.ndarray) -> tuple[Match, np.ndarray]:
    """The blocks of one frame in another, and the map [3, 3] between them, better than `start` if that can be had."""
    matched = matching.match(first, second, usable, start[:2])
    fitted, follow = matching.camera(matched)
    if follow <= 0.3:
        return matched, start
    start = np.vstack([fitted, (0, 0, 1)])
    return matching.match(first, second, usable, start[:2]), start


def _share(matched: Match) -> float:
    if len(matched.correlation) < LEAST_BLOCKS:
        return np.inf
    return float((matched.correlation > FOUND_AGAIN).mean())
