"""What tells a cut from motion, flashes and flicker: do two pictures show the same scene, and is one a mix of others.

Same scene.  Dense optical flow carries picture a to picture b; then their local structure is compared by normalised
correlation in boxes of a few pixels, which neither gain nor offset of the brightness changes,

    same(a, b) = median over boxes with structure of  cov(a', b) / sqrt((var a' + c) (var b + c)),      a' = a moved.

Within a shot neighbours score above 0.9, across a cut below 0.5, black bars and writing notwithstanding.

Mix.  Of two unrelated pictures the mix (1 - x) A + x B has the local variance (1 - x)^2 var A + x^2 var B, at x = 1/2
half of theirs; through black or white it falls to nothing.  Motion does not do that.  With A and B the pictures some
way before and after M,

    dip(M) = median over boxes of  var M / ((var A + var B) / 2).

Its profile over the pictures between A and B says where a fade begins and ends (x = 0.05 leaves 0.9), and that it is
one: a ramp, not a stretch of dark or blurred pictures with a step at both ends.  A mix takes structure away everywhere
alike; where things come close, leave or go out of focus, some boxes lose it and others gain, so that the spread of the
ratio over the boxes (`unevenness`) is several times that of a mix.

Where the shots stand still enough, the mix itself is seen: with a', m', b' the pictures without their finest and
coarsest structure, least squares give m' = p a' + q b', and

    explained = 1 - |m' - p a' - q b'|^2 / |m'|^2,      x = q / (p + q).

Motion explains a picture by one of the two or by neither, never by equal parts of two that are unlike.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from data_pipelines.curation.scores.opencv import import_opencv

BOX = 12  # pixels of the boxes in which structure is compared, at 64 pixels of the shorter side
BLACK = 24  # of bars, at most, of 255
LIT = 0.2  # share of a line's pixels that are brighter, where it is no bar
LEAST_VARIANCE = 6.0  # of a box with structure
NOISE = 4.0  # variance that says nothing: `c` above
DIMMED, SMOOTH = 0.6, 1.5  # pictures whose brightness differs so much are graded and smoothed (pixels) first
SEEN = 0.4  # share of a picture that is left to compare, at least
GONE = 0.1  # share of the variance below which a picture is gone, faded to a plain colour
PLAINER = 1.25  # times the variance of the plainer of two scenes: less than that a mix has
COARSE = 27  # pixels of the boxes whose means say nothing about a mix
UNRELATED = 0.8  # share of one picture's energy, at least, that the other does not explain
FLAT_SHARE = 0.05  # share of boxes with structure below which a picture is a plain colour


@dataclasses.dataclass(eq=False)
class Shown:
    """A picture as the checks see it.

    Attributes:
      number: its place among those compared.
      time, before: as in `small_pictures.Small`.
      pixels: BGR uint8 [h, w, 3].
    """

    number: int
    time: float
    before: float
    pixels: np.ndarray

    @functools.cached_property
    def gray(self) -> np.ndarray:
        """uint8 [h, w]."""
        cv2 = import_opencv()
        return cv2.cvtColor(self.pixels, cv2.COLOR_BGR2GRAY)

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """Of each channel, [3]."""
        return self.pixels.reshape(-1, 3).mean(0)

    @functools.cached_property
    def brightness(self) -> float:
        """Mean luma, 0 to 255."""
        return float(self.gray.mean())

    @functools.cached_property
    def variance(self) -> np.ndarray:
        """In the box round each pixel, float32 [h, w]."""
        return _moments(self.gray.astype(np.float32))[1]

    @functools.cached_property
    def band(self) -> np.ndarray:
        """Luma without its finest and coarsest structure, float32 [h, w]."""
        cv2 = import_opencv()
        gray = self.gray.astype(np.float32)
        return cv2.GaussianBlur(gray, (0, 0), SMOOTH) - cv2.boxFilter(gray, -1, (COARSE, COARSE))

    @functools.cached_property
    def contrast(self) -> float:
        """Variance in the middling box: writing over a plain picture does not count."""
        return float(np.median(self.variance[self.content]))

    @functools.cached_property
    def content(self) -> np.ndarray:
        """bool [h, w]: what is not within half a box of black bars, which would look alike in all pictures."""
        inside = np.ones(self.gray.shape, bool)
        for lines, view in ((self.gray, inside), (self.gray.T, inside.T)):  # rows, then columns
            lit = np.flatnonzero((lines > BLACK).mean(1) > LIT)
            if len(lit) > len(lines) // 4:
                first, last = lit[0], lit[-1] + 1
                view[: first + BOX // 2 if first else 0] = False
                view[last - BOX // 2 if last < len(lines) else last :] = False
        return inside

    @property
    def is_flat(self) -> bool:
        """Whether it is one plain colour, but for little."""
        return float((self.variance > LEAST_VARIANCE)[self.content].mean()) < FLAT_SHARE


@dataclasses.dataclass(frozen=True)
class Mix:
    """A picture as a sum of two others.

    Attributes:
      explained: share of its energy that the sum has.
      first, second: how much of each is in it.
    """

    explained: float
    first: float
    second: float

    @property
    def share(self) -> float:
        """Of the second in the sum; 0 where there is no sum."""
        return self.second / max(self.first + self.second, 1e-3)


class Checker:
    """The measures, with what they need of OpenCV."""

    def __init__(self):
        self._cv2 = import_opencv()
        self._flow = self._cv2.DISOpticalFlow_create(self._cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def same(self, a: Shown, b: Shown) -> float:
        """How surely two pictures show one scene, -1 to 1."""
        if a.is_flat or b.is_flat:
            alike = a.is_flat and b.is_flat and np.abs(a.mean - b.mean).max() < LEAST_VARIANCE
            return 1.0 if alike else 0.0
        where, first, second = _in_both(a, b), a.gray, b.gray
        if min(a.brightness, b.brightness) < DIMMED * max(a.brightness, b.brightness):
            first, second = (self._graded(gray, where) for gray in (first, second))
        moved = self._carried(first, self._flow.calc(second, first, None))[0]
        return max(_correlation(first, second, where), _correlation(moved, second, where))

    def _graded(self, gray: np.ndarray, where: np.ndarray) -> np.ndarray:
        """Smoothed, and brought to one brightness and contrast, which optical flow takes for granted."""
        smooth = self._cv2.GaussianBlur(gray.astype(np.float32), (0, 0), SMOOTH)
        mean, deviation = float(smooth[where].mean()), float(smooth[where].std())
        return np.clip(128 + (smooth - mean) * (48 / max(deviation, 1.0)), 0, 255).astype(np.uint8)

    def followed(self, pictures: Sequence[Shown]) -> tuple[float, float]:
        """Follows what the first of some pictures shows to the last of them, as long as enough of it is in the frame.

        Returns:
          how surely both show one scene, -1 to 1, and the variance of the first as a share of what it is there.
        """
        first, flow, last, where = pictures[0], None, pictures[0], pictures[0].content
        for shown in pictures[1:]:
            flow = self._flow.calc(first.gray, shown.gray, flow)
            _, seen = self._carried(shown.gray, flow)
            if seen.mean() < SEEN and last is not first:
                break
            last, where = shown, seen & _in_both(first, shown)
            moved, variance = (self._carried(picture, flow)[0] for picture in (shown.gray, shown.variance))
        structured = where & (variance > LEAST_VARIANCE)
        if last is first or structured.mean() < FLAT_SHARE:
            return 0.0, 0.0
        share = float(np.median(first.variance[structured] / variance[structured]))
        return 0.0 if first.is_flat else _correlation(moved, first.gray, where), share

    def dip(self, a: Shown, m: Shown, b: Shown) -> float:
        """The variance of `m` as a share of the mean of those of `a` and `b`."""
        mean = (a.variance + b.variance) / 2
        structured = (mean > 2 * LEAST_VARIANCE) & _in_both(a, b)
        if structured.mean() < FLAT_SHARE:
            return 1.0
        return float(np.median(m.variance[structured] / mean[structured]))

    def mixed(self, a: Shown, m: Shown, b: Shown, least: float) -> float:
        """`dip`, or 1 where no mix explains it but another gain, or that one scene is plainer than the other.

        From `least` on what explains it is not asked.
        """
        dip = self.dip(a, m, b)
        if dip >= least:
            return dip
        lower = np.minimum(a.variance, b.variance)
        structured = (lower > LEAST_VARIANCE) & _in_both(a, b)
        if structured.mean() < FLAT_SHARE:
            return 1.0
        share = float(np.median(m.variance[structured] / lower[structured]))
        if dip < GONE:
            return dip if share < 3 * GONE else 1.0
        darker = min(1.0, m.brightness / max(min(a.brightness, b.brightness), 1.0))
        return 1.0 if share > PLAINER else dip / max(darker**2, GONE)

    def unevenness(self, a: Shown, m: Shown, b: Shown) -> float:
        """Spread (between quartiles, of the logarithm) of what `dip` takes the median of; 0 where nothing is left."""
        mean = (a.variance + b.variance) / 2
        structured = (mean > 2 * LEAST_VARIANCE) & _in_both(a, b)
        if not structured.any():
            return 0.0
        low, high = np.percentile(np.log((m.variance[structured] + 1) / mean[structured]), (25, 75))
        return float(high - low)

    def unmixed(self, a: Shown, b: Shown, m: Shown) -> Mix:
        """How `m` is mixed of `a` and `b`, by least squares."""
        where = _in_both(a, b)
        first, middle, second = (shown.band[where] for shown in (a, m, b))
        aa, bb, ab = first @ first, second @ second, first @ second
        am, bm, mm = first @ middle, second @ middle, middle @ middle
        rest = aa * bb - ab * ab
        if not rest > UNRELATED * aa * bb or mm < where.sum():  # what both show explains all, or nothing does
            return Mix(0.0, 0.0, 0.0)
        p, q = (am * bb - bm * ab) / rest, (bm * aa - am * ab) / rest
        return Mix(float((p * am + q * bm) / mm), float(p), float(q))

    def _carried(self, a: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Picture `a` carried along a flow (where each pixel comes from), and which pixels lay within it."""
        height, width = a.shape
        x = flow[..., 0] + np.arange(width, dtype=np.float32)
        y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
        moved = self._cv2.remap(a, x, y, self._cv2.INTER_LINEAR, borderMode=self._cv2.BORDER_REPLICATE)
        return moved, (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _in_both(a: Shown, b: Shown) -> np.ndarray:
    """Where neither picture has bars, bool [h, w]; everywhere if that leaves little, for then they are no bars."""
    both = a.content & b.content
    return both if both.mean() > SEEN else np.ones_like(both)


def _moments(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance in the box round each pixel of float32 [h, w]."""
    cv2 = import_opencv()
    mean = cv2.boxFilter(gray, -1, (BOX, BOX))
    return mean, np.maximum(cv2.boxFilter(gray * gray, -1, (BOX, BOX)) - mean * mean, 0)


def _correlation(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    cv2 = import_opencv()
    a, b = a.astype(np.float32), b.astype(np.float32)
    (mean_a, var_a), (mean_b, var_b) = _moments(a), _moments(b)
    covariance = cv2.boxFilter(a * b, -1, (BOX, BOX)) - mean_a * mean_b
    structured = (np.maximum(var_a, var_b) > LEAST_VARIANCE) & where
    if structured.mean() < FLAT_SHARE:
        return 0.0
    values = covariance[structured] / np.sqrt((var_a[structured] + NOISE) * (var_b[structured] + NOISE))
    return float(np.median(values))
