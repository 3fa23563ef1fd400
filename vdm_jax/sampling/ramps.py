"""How strongly each frame is guided: scales `[T]` for `guided`.

    linear     from the first frame to the last                image-to-video: what is near the picture needs little
    triangle   up to the middle frame and down again           an orbit, which ends where it began
    trapezoid  up, level over the middle `flat` of it, down    the same, most frames at full strength

(arXiv 2311.15127 and its multi-view models.)  A constant scale drifts from the picture where it is small, and
oversaturates where it is large.  With `low == high` each of them is that constant.
"""

import numpy as np


def linear(low: float, high: float, frames: int) -> np.ndarray:
    """`[T]` float32, `low` at the first frame and `high` at the last; of one frame `low`."""
    return _between(low, high, _places(frames))


def triangle(low: float, high: float, frames: int) -> np.ndarray:
    """`[T]` float32, `low` at both ends and `high` in the middle; of an even T the two frames there share the most."""
    return trapezoid(low, high, frames, flat=0.0)


def trapezoid(low: float, high: float, frames: int, flat: float = 1 / 3) -> np.ndarray:
    """`[T]` float32, `low` at both ends and `high` over the middle `flat` of the clip.

    Raises:
      ValueError: `flat` outside [0, 1), less than one frame.
    """
    if not 0.0 <= flat < 1.0:
        raise ValueError(f"flat: {flat!r} must be 0 or more and below 1")
    from_end = 1.0 - np.abs(2.0 * _places(frames) - 1.0)  # 0 at both ends, 1 in the middle
    return _between(low, high, np.minimum(from_end / (1.0 - flat), 1.0))


def _places(frames: int) -> np.ndarray:
    if frames < 1:
        raise ValueError(f"frames: {frames!r} must be 1 or more")
    return np.linspace(0.0, 1.0, frames)


def _between(low: float, high: float, share: np.ndarray) -> np.ndarray:
    return np.float32(low + (high - low) * share)
