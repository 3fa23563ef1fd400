"""Candidates for cuts: PySceneDetect's detectors at several rates and thresholds on one stream of pictures.

At the full rate a hard cut is a jump of the content score (mean change of hue, saturation and brightness from one
picture to the next): above a fixed threshold, or above a multiple of its neighbours.  At 4, 2, 1 and 0.5 pictures a
second a slow fade is such a jump as well (2311.15127, appendix C).  Thresholds are low, for motion, flashes and flicker
are told from cuts by `cut_checks`: here nothing may be missed.
"""

import dataclasses
from typing import Any

import numpy as np

from vdm_jax.errors import RunError

STEP = 2  # every second pixel of every second row gives the same mean change
WINDOW = 2  # pictures on either side that a jump is held against


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A place where the content jumps.

    Attributes:
      first, last: numbers of the two pictures between which it does.
      period: seconds from one compared picture to the next; 0 at the full rate.
    """

    first: int
    last: int
    period: float = 0.0


@dataclasses.dataclass(frozen=True)
class CascadeSettings:
    """Rates and thresholds.

    Attributes:
      jump: content score (0 to 255) of a hard cut by itself.
      ratio: times the mean of its neighbours that a hard cut exceeds, whatever its score,
      floor: if that is at least this.
      rates: pictures a second of the passes for fades.
      changes: content score that makes a candidate in each of them.
    """

    jump: float = 27.0
    ratio: float = 1.8
    floor: float = 6.0
    rates: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5)
    changes: tuple[float, ...] = (9.0, 9.0, 9.0, 9.0)

    def __post_init__(self):
        if len(self.rates) != len(self.changes):
            raise ValueError(f"changes: {len(self.changes)} thresholds for {len(self.rates)} rates")
        for name in ("jump", "ratio", "floor", *("rates", "changes")):
            values = getattr(self, name)
            if not all(value > 0 for value in (values if isinstance(values, tuple) else (values,))):
                raise ValueError(f"{name}: {values!r} is not positive")


class Cascade:
    """All passes over one video; feed it every picture in order."""

    def __init__(self, settings: CascadeSettings):
        detectors, common = _scenedetect()
        self._full = _full_rate(detectors, settings)
        self._slow = [
            _SlowPass(rate, detectors.ContentDetector(threshold=change, min_scene_len=0))
            for rate, change in zip(settings.rates, settings.changes)
        ]
        self._code = common.FrameTimecode

    def feed(self, number: int, seconds: float, pixels: np.ndarray) -> list[Candidate]:
        """Takes picture `number` (BGR uint8 [h, w, 3]) and returns the candidates that it completes."""
        code = self._code(number, 1000.0)  # only the number is read; times are ours
        pixels = np.ascontiguousarray(pixels[::STEP, ::STEP])
        jumps = {found.frame_num for found in self._full.process_frame(code, pixels)}
        found = [Candidate(jump - 1, jump) for jump in sorted(jumps) if jump > 0]
        for slow in self._slow:
            if slow.due(seconds):
                if slow.detector.process_frame(code, pixels) and slow.last is not None:
                    found.append(Candidate(slow.last, number, slow.period))
                slow.last = number
        return found


def jumps(video: np.ndarray, settings: CascadeSettings) -> list[int]:
    """Where a clip in memory jumps from one picture to the next, in the pass at the full rate.

    What is a jump is told from the two pictures on either side, which the ends of a clip have not; there it is played
    backwards for as long.

    Args:
      video: RGB uint8 [T, H, W, 3].
      settings: of the cascade; its slow passes are left out.

    Returns:
      the numbers of the pictures that follow a jump, rising.
    """
    cascade = Cascade(dataclasses.replace(settings, rates=(), changes=()))
    before = min(WINDOW + 1, len(video) - 1)  # the first picture of all has no change
    turned = [*video[before:0:-1], *video, *video[-2 : -WINDOW - 2 : -1]]
    found = [c.last - before for k, frame in enumerate(turned) for c in cascade.feed(k, float(k), frame[..., ::-1])]
    return sorted({place for place in found if 0 < place < len(video)})


class _SlowPass:
    """Which pictures a detector at a lower rate sees.

    Attributes:
      period: seconds between them.
      last: number of the latest one.
    """

    def __init__(self, rate: float, detector: Any):
        self.period, self.detector = 1 / rate, detector
        self.last: int | None = None
        self._next = 0.0

    def due(self, seconds: float) -> bool:
        if seconds < self._next - 1e-3:
            return False
        self._next = max(self._next + self.period, seconds + self.period / 2)
        return True


def _full_rate(detectors: Any, settings: CascadeSettings) -> Any:
    """The detector by neighbours, which names what is above the fixed threshold too: both read one content score."""

    class Jumps(detectors.AdaptiveDetector):
        def process_frame(self, timecode: Any, frame_img: np.ndarray) -> list[Any]:
            found = super().process_frame(timecode, frame_img)
            return [*found, timecode] if self._frame_score >= settings.jump else found

    return Jumps(
        adaptive_threshold=settings.ratio, min_scene_len=0, window_width=WINDOW, min_content_val=settings.floor
    )


def _scenedetect() -> tuple[Any, Any]:
    try:
        from scenedetect import common, detectors
    except ImportError:
        raise RunError("finding cuts needs PySceneDetect: pip install 'vdm_jax[curate]'") from None
    return detectors, common
