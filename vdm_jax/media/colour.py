"""Colours of a clip brought to those of one of its frames, by matching histograms.

    y = Q_frame(F(x)),    F the distribution function of a channel of a frame, Q the quantile function of the chosen one

Image-to-video models drift in colour away from the picture that they were given; I2V-Adapter's release (2312.16693)
sets it right so.
"""

import numpy as np


def match_colours(video: np.ndarray, frame: int = 0) -> np.ndarray:
    """Gives every channel of every frame the histogram that it has in one frame.

    Args:
      video: uint8 `[T, H, W, C]`.
      frame: the one that says what colours are right.

    Returns:
      uint8 like `video`; that frame is as it was.

    Raises:
      ValueError: another dtype or rank, or a frame that is not there.
    """
    if video.dtype != np.uint8 or video.ndim != 4:
        raise ValueError(f"video: {video.dtype} {video.shape} must be uint8 [T, H, W, C]")
    if not 0 <= frame < len(video):
        raise ValueError(f"frame: {frame} is not in a clip of {len(video)} frames (0 to {len(video) - 1})")
    out = np.empty_like(video)
    for channel in range(video.shape[-1]):
        wanted = _shares(video[frame, ..., channel])
        for index, picture in enumerate(video[..., channel]):
            out[index, ..., channel] = _table(_shares(picture), wanted)[picture]
    out[frame] = video[frame]
    return out


def _shares(picture: np.ndarray) -> np.ndarray:
    """Share of pixels up to each of the 256 values."""
    return np.cumsum(np.bincount(picture.ravel(), minlength=256)) / picture.size


def _table(have: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """What each of the 256 values becomes; between values that are there, quantiles are interpolated."""
    there = np.flatnonzero(np.diff(wanted, prepend=0.0))
    return np.rint(np.interp(have, wanted[there], there)).astype(np.uint8)
