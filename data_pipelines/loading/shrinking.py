"""Smaller pictures by the means of whole blocks of pixels."""

from collections.abc import Sequence

import numpy as np


def shrink(video: np.ndarray, factor: int) -> np.ndarray:
    """`uint8 [T, H, W, 3] -> [T, H / factor, W / factor, 3]`: means of `factor x factor` pixels, rounded."""
    if factor == 1:
        return video
    t, h, w, c = video.shape
    small = np.empty((t, h // factor, w // factor, c), np.uint8)
    dtype = np.uint16 if factor <= 16 else np.uint32  # holds the sum of a block
    for frame, into in zip(video, small):  # rows, then columns of the few that remain: ten times as fast as sum((1, 3))
        rows = frame.reshape(h // factor, factor, w, c)
        sums = _summed([rows[:, k] for k in range(factor)], dtype).reshape(h // factor, w // factor, factor, c)
        sums = _summed([sums[:, :, k] for k in range(factor)], dtype)
        into[...] = (sums + dtype(factor * factor // 2)) // dtype(factor * factor)
    return small


def averaged(video: np.ndarray, factor: int) -> np.ndarray:
    """The same means, not rounded: any numbers `[..., H, W, C]` to float32 `[..., H / factor, W / factor, C]`."""
    *lead, h, w, c = video.shape
    return video.reshape(*lead, h // factor, factor, w // factor, factor, c).mean((-4, -2), dtype=np.float32)


def _summed(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    total = parts[0].astype(dtype)
    for part in parts[1:]:
        total += part
    return total
