"""From the frames of one video to clips of one size: cover, crop, cut.

Resizing keeps the aspect ratio: the largest centred box of the target's proportions is taken from the picture and
scaled (bicubic with support widened when shrinking, so nothing aliases).
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Cut:
    """A clip, uint8 [T, H, W, 3], and the seconds of its source at which its first and last picture are shown."""

    start: float
    end: float
    pixels: np.ndarray


def centre_box(height: int, width: int, to_height: int, to_width: int) -> tuple[float, float, float, float]:
    """The largest centred box of the proportions `to_width : to_height`: (left, top, right, bottom) in pixels."""
    scale = min(width / to_width, height / to_height)
    box_width, box_height = to_width * scale, to_height * scale
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def resize_crop(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scales and centre-crops one picture, uint8 [H, W, 3] -> uint8 [height, width, 3]."""
    if pixels.shape[:2] == (height, width):
        return pixels
    box = centre_box(*pixels.shape[:2], height, width)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC, box=box))


def cut_clips(
    timed: Iterable[tuple[float, np.ndarray]], frames: int, stride: int, height: int, width: int
) -> Iterator[Cut]:
    """Cuts a stream of pictures into clips; holds `frames` small pictures at a time.

    Args:
      timed: (seconds, uint8 [H, W, 3]) in order; a picture that is repeated may be the same object.
      frames: length of a clip.
      stride: frames between the starts of two clips; below `frames` they overlap.
      height, width: size of the clips.

    Yields:
      clips in order; a rest shorter than `frames` is not used.
    """
    window: collections.deque[tuple[float, np.ndarray]] = collections.deque(maxlen=frames)
    last, small = None, None
    for k, (seconds, pixels) in enumerate(timed):
        if pixels is not last:
            last, small = pixels, resize_crop(pixels, height, width)
        window.append((seconds, small))
        first = k - frames + 1
        if first >= 0 and first % stride == 0:
            yield Cut(window[0][0], seconds, np.stack([picture for _, picture in window]))
