"""Where things are in clips of toy worlds, with no tracker: one bright thing in each channel of a black frame."""

import numpy as np


def bright_places(video: np.ndarray, pixel: float = 1.0, power: float = 2.0) -> np.ndarray:
    """The mean place of what is bright.

    Args:
      video: `[..., H, W, C]` in [-1, 1]; values outside are clipped.
      pixel: the side of one, in the unit of the result (latents have larger ones than clips).
      power: of its brightness, in [0, 1], that a pixel is weighed by: 1 is exact where pixels are means of
        smaller ones, 2 holds down what is faint.

    Returns:
      float32 `[..., C, 2]`, (x, y) from the upper left corner of the frame.
    """
    bright = np.clip((np.asarray(video, np.float32) + 1) / 2, 0, 1) ** power
    total = np.maximum(bright.sum((-3, -2)), 1e-6)
    ways = [np.moveaxis(bright.sum(axis), -2, -1) for axis in (-3, -2)]  # [..., C, W] and [..., C, H]
    at = [pixel * (np.arange(way.shape[-1], dtype=np.float32) + 0.5) for way in ways]
    return np.stack([way @ where / total for way, where in zip(ways, at)], -1)
