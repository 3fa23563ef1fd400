"""Every picture of a file, small: what cuts are looked for in.

Decoding is most of the cost, so nothing is done twice and little on full pictures: the deblocking filter is skipped
(its effect is gone at this size), and the planes of the usual pixel formats are thinned out before they are averaged,
which is a fifth of what libswscale takes.
"""

import dataclasses
import os
from collections.abc import Iterator

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from data_pipelines.curation.scores.opencv import import_opencv
from vdm_jax.media.video import VideoError

LONGEST = 4  # longer sides, in shorter ones; a banner is squeezed to that
_LIMITED = np.clip(np.round((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class Small:
    """One picture.

    Attributes:
      time: seconds since the first picture at which it is shown.
      before: the same of the picture before it in the file, kept or not; its own for the first.
      pixels: BGR uint8 [h, w, 3], not turned upright.
    """

    time: float
    before: float
    pixels: np.ndarray


def small_pictures(path: str | os.PathLike, side: int, rate: float) -> Iterator[Small]:
    """Decodes a file from end to end.

    Args:
      path: a local file.
      side: pixels of the shorter side; smaller pictures are not enlarged.
      rate: at most so many pictures a second are yielded, the others only decoded.

    Yields:
      pictures in the order of their times, all of one size.

    Raises:
      VideoError: the file cannot be read, holds no video or no picture, or is damaged.
      RunError: OpenCV is not installed.
    """
    reducer, origin, last, kept = _Reducer(side), None, None, -1.0
    try:
        with av.open(os.fspath(path)) as container:
            if not container.streams.video:
                raise VideoError("no_video", f"{path}: holds no video stream")
            stream = container.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
            stream.codec_context.options = {"skip_loop_filter": "all"}
            for count, frame in enumerate(container.decode(stream)):
                if frame.is_corrupt:
                    raise VideoError("damaged", f"{path}: picture {count} is damaged")
                seconds = count / float(stream.average_rate or 25) if frame.time is None else frame.time
                origin = seconds if origin is None else origin
                seconds = max(seconds - origin, last or 0.0)
                before, last = seconds if last is None else last, seconds
                if kept < 0 or seconds - kept >= 0.999 / rate:
                    kept = seconds
                    yield Small(seconds, before, reducer(frame))
    except (av.FFmpegError, OSError) as error:
        raise VideoError("damaged", f"{path}: decoding failed ({error.strerror or error})") from None
    if origin is None:
        raise VideoError("no_frames", f"{path}: its video stream holds no picture")


class _Reducer:
    """From a decoded picture to BGR uint8 [h, w, 3] of the size that the first one gets."""

    def __init__(self, side: int):
        self._side = side
        self._cv2 = import_opencv()
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        if self._size is None:
            short, long = sorted((frame.width, frame.height))
            scale = min(1, self._side / short, LONGEST * self._side / long)
            self._size = max(8, round(frame.width * scale)), max(8, round(frame.height * scale))
        if _is_plain_yuv(frame.format):
            planes = [self._plane(plane) for plane in frame.planes[:3]]
            if frame.color_range != 2 and not frame.format.name.startswith("yuvj"):
                planes[0] = self._cv2.LUT(planes[0], _LIMITED)
            merged = self._cv2.merge([planes[0], planes[2], planes[1]])
            return self._cv2.cvtColor(merged, self._cv2.COLOR_YCrCb2BGR)
        width, height = self._size
        how = {"width": width, "height": height, "format": "bgr24", "interpolation": "AREA", "threads": 1}
        return self._reformatter.reformat(frame, **how).to_ndarray()

    def _plane(self, plane: av.video.plane.VideoPlane) -> np.ndarray:
        pixels = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        down, across = (max(1, have // (2 * want)) for have, want in zip(pixels.shape, self._size[::-1]))
        thinned = np.ascontiguousarray(pixels[::down, ::across])
        how = self._cv2.INTER_LINEAR if min(down, across) > 1 else self._cv2.INTER_AREA
        return self._cv2.resize(thinned, self._size, interpolation=how)


def _is_plain_yuv(pixel_format: av.VideoFormat) -> bool:
    """Three planes of 8 bits: luma and two of chroma, whatever their size."""
    parts = pixel_format.components
    return (
        len(parts) in (3, 4)
        and not pixel_format.is_rgb
        and pixel_format.is_planar
        and parts[0].is_luma
        and [part.plane for part in parts[:3]] == [0, 1, 2]
        and all(part.bits == 8 for part in parts)
    )
