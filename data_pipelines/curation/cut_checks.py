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

That a picture is a sum of two others, even moving ones, is seen by `cut_layers`.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from data_pipelines.curation.scores.opencv import import_opencv

BOX = 12  # pixels of the boxes in which structure is compared, at 64 pixels of the shorter side
STEP, FINE = 2, 2  # pixels from one box to the next, and from one place of a mix to the next: neighbours say the same
BLACK = 24  # of bars, at most, of 255
LIT = 0.2  # share of a line's pixels that are brighter, where it is no bar
LEAST_VARIANCE = 6.0  # of a box with structure
NOISE = 4.0  # variance that says nothing: `c` above
DIMMED, SMOOTH = 0.6, 1.5  # pictures whose brightness differs so much are graded and smoothed (pixels) first
SEEN = 0.4  # share of a picture that is left to compare, at least
GONE = 0.1  # share of the variance below which a picture is gone, faded to a plain colour
PLAINER = 1.25  # times the variance of the plainer of two scenes: less than that a mix has
COARSE = 27  # pixels of the boxes whose means say nothing about a mix
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
    def boxes(self) -> np.ndarray:
        """The variance in every `STEP`-th box, float32 [h / STEP, w / STEP]."""
        return np.ascontiguousarray(self.variance[::STEP, ::STEP])

    @functools.cached_property
    def band(self) -> np.ndarray:
        """Luma without its finest and coarsest structure, every `FINE`-th pixel, float32 [h / FINE, w / FINE]."""
        cv2 = import_opencv()
        gray = self.gray.astype(np.float32)
        band = cv2.GaussianBlur(gray, (0, 0), SMOOTH) - cv2.boxFilter(gray, -1, (COARSE, COARSE))
        return np.ascontiguousarray(band[::FINE, ::FINE])

    @functools.cached_property
    def contrast(self) -> float:
        """Variance in the middling box: writing over a plain picture does not count."""
        return float(np.median(self.boxes[self.content[::STEP, ::STEP]]))

    @functools.cached_property
    def content(self) -> np.ndarray:
        """bool [h, w]: what is not within half a box of black bars, which would look alike in all pictures.

        All of it if that leaves nothing.
        """
        cv2 = import_opencv()
        inside, bright = np.ones(self.gray.shape, bool), (self.gray > BLACK).view(np.uint8)
        for axis, view in ((1, inside), (0, inside.T)):  # rows, then columns
            across = bright.shape[axis]
            lit = np.flatnonzero(cv2.reduce(bright, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() > LIT * across)
            if len(lit) > len(view) // 4:
                first, last = lit[0], lit[-1] + 1
                view[: first + BOX // 2 if first else 0] = False
                view[last - BOX // 2 if last < len(view) else last :] = False
        return inside if inside[::STEP, ::STEP].any() else np.ones_like(inside)

    @property
    def is_flat(self) -> bool:
        """Whether it is one plain colour, but for little."""
        return float((self.boxes > LEAST_VARIANCE)[self.content[::STEP, ::STEP]].mean()) < FLAT_SHARE


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
        where, first, second = in_both(a, b), a.gray, b.gray
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
            last, where = shown, seen & in_both(first, shown)
            moved, variance = (self._carried(picture, flow)[0] for picture in (shown.gray, shown.variance))
        structured = where & (variance > LEAST_VARIANCE)
        if last is first or np.count_nonzero(structured) < FLAT_SHARE * structured.size:
            return 0.0, 0.0
        share = float(np.median(first.variance[structured] / variance[structured]))
        return 0.0 if first.is_flat else _correlation(moved, first.gray, where), share

    def dip(self, a: Shown, m: Shown, b: Shown) -> float:
        """The variance of `m` as a share of the mean of those of `a` and `b`."""
        mean = (a.boxes + b.boxes) / 2
        structured = (mean > 2 * LEAST_VARIANCE) & in_both(a, b, STEP)
        if np.count_nonzero(structured) < FLAT_SHARE * structured.size:
            return 1.0
        return _middling(m.boxes[structured] / mean[structured])

    def mixed(self, a: Shown, m: Shown, b: Shown, dip: float, least: float) -> float:
        """Their `dip`, or 1 where no mix explains it but another gain, or that one scene is plainer than the other.

        From `least` on what explains it is not asked.
        """
        if dip >= least:
            return dip
        lower = np.minimum(a.boxes, b.boxes)
        structured = (lower > LEAST_VARIANCE) & in_both(a, b, STEP)
        if np.count_nonzero(structured) < FLAT_SHARE * structured.size:
            return 1.0
        share = _middling(m.boxes[structured] / lower[structured])
        if dip < GONE:
            return dip if share < 3 * GONE else 1.0
        darker = min(1.0, m.brightness / max(min(a.brightness, b.brightness), 1.0))
        return 1.0 if share > PLAINER else dip / max(darker**2, GONE)

    def unevenness(self, a: Shown, m: Shown, b: Shown) -> float:
        """Spread (between quartiles, of the logarithm) of what `dip` takes the median of; 0 where nothing is left."""
        mean = (a.boxes + b.boxes) / 2
        structured = (mean > 2 * LEAST_VARIANCE) & in_both(a, b, STEP)
        if not structured.any():
            return 0.0
        low, high = np.percentile(np.log((m.boxes[structured] + 1) / mean[structured]), (25, 75))
        return float(high - low)

    def speed(self, a: Shown, b: Shown) -> np.ndarray:
        """Displacement (x, y) of the middling place from picture a to b, pixels a second, float32 [2]; 0 at once."""
        if not a.time < b.time:
            return np.zeros(2, np.float32)
        flow = self._flow.calc(b.gray, a.gray, None)
        return -np.median(flow[::STEP, ::STEP].reshape(-1, 2), axis=0) / np.float32(b.time - a.time)

    def _carried(self, a: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Picture `a` carried along a flow (where each pixel comes from), and which pixels lay within it."""
        height, width = a.shape
        x = flow[..., 0] + np.arange(width, dtype=np.float32)
        y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
        moved = self._cv2.remap(a, x, y, self._cv2.INTER_LINEAR, borderMode=self._cv2.BORDER_REPLICATE)
        return moved, (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _middling(values: np.ndarray) -> float:
    """The median, or the larger of two."""
    middle = len(values) // 2
    return float(np.partition(values, middle)[middle])


def in_both(a: Shown, b: Shown, step: int = 1) -> np.ndarray:
    """Where neither picture has bars, every `step`-th pixel, bool [h / step, w / step].

    Everywhere if that leaves little, for then they are no bars.
    """
    both = a.content[::step, ::step] & b.content[::step, ::step]
    return both if np.count_nonzero(both) > SEEN * both.size else np.ones_like(both)


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
    where, covariance, var_a, var_b = (v[::STEP, ::STEP] for v in (where, covariance, var_a, var_b))
    structured = (np.maximum(var_a, var_b) > LEAST_VARIANCE) & where
    if np.count_nonzero(structured) < FLAT_SHARE * structured.size:
        return 0.0
    values = covariance[structured] / np.sqrt((var_a[structured] + NOISE) * (var_b[structured] + NOISE))
    return _middling(values)
