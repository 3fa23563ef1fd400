"""Video files of many kinds, written with libav: containers, codecs, pixel formats, rates, rotations, sound.

Equal input gives equal bytes: every encoder runs in one thread and writes no version, date or random number.
"""

import dataclasses
import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter

EXACT = {"fflags": "+bitexact"}  # of the container: no version in the file


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way to store a video.

    Attributes:
      suffix, container: of the file, libav's name of the container.
      codec, pixel_formats: libav's names; the encoder takes any of these formats.
      odd: whether sides may be odd.
      variable: whether pictures may have any times.
      rotation: whether the container has a display matrix.
      sound: codec of the sound, "" where the container has none.
      options: of the encoder.
      share: how often it is used, against the others.
      least: pixels of the shorter side; x265 writes beyond its memory below 56, SVT-AV1 refuses below 64.
      fastest: pictures a second; a GIF counts hundredths.
    """

    suffix: str
    container: str
    codec: str
    pixel_formats: tuple[str, ...]
    odd: bool = False
    variable: bool = True
    rotation: bool = False
    sound: str = ""
    options: tuple[tuple[str, str], ...] = ()
    share: float = 1.0
    least: int = 16
    fastest: int = 120


# With macroblock trees x264 reads memory that it has not written, in small pictures: other bytes on every run.
_X264 = (("preset", "veryfast"), ("crf", "21"), ("x264-params", "mbtree=0"))
_X265 = (("preset", "ultrafast"), ("crf", "24"), ("x265-params", "log-level=none:pools=none:frame-threads=1:info=0"))
_VPX = (("deadline", "realtime"), ("cpu-used", "8"), ("crf", "20"), ("b", "1M"))
_AV1 = (("preset", "12"), ("crf", "35"), ("svtav1-params", "lp=1"))
_420, _FULL, _422, _444, _TEN = "yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le"

KINDS: tuple[Kind, ...] = (
    Kind(".mp4", "mp4", "libx264", (_420, _420, _FULL, _TEN), False, True, True, "aac", _X264, 6),
    Kind(".mp4", "mp4", "libx264", (_444,), True, True, True, "aac", _X264, 1),
    Kind(".mp4", "mp4", "libx265", (_420, _TEN), False, True, True, "aac", _X265, 2, 64),
    Kind(".mp4", "mp4", "mpeg4", (_420,), True, False, True, "aac", (("q", "3"),), 1),
    Kind(".mp4", "mp4", "libsvtav1", (_420,), False, True, False, "aac", _AV1, 0.3, 64),
    Kind(".mkv", "matroska", "libx264", (_420, _422), False, True, False, "aac", _X264, 2),
    Kind(".mkv", "matroska", "ffv1", (_420, _422, "bgr0"), True, True, False, "aac", (), 1),
    Kind(".webm", "webm", "libvpx", (_420,), True, True, False, "libopus", _VPX, 1),
    Kind(".webm", "webm", "libvpx-vp9", (_420, _444), True, True, False, "libopus", _VPX, 2),
    Kind(".avi", "avi", "mpeg4", (_420,), True, False, False, "libmp3lame", (("q", "3"),), 1),
    Kind(".avi", "avi", "mjpeg", (_FULL, "yuvj422p"), True, False, False, "libmp3lame", (("q", "3"),), 1),
    Kind(".mov", "mov", "libx264", (_420, _FULL), False, True, True, "aac", _X264, 2),
    Kind(".mov", "mov", "prores_ks", ("yuv422p10le",), False, False, True, "aac", (), 1),
    Kind(".mov", "mov", "mjpeg", ("yuvj444p",), True, False, True, "aac", (("q", "3"),), 1),
    Kind(".gif", "gif", "gif", ("rgb8",), True, True, False, "", (), 1, fastest=25),
    Kind(".ts", "mpegts", "libx264", (_420,), False, True, False, "aac", _X264, 1),
    Kind(".ts", "mpegts", "mpeg2video", (_420,), False, False, False, "aac", (("q", "3"),), 1),
)


def write_video(
    kind: Kind,
    pictures: Sequence[np.ndarray],
    ticks: Sequence[int],
    rate: Fraction,
    *,
    pixel_format: str,
    rotation: int = 0,
    keyframes: int = 24,
    sound: bool = False,
) -> bytes:
    """Encodes a file.

    Args:
      kind: how.
      pictures: RGB uint8 [H, W, 3] as displayed; they are stored turned back by `rotation`.
      ticks: rising times at which they are shown, in units of `1 / rate` seconds.
      rate: units a second; what the file says is its frame rate.
      pixel_format: of `kind.pixel_formats`.
      rotation: degrees counter-clockwise that display applies: 0, 90, 180 or 270.
      keyframes: pictures from one to the next, at most.
      sound: whether there is a second stream, with a tone.

    Returns:
      The bytes of the file.
    """
    out = io.BytesIO()
    with av.open(out, "w", format=kind.container, container_options=EXACT) as file:
        stream = file.add_stream(kind.codec, rate=rate, options={**dict(kind.options), "flags": "+bitexact"})
        stored = [np.ascontiguousarray(np.rot90(pixels, -rotation // 90)) for pixels in pictures]
        stream.height, stream.width = stored[0].shape[:2]
        stream.pix_fmt = pixel_format
        context = stream.codec_context
        context.thread_count = 1
        if kind.codec not in ("gif", "ffv1", "mjpeg", "prores_ks"):
            context.gop_size = keyframes
        if rotation:
            stream.set_display_rotation(rotation)
        tone = file.add_stream(kind.sound, rate=48000) if sound and kind.sound else None
        reformatter = VideoReformatter()
        for tick, pixels in zip(ticks, stored):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = reformatter.reformat(frame, format=pixel_format, threads=1)  # several give other bytes each time
            frame.pts, frame.time_base = int(tick), 1 / rate
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if tone is not None:
            _add_tone(file, tone, (ticks[-1] + 1) / float(rate))
    return out.getvalue()


def write_sound() -> bytes:
    """An MP4 that holds a second of sound and no pictures."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4", container_options=EXACT) as file:
        _add_tone(file, file.add_stream("aac", rate=48000), 1.0)
    return out.getvalue()


def without_pictures(data: bytes) -> bytes:
    """An MP4 whose video stream has ended before its first picture: a whole file, its sample tables emptied."""
    emptied = bytearray(data)
    for box, entries_at in ((b"stsz", 12), (b"stts", 8), (b"stsc", 8), (b"stco", 8), (b"stss", 8), (b"ctts", 8)):
        at = emptied.find(box)
        if at >= 0:
            emptied[at + entries_at : at + entries_at + 4] = bytes(4)
    return bytes(emptied)


def _add_tone(file: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    stream.codec_context.options = {"flags": "+bitexact"}
    samples = np.arange(int(48000 * min(seconds, 4.0)), dtype=np.float32)
    wave = 0.2 * np.sin(2 * np.pi * 330 * samples / 48000).astype(np.float32)
    layout = "stereo" if stream.codec_context.layout.nb_channels == 2 else "mono"
    channels = 2 if layout == "stereo" else 1
    resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=48000)
    for at in range(0, len(wave), 1024):
        part = np.repeat(wave[None, at : at + 1024], channels, 0)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = 48000, at, Fraction(1, 48000)
        for piece in resampler.resample(frame):
            file.mux(stream.encode(piece))
    file.mux(stream.encode())
