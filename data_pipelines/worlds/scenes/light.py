"""Light, motion and focus of the frames of `scenes`, told from their pixels alone.

A frame is blank if it is nearly all white, or much darker than others: the middle of a fade, or a flash.  It stands
still if what differs from the frame before, once the best gain and offset are taken off, is as little as noise leaves.

Shape legend: T frames, H height, W width.  `picture` is bool [T, H, W], the pixels inside bars and beside writing.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from data_pipelines.worlds.drawing.pictures import luminance

WASHED = 0.29  # range of a frame's values, of its brightest: less is the middle of a fade to white, or a flash
UNLIT = 0.45  # of the usual brightest: less is the middle of a fade to black
WHOLE = 0.85  # of that range, or of that brightness, around: a frame with less belongs to the fade
DARK, CLIPPED = 42.0, 0.3
MOST_EXPOSED = 8.0  # factor on the brightness
FLICKER = 0.1  # of the logarithm of the mean, between neighbours
SHARP, GRAIN = 0.2, 0.6  # detail of a pixel: relative to coarser, and that of the sensor, in levels
STILL, RANDOM = 1.6, 3.1  # what stands still differs by fewer levels, or by no more than noise of any strength
UNLIKE = 0.25  # of a picture's variance: where more differs, the two have nothing in common
LEAST_SEEN = 0.08  # of the frame: less does not tell whether it stands still
FLAT = 4.0  # levels of deviation: a picture with less, as in a fade, tells neither
REFOCUSED = 1.5  # ratio of the sharpness of neighbours: the picture is another, but what it shows may stand still
PERSISTENT = 0.3  # of the frames


@dataclasses.dataclass(frozen=True)
class Light:
    """Brightness of the frames.

    Attributes:
      brightest, range: float [T], of the luminance of the picture; the latter relative to the former.
      clipped: float [T], share of the picture that is saturated in a channel.
      flash: bool [T].
      blank: spans of frames that are nearly black or white, and no flash.
      defects: those that are told by it.
    """

    brightest: np.ndarray
    range: np.ndarray
    clipped: np.ndarray
    flash: np.ndarray
    blank: tuple[tuple[int, int], ...]
    defects: frozenset[str]


def exposure(video: np.ndarray, luma: np.ndarray, picture: np.ndarray) -> Light:
    """Reads under- and over-exposure, flashes, flicker and fades off the pixels `picture`, bool [T, H, W]."""
    masked = np.where(picture, luma, np.nan)
    masked[~picture.any((1, 2))] = 0
    mean, high = np.nanmean(masked, (1, 2)), np.nanquantile(masked, 0.97, axis=(1, 2))
    low = np.nanquantile(np.where(np.isnan(masked), np.nan, video.min(-1)), 0.005, axis=(1, 2))
    spread = 1 - low / np.maximum(high, 1)
    clipped = (picture & (video.max(-1) >= 250)).sum((1, 2)) / np.maximum(picture.sum((1, 2)), 1)
    flash = np.zeros(len(mean), bool)
    blanks = []
    for start, stop in spans((spread < WASHED) | (high < UNLIT * _usual(high))):
        before, after = spread[max(0, start - 3) : start], spread[stop : stop + 3]
        whole = [side[k] > WHOLE * side.max() for side, k in ((before, -1), (after, 0)) if len(side)]
        if stop - start <= 2 and spread[start:stop].max() < WASHED and all(whole):
            flash[start:stop] = True
        else:
            blanks.append((start, stop))
    found = {"flash"} if flash.any() else set()
    if (mean < DARK).mean() > PERSISTENT:
        found.add("dark")
    over, steps = clipped, np.diff(np.log(np.maximum(mean, 1)))
    turns = (steps[1:] * steps[:-1] < 0) & (np.minimum(np.abs(steps[1:]), np.abs(steps[:-1])) > FLICKER)
    if len(turns) and turns.mean() > 0.8 * PERSISTENT:
        found.add("flicker")
        over = 0.5 * (clipped[1:] + clipped[:-1])  # every other frame is brighter than it would be
    if (over > CLIPPED).mean() > PERSISTENT:
        found.add("bright")
    return Light(high, spread, clipped, flash, tuple(blanks), frozenset(found))


def exposed_alike(pair: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Luminance, float32 [2, H, W], of two frames of which the dimmer is exposed until its mean is the other's.

    Args:
      pair: uint8 [2, H, W, 3].
      picture: bool [2, H, W], what of them counts.
    """
    values, both = pair.astype(np.float32), picture.all(0)
    dim, bright = np.argsort([frame[both].sum() for frame in values], kind="stable")
    low, high = 1.0, MOST_EXPOSED
    wanted, shown = values[bright][both].mean() if both.any() else 0.0, values[dim][both]
    for _ in range(8):  # the mean rises with the exposure
        factor = 0.5 * (low + high)
        low, high = (factor, high) if both.any() and np.minimum(factor * shown, 255).mean() < wanted else (low, factor)
    values[dim] = np.minimum(low * values[dim], 255)
    return luminance(values)


def _usual(values: np.ndarray) -> np.ndarray:
    """What most frames within half a second or so have, at most; [T]."""
    return np.array([np.quantile(values[max(0, k - 12) : k + 13], 0.7) for k in range(len(values))])


def stillness(
    luma: np.ndarray, picture: np.ndarray, channels: Sequence[tuple[np.ndarray, np.ndarray]] = ()
) -> np.ndarray:
    """Frames that show what the one before showed, whatever their brightness: bool [T].

    Args:
      luma: float32 [T, H, W].
      picture: bool [T, H, W], what of it is no writing and not saturated.
      channels: single ones, no noisier, and what of them is not saturated, in the same form.  They tell where too
        little of the picture is unsaturated in all of them, as in what is over-exposed; all that tell must agree.
    """
    still = np.zeros(len(luma), bool)
    for k in range(1, len(luma)):
        told = _same(luma[k - 1 : k + 1], picture[k - 1 : k + 1])
        if told is None:
            verdicts = [_same(values[k - 1 : k + 1], seen[k - 1 : k + 1]) for values, seen in channels]
            verdicts = [verdict for verdict in verdicts if verdict is not None]
            told = bool(verdicts) and all(verdicts)
        still[k] = told
    return still


def _same(pair: np.ndarray, picture: np.ndarray) -> bool | None:
    """Whether two frames `[2, H, W]` show the same; None if that cannot be told from what is seen of both.

    The brighter of two frames is compared with the darker one, for a gain above 1 would enlarge the noise.  Means of
    3 x 3 pixels of what differs are small; or, where the sensor is noisy, as small as means of independent values are.
    Pictures that are noise themselves have nothing in common.
    """
    both = picture.all(0)
    cells = ndimage.minimum_filter(both, 3)
    if cells.sum() < LEAST_SEEN * both.size:
        return None
    dim, lit = sorted(pair, key=lambda frame: float(frame[both].std()))
    if dim[both].std() < FLAT:
        return None
    a, b = lit[both] - lit[both].mean(), dim[both] - dim[both].mean()
    gain = a @ b / max(float(a @ a), 1e-3)
    off = np.zeros_like(dim)
    off[both] = b - gain * a
    most = np.quantile(np.abs(ndimage.uniform_filter(off, 3)[cells]), 0.99)
    noise = np.median(np.abs(off[both])) / 0.6745 / 3  # deviation of such a mean, if nothing but noise differs
    alike = np.var(off[both]) < UNLIKE * np.var(b)
    return bool(most < STILL or (alike and most < RANDOM * noise))


def stands(still: np.ndarray, sharp: np.ndarray) -> bool:
    """Whether nothing moves in a whole clip: frames show what the one before did, or are only more or less sharp."""
    return bool((still | _refocused(sharp))[1:].all() and still[1:].mean() > 0.7)


def freezes(still: np.ndarray, sharp: np.ndarray) -> bool:
    """Whether the picture is held somewhere for three steps or more, of which one may change how sharp it is."""
    runs = spans(still | _refocused(sharp))
    return any(stop - start >= 3 and still[start:stop].sum() >= 2 for start, stop in runs)


def sharpness(luma: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Detail of the size of a pixel relative to that of some pixels, [T]; a median over the picture."""
    fine = np.abs(luma - ndimage.uniform_filter(luma, (0, 3, 3)))
    coarse = np.abs(ndimage.uniform_filter(luma, (0, 3, 3)) - ndimage.uniform_filter(luma, (0, 9, 9)))
    ratio = []
    for k in range(len(luma)):
        detail = max(float(np.median(fine[k][picture[k]])) - GRAIN, 0) if picture[k].any() else 0.0
        ratio.append(detail / max(float(np.median(coarse[k][picture[k]])), 1e-3) if picture[k].any() else 1.0)
    return np.array(ratio)


def _refocused(sharp: np.ndarray) -> np.ndarray:
    """Frames that are much more or less sharp than the one before: bool [T]."""
    changed = np.maximum(sharp[1:], sharp[:-1]) > REFOCUSED * np.minimum(sharp[1:], sharp[:-1])
    return np.concatenate([[False], changed])


def spans(where: np.ndarray) -> list[tuple[int, int]]:
    """Spans of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], where, [False]]).astype(int)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2])]
