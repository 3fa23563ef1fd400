"""Footage for tests, made with PyAV: every kind of file that people have, and every way in which one is broken."""

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

FPS = 10


def picture(number: int, height: int = 32, width: int = 48) -> np.ndarray:
    """A picture whose grey level is its number: `level(picture(n)) == n` for n up to 24."""
    return np.full((height, width, 3), 10 * number + 5, np.uint8)


def level(pixels: np.ndarray) -> int:
    """The number of the picture that this one is, also after lossy coding."""
    return round((float(pixels.mean()) - 5) / 10)


def make_video(
    pictures: Sequence[np.ndarray],
    *,
    container: str = "mp4",
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rotation: int | None = None,
    ticks: Sequence[int] | None = None,
    sound: bool = False,
    size: tuple[int, int] | None = None,
) -> bytes:
    """Encodes pictures, the k-th shown at `ticks[k] / FPS` seconds (default k), as the bytes of a file."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=FPS)
        stream.height, stream.width = size or pictures[0].shape[:2]
        stream.pix_fmt = pixel_format
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if sound:
            _add_sound(file)
        for k, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = ticks[k] if ticks else k, Fraction(1, FPS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return out.getvalue()


def make_sound() -> bytes:
    """An MP4 that holds only sound."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        _add_sound(file)
    return out.getvalue()


def make_without_pictures() -> bytes:
    """An MP4 whose video stream ends before its first picture: a whole file with its sample table emptied."""
    data = bytearray(make_video([picture(0)]))
    for box, entries_at in ((b"stsz", 12), (b"stts", 8), (b"stsc", 8), (b"stco", 8), (b"stss", 8), (b"ctts", 8)):
        at = data.find(box)
        if at >= 0:
            data[at + entries_at : at + entries_at + 4] = bytes(4)
    return bytes(data)


def _add_sound(file: av.container.OutputContainer) -> None:
    stream = file.add_stream("aac", rate=44100)
    frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
    frame.sample_rate = 44100
    for k in range(20):
        frame.pts = k * 1024
        file.mux(stream.encode(frame))
    file.mux(stream.encode())
