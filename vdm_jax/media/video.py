"""Video files in and out: probe, decode by timestamps, encode H.264, GIF (through PyAV, i.e. libav).

Time.  A container says *when* each picture is shown, and the gaps need not be equal.  With the display times
`0 = s_0 < s_1 < ...` (the first picture is the origin) a clip at a requested rate f holds at k the picture that is on
screen at k / f,

    frame(k) = max {i : s_i <= k / f + tick},      0 <= k / f < s_last + (length of the last picture),

`tick` being one unit of the container's clock, since Matroska rounds times to a millisecond.  So a file of variable
rate plays at its true speed, and nothing but the pictures that are kept is converted to RGB.

Colour.  Pixels are RGB uint8.  libswscale converts from whatever the file holds (10-bit, 4:4:4 ...); what we write is
BT.601 in the limited range and says so in the stream.  Rotation metadata (phones) is applied.
"""

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from vdm_jax.errors import RunError

Source = str | os.PathLike | bytes
MAX_GAP_SECONDS = 600.0  # a longer picture is a damaged time stamp; resampling would repeat it without end
_EXACT = ("mov,", "matroska,")  # containers whose index is exact; in others, seeking leads near the place
_BT601, _LIMITED = 6, 1  # AVCOL_SPC_SMPTE170M, AVCOL_RANGE_MPEG


class VideoError(RunError):
    """A file that gives no usable video.

    Attributes:
      reason: one word for counting: missing, empty, unreadable, no_video, no_frames, truncated, damaged, rotation.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):
        return VideoError, (self.reason, str(self))


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a file says about itself.

    Attributes:
      height, width: pixels as displayed, after rotation; 0 without video.
      fps: average frames per second; 0.0 if the file does not say.
      frames: number of pictures, an estimate unless the container stores it; 0 if unknown.
      duration: seconds; 0.0 if unknown.
      rotation: degrees counter-clockwise that display applies to the stored picture: 0, 90, 180 or 270.
      codec, pixel_format: libav's names, e.g. "h264", "yuv420p10le"; "" without video.
      has_video, has_audio: the streams that are there.
    """

    height: int
    width: int
    fps: float
    frames: int
    duration: float
    rotation: int
    codec: str
    pixel_format: str
    has_video: bool
    has_audio: bool


def probe(source: Source) -> VideoInfo:
    """Reads a file's facts; decodes one picture (its rotation is stored with the pictures).

    Args:
      source: a path, or the bytes of a file.

    Raises:
      VideoError: the file is missing, empty, unreadable, truncated, or has a video stream without pictures.
        A file with sound only is not an error here: `has_video` is False.
    """
    with opened(source) as container:
        has_audio = bool(container.streams.audio)
        if not container.streams.video:
            seconds = (container.duration or 0) / av.time_base
            return VideoInfo(0, 0, 0.0, 0, seconds, 0, "", "", False, has_audio)
        stream = container.streams.video[0]
        check_not_truncated(source, stream)
        first = next(iter(container.decode(stream)), None)
        if first is None:
            raise _no_frames(source)
        rotation = rotation_of(source, first)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        seconds = _duration(container, stream)
        height, width = (first.width, first.height) if rotation in (90, 270) else (first.height, first.width)
        return VideoInfo(
            height=height,
            width=width,
            fps=fps,
            frames=stream.frames or round(seconds * fps),
            duration=seconds,
            rotation=rotation,
            codec=stream.codec_context.name,
            pixel_format=stream.codec_context.pix_fmt or "",
            has_video=True,
            has_audio=has_audio,
        )


class Picture:
    """A decoded picture in the form that the file holds; converting it is what most of them are spared."""

    def __init__(self, source: Source, frame: av.VideoFrame, reformatter: VideoReformatter):
        self._source, self._frame, self._reformatter = source, frame, reformatter

    def rgb(self) -> np.ndarray:
        """RGB uint8 [H, W, 3], upright.

        Raises:
          VideoError: it is turned by an angle that is no multiple of 90 degrees.
        """
        return _to_rgb(self._source, self._frame, self._reformatter, None)


def iter_pictures(source: Source, start: float = 0.0, *, threads: int = 1) -> Iterator[tuple[float, Picture]]:
    """Decodes stored pictures, from the last keyframe shown at or before a time to the end; holds two at a time.

    Args:
      source: a path, or the bytes of a file.
      start: seconds since the first picture.  What lies before its keyframe is not decoded where the container can
        seek; nobody but the reader of times sees a difference.
      threads: as in `iter_frames`.

    Yields:
      (seconds since the first picture of the file, picture), in order of display.

    Raises:
      VideoError: as `iter_frames`.
    """
    with opened(source) as container:
        stream = _prepared(source, container, threads)
        timed = _timed_from(source, container, stream, start)
        reformatter = VideoReformatter()
        for seconds, frame in timed:
            yield seconds, Picture(source, frame, reformatter)


def iter_frames(source: Source, fps: float | None = None, *, threads: int = 1) -> Iterator[tuple[float, np.ndarray]]:
    """Decodes one picture after the other; holds two at a time, however long the file is.

    Args:
      source: a path, or the bytes of a file.
      fps: frames per second to resample to by display time; None gives every stored picture once.
      threads: decoder threads (0: one per core).  1 in a loader, whose read threads already fill the cores.

    Yields:
      (seconds since the first picture, RGB uint8 [H, W, 3]).

    Raises:
      ValueError: `fps` is not positive.
      VideoError: see its reasons; it may come after some frames, when a file is damaged further on.
    """
    if fps is not None and not fps > 0:
        raise ValueError(f"fps: {fps!r} is not positive")
    with opened(source) as container:
        stream = _prepared(source, container, threads)
        timed = _timed(source, container, stream)
        reformatter = VideoReformatter()  # one for all frames: building its tables costs more than a small frame
        shown, pixels = None, None
        for seconds, frame in timed if fps is None else _resampled(source, timed, fps, float(stream.time_base)):
            if frame is not shown:
                shown, pixels = frame, _to_rgb(source, frame, reformatter, pixels)
            yield seconds, pixels


def decode(source: Source, fps: float | None = None, *, frames: int | None = None, threads: int = 1) -> np.ndarray:
    """Decodes a clip into memory.

    Args:
      source: a path, or the bytes of a file.
      fps: as in `iter_frames`.
      frames: stop after so many; None reads to the end.
      threads: as in `iter_frames`.

    Returns:
      RGB uint8 [T, H, W, 3].

    Raises:
      ValueError: `fps` or `frames` is not positive.
      VideoError: as `iter_frames`.
    """
    if frames is not None and frames < 1:
        raise ValueError(f"frames: {frames!r} is not at least 1")
    clip = []
    with contextlib.closing(iter_frames(source, fps, threads=threads)) as decoded:
        for _, pixels in decoded:
            clip.append(pixels)
            if len(clip) == frames:
                break
    return np.stack(clip)


KEYFRAME_EVERY = 24  # pictures: some of a long clip are then decoded without most of the others
AV1_SCALE = 63 / 51  # of its `crf` to that of H.264


def encode_mp4(video: np.ndarray, fps: float, *, lossless: bool = False, crf: int = 18, codec: str = "h264") -> bytes:
    """Encodes a clip as H.264 or AV1 in MP4; the same bytes on every run (one encoder thread).

    Args:
      video: RGB uint8 [T, H, W, 3], any size from 1x1.
      fps: frames per second.
      lossless: store RGB 4:4:4 exactly (any size).  Browsers do not play it; meant for tiny clips in shards.
      crf: quality of the lossy form, 0 (best) to 51.  It is yuv420p, which needs even sizes: an odd side gets its
        last row or column repeated once, so the decoded clip is one pixel larger there.
      codec: `h264`, or `av1`, which takes about half the bytes and three times as long, and is never lossless here.

    Raises:
      ValueError: wrong shape, dtype, fps, crf or codec.
    """
    if codec not in ("h264", "av1") or (lossless and codec != "h264"):
        raise ValueError(f"codec: {codec!r}{' lossless' * lossless} is not h264, h264 lossless or av1")
    _check_clip(video)
    if not fps > 0:
        raise ValueError(f"fps: {fps!r} is not positive")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf: {crf!r} is not within 0..51")
    if not lossless:
        video = np.pad(video, ((0, 0), (0, video.shape[1] % 2), (0, video.shape[2] % 2), (0, 0)), mode="edge")
    out = io.BytesIO()
    # Of small pictures, x264's own choice among CPU instructions gives other bytes from one run to the next.
    options = {"qp": "0"} if lossless else {"crf": str(crf)}
    options |= {"x264-params": "cpu-independent=1", "g": str(KEYFRAME_EVERY)}
    encoder = "libx264rgb" if lossless else "libx264"
    if codec == "av1":
        os.environ.setdefault("SVT_LOG", "1")  # errors alone: it writes twenty lines a clip to stderr otherwise
        encoder, options = "libsvtav1", {"crf": str(round(crf * AV1_SCALE)), "preset": "8", "svtav1-params": "lp=1"}
        options["g"] = str(KEYFRAME_EVERY)
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        stream.codec_context.thread_count = 1
        if not lossless:
            stream.codec_context.colorspace, stream.codec_context.color_range = _BT601, _LIMITED
        reformatter = VideoReformatter()
        for k, pixels in enumerate(video):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = reformatter.reformat(frame, format=stream.pix_fmt, dst_colorspace="ITU601", threads=1)
            frame.pts, frame.time_base = k, 1 / stream.codec_context.framerate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def encode_gif(video: np.ndarray, fps: float) -> bytes:
    """Encodes a clip as an endlessly looping GIF (256 colours per frame; times in units of 1/100 s).

    Args:
      video: RGB uint8 [T, H, W, 3].
      fps: frames per second; browsers slow anything above 50 down.

    Raises:
      ValueError: wrong shape, dtype or fps.
    """
    _check_clip(video)
    if not fps > 0:
        raise ValueError(f"fps: {fps!r} is not positive")
    ticks = np.diff(np.round(np.arange(len(video) + 1) * 100 / fps).astype(int))  # no drift over a long clip
    pictures = [Image.fromarray(pixels).quantize(256, dither=Image.Dither.NONE) for pixels in video]
    out = io.BytesIO()
    durations = [max(2, int(t)) * 10 for t in ticks]
    pictures[0].save(out, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return out.getvalue()


def write_mp4(path: str | os.PathLike, video: np.ndarray, fps: float, *, lossless: bool = False, crf: int = 18) -> None:
    """`encode_mp4` into a file, which appears whole or not at all.

    Raises:
      ValueError: as `encode_mp4`.
      RunError: the file cannot be written.
    """
    _write(Path(path), encode_mp4(video, fps, lossless=lossless, crf=crf))


def write_gif(path: str | os.PathLike, video: np.ndarray, fps: float) -> None:
    """`encode_gif` into a file, which appears whole or not at all.

    Raises:
      ValueError: as `encode_gif`.
      RunError: the file cannot be written.
    """
    _write(Path(path), encode_gif(video, fps))


def name_of(source: Source) -> str:
    """What messages call it."""
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else str(source)


def _no_frames(source: Source) -> VideoError:
    return VideoError("no_frames", f"{name_of(source)}: its video stream holds no picture")


@contextlib.contextmanager
def opened(source: Source) -> Iterator[av.container.InputContainer]:
    """Opens a container and turns every libav error, also those of the body, into a VideoError."""
    name = name_of(source)
    try:
        size = len(source) if isinstance(source, bytes) else os.stat(source).st_size
    except FileNotFoundError:
        raise VideoError("missing", f"{name}: no such file") from None
    except OSError as error:
        raise VideoError("unreadable", f"{name}: {error.strerror}") from None
    if size == 0:
        raise VideoError("empty", f"{name}: the file is empty")
    try:
        container = av.open(io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source))
    except (av.FFmpegError, OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        if _is_mp4(source):
            raise VideoError("truncated", f"{name}: an MP4 file without its index, probably cut off") from None
        raise VideoError("unreadable", f"{name}: not a readable video file ({said})") from None
    with container:
        try:
            yield container
        except av.FFmpegError as error:
            raise VideoError("damaged", f"{name}: decoding failed ({error.strerror})") from None


def _is_mp4(source: Source) -> bool:
    if isinstance(source, bytes):
        return source[4:8] == b"ftyp"
    try:
        with open(source, "rb") as file:
            return file.read(8)[4:] == b"ftyp"
    except OSError:
        return False


def check_not_truncated(source: Source, stream: av.VideoStream) -> None:
    """Compares the index with the file: libav itself ends a cut file quietly, as if it were shorter."""
    entries = stream.index_entries
    if len(entries) == 0:
        return
    size = len(source) if isinstance(source, bytes) else os.stat(source).st_size
    end = entries[len(entries) - 1].pos + entries[len(entries) - 1].size
    if end > size:
        raise VideoError("truncated", f"{name_of(source)}: cut off at byte {size}; its index reaches to byte {end}")


def _duration(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _matroska_seconds(stream: av.VideoStream) -> float:
    """The length Matroska keeps in its header (`00:00:02.0`), the one sign that such a file was cut; 0 elsewhere."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = map(float, parts)
    except ValueError:
        return 0.0
    return 3600 * hours + 60 * minutes + seconds


def _prepared(source: Source, container: av.container.InputContainer, threads: int) -> av.VideoStream:
    """The video stream, ready to be decoded."""
    if not container.streams.video:
        raise VideoError("no_video", f"{name_of(source)}: holds no video stream")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO" if threads != 1 else "SLICE"
    stream.codec_context.thread_count = threads
    check_not_truncated(source, stream)
    return stream


def _timed_from(
    source: Source, container: av.container.InputContainer, stream: av.VideoStream, start: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """`_timed` from the keyframe before `start` on, or from the beginning where seeking does not lead there."""
    exact = start > 0 and container.format.name.startswith(_EXACT)
    first = next(iter(container.decode(stream)), None) if exact else None
    if first is not None and first.time is not None:
        tick = float(stream.time_base)
        container.seek(int((first.time + start) / tick), stream=stream)
        timed = _timed(source, container, stream, first.time)
        reached = next(timed, None)
        if reached is not None and reached[0] <= start + tick:
            yield reached
            yield from timed
            return
    if first is not None:
        container.seek(stream.start_time or 0, stream=stream)
    yield from _timed(source, container, stream)


def _timed(
    source: Source, container: av.container.InputContainer, stream: av.VideoStream, origin: float | None = None
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Pictures with their times since `origin` (that of the first one); counts where a raw stream has no times."""
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    last, count, entered = 0.0, 0, origin is not None
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise VideoError("truncated", f"{name_of(source)}: ends in the middle of a packet, {last:.2f} s in")
        for frame in packet.decode():
            if entered and not frame.key_frame:
                continue  # shown before the keyframe, and made of what comes before it too
            entered = False
            if frame.is_corrupt:
                raise VideoError("damaged", f"{name_of(source)}: a picture is damaged, {last:.2f} s in")
            seconds = count / rate if frame.time is None else frame.time
            origin = seconds if origin is None else origin
            last, count = max(last, seconds - origin), count + 1
            yield last, frame
    if count == 0:
        raise _no_frames(source)
    declared = _matroska_seconds(stream)
    if declared - last > max(1.0, 3 * declared / count):  # the last picture's own length is not known
        raise VideoError("truncated", f"{name_of(source)}: ends after {last:.2f} s of the {declared:.2f} s it declares")


def _resampled(
    source: Source, timed: Iterator[tuple[float, av.VideoFrame]], fps: float, tick: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    held, shown_at, length, k = None, 0.0, 1.0 / fps, 0
    for seconds, frame in timed:
        if seconds - shown_at > MAX_GAP_SECONDS:
            gap = seconds - shown_at
            raise VideoError("damaged", f"{name_of(source)}: its time stamps jump by {gap:.0f} s at {shown_at:.2f} s")
        while held is not None and k / fps < seconds - tick:
            yield k / fps, held
            k += 1
        if held is not None and seconds > shown_at:
            length = seconds - shown_at
        held, shown_at = frame, seconds
    while k / fps < shown_at + length - tick:  # the last picture stays as long as the one before it
        yield k / fps, held
        k += 1


def rotation_of(source: Source, frame: av.VideoFrame) -> int:
    """Degrees counter-clockwise, 0, 90, 180 or 270, by which a stored picture is turned to be shown."""
    rotation = frame.rotation % 360
    if rotation % 90:
        raise VideoError("rotation", f"{name_of(source)}: is turned by {rotation} degrees, not a multiple of 90")
    return rotation


def _to_rgb(
    source: Source, frame: av.VideoFrame, reformatter: VideoReformatter, previous: np.ndarray | None
) -> np.ndarray:
    turns = rotation_of(source, frame) // 90
    stored = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    pixels = np.ascontiguousarray(np.rot90(stored, turns))
    if previous is not None and previous.shape != pixels.shape:
        sizes = f"{previous.shape[1]}x{previous.shape[0]} to {pixels.shape[1]}x{pixels.shape[0]}"
        raise VideoError("damaged", f"{name_of(source)}: its picture changes size midway, from {sizes}")
    return pixels


def _check_clip(video: np.ndarray) -> None:
    if video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape or video.dtype != np.uint8:
        raise ValueError(f"video: expected uint8 [T, H, W, 3], got {video.dtype} {list(video.shape)}")


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror}") from None
