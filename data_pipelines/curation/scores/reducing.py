"""From a decoded picture to the little that is kept of it: a small one, a thumb, and statistics of its lines."""

import functools

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from data_pipelines.curation.scores.decoding import TICK
from data_pipelines.curation.scores.opencv import import_opencv

THUMB = 48  # pixels of the longer side of a thumb
LONGEST_SIDE = 1024  # of a small picture, for extreme proportions
_FULL_RANGE = np.clip(np.round((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)


class Reducer:
    """From a decoded picture to what is kept of it, upright; one for all, as its tables are dear."""

    def __init__(self, side: int):
        self._side = side
        self._cv2 = import_opencv()
        self._reformatter = VideoReformatter()

    def size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Height and width of the source, upright."""
        return (frame.width, frame.height) if frame.rotation % 180 else (frame.height, frame.width)

    def small(self, frame: av.VideoFrame) -> np.ndarray:
        """RGB uint8 [h, w, 3]."""
        scale = min(1, self._side / min(frame.height, frame.width), LONGEST_SIDE / max(frame.height, frame.width))
        width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
        how = {"width": width, "height": height, "format": "rgb24", "interpolation": "AREA", "threads": 1}
        return _upright(frame, self._reformatter.reformat(frame, **how).to_ndarray())

    def luma(self, frame: av.VideoFrame, down: int = 1, across: int = 1) -> np.ndarray:
        """uint8 [H / down, W / across], 0 to 255 whatever the range of the file; rows and columns are left out."""
        first = frame.format.components[0]
        if not (first.is_luma and first.bits == 8 and frame.format.is_planar):
            frame = self._reformatter.reformat(frame, format="yuvj420p", threads=1)
        plane = frame.planes[0]
        luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
        if round(frame.rotation / 90) % 2:
            down, across = across, down
        luma = np.ascontiguousarray(luma[::down, ::across])
        full = frame.format.name.startswith(("yuvj", "gray")) or frame.color_range == 2
        return _upright(frame, luma if full else self._cv2.LUT(luma, _FULL_RANGE))

    def thumb(self, frame: av.VideoFrame) -> np.ndarray:
        """Luma uint8 [a, b], `THUMB` pixels along the longer side; rows and columns are skipped first, for speed."""
        longer = max(frame.height, frame.width)
        luma = self.luma(frame, *(max(1, longer // (4 * THUMB)),) * 2)
        scale = min(1, THUMB / longer)
        height, width = (max(1, round(side * scale)) for side in self.size(frame))
        return self._cv2.resize(luma, (width, height), interpolation=self._cv2.INTER_AREA)

    def lines(self, frame: av.VideoFrame) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of luma along every row [H, 2] and column [W, 2], from every fourth pixel."""
        rows = self.luma(frame, across=4).astype(np.float32)
        columns = self.luma(frame, down=4).astype(np.float32)
        return (
            np.stack([rows.mean(1), rows.std(1)], axis=1),
            np.stack([columns.mean(0), columns.std(0)], axis=1),
        )


def _upright(frame: av.VideoFrame, pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


class Picture:
    """One decoded picture, and what several spans may want of it, worked out once.

    Attributes:
      time, until: seconds from which and until which it is on screen.
      size: height and width of the source, upright.
    """

    def __init__(self, time: float, until: float, reducer: Reducer, frame: av.VideoFrame):
        self.time, self.until = time, until
        self.size = reducer.size(frame)
        self._reducer, self._frame = reducer, frame

    def shown_at(self, time: float) -> bool:
        return self.time <= time + TICK < self.until

    @functools.cached_property
    def small(self) -> np.ndarray:
        return self._reducer.small(self._frame)

    @functools.cached_property
    def thumb(self) -> np.ndarray:
        return self._reducer.thumb(self._frame)

    @functools.cached_property
    def lines(self) -> tuple[np.ndarray, np.ndarray]:
        return self._reducer.lines(self._frame)
