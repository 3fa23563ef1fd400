"""Pictures from the middle of a file: the same, at the same times, as when it is read from its beginning."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from vdm_jax.media.video import iter_frames, iter_pictures

FPS = 10
KINDS = [
    ("mp4", "libx264", "yuv420p"),
    ("matroska", "libx264", "yuv420p"),
    ("mpegts", "libx264", "yuv420p"),
    ("avi", "mpeg4", "yuv420p"),
    ("mov", "mjpeg", "yuvj420p"),
    ("h264", "libx264", "yuv420p"),
]


def rolling(container, codec, pixel_format):
    """A texture that moves, 60 pictures with a keyframe every twelve and pictures stored out of order."""
    texture = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=FPS, options={} if codec == "mjpeg" else {"g": "12", "bf": "2"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, pixel_format
        for k in range(60):
            pixels = np.ascontiguousarray(np.roll(texture, (k, 2 * k), (0, 1))[:48, :64])
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, FPS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return out.getvalue()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def test_same_pictures_wherever_reading_starts(kind):
    data = rolling(*kind)
    whole = list(iter_frames(data))
    for start in (0.0, 0.05, 1.2, 2.45, 5.85):
        part = [(seconds, picture.rgb()) for seconds, picture in iter_pictures(data, start)]
        assert part[0][0] <= start + 1e-3
        for (seconds, pixels), (expected, wanted) in zip(part, whole[-len(part) :], strict=True):
            assert seconds == pytest.approx(expected)
            np.testing.assert_array_equal(pixels, wanted)
        if kind[0] in ("mp4", "matroska", "mov"):
            assert part[0][0] >= start - 2.4  # two groups of pictures
