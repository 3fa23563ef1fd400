"""The facts of a video file, read from its header, its first picture and the times of its packets.

Nothing but the first picture is decoded, yet the whole file is read once: only the packets say whether the rate is
constant, where the keyframes are, and whether the file ends as its header says.

Times are seconds since the first picture is shown, rounded to a millisecond.
"""

import dataclasses
from pathlib import Path

import av
import numpy as np

from vdm_jax.media import video as media
from vdm_jax.media.video import VideoError

VERSION = 1
_RANGES = {1: "limited", 2: "full"}  # AVColorRange


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a file is.

    Attributes:
      container: libav's name, e.g. `matroska,webm`.
      codec, pixel_format: libav's names, e.g. `h264`, `yuv420p10le`.
      color_range: `limited`, `full` or `unspecified`.
      height, width: pixels as displayed, after rotation.
      rotation: degrees counter-clockwise that display applies: 0, 90, 180 or 270.
      duration: seconds that the pictures are shown, the last one for as long as the one before it.
      frames: number of pictures, counted.
      fps: pictures per second, on average; 0.0 for a single picture of which the file does not say a rate.
      variable_rate: the gaps between pictures differ by more than the container's clock explains.
      keyframes: seconds at which the pictures are shown from which decoding can start.
      audio: libav's name of the sound's codec, "" without sound.
      bytes: size of the file.
    """

    container: str
    codec: str
    pixel_format: str
    color_range: str
    height: int
    width: int
    rotation: int
    duration: float
    frames: int
    fps: float
    variable_rate: bool
    keyframes: tuple[float, ...]
    audio: str
    bytes: int

    @property
    def is_image(self) -> bool:
        """One picture, without a duration of its own."""
        return self.frames == 1


def probe(path: str | Path) -> Facts:
    """Reads the facts.

    Args:
      path: a local file.

    Raises:
      VideoError: the file is missing, empty, unreadable, truncated, damaged, or has no pictures.
    """
    path = Path(path)
    info = media.probe(path)
    if not info.has_video:
        raise VideoError("no_video", f"{path}: holds no video stream")
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            times, keys, tick = _packet_times(path, container, stream)
            audio = container.streams.audio[0].codec_context.name if container.streams.audio else ""
            shown = container.format.name, _RANGES.get(int(stream.codec_context.color_range), "unspecified")
    except av.FFmpegError as error:
        raise VideoError("damaged", f"{path}: reading its packets failed ({error.strerror})") from None
    duration, fps = _span(times, tick, info.fps)
    return Facts(
        container=shown[0],
        codec=info.codec,
        pixel_format=info.pixel_format,
        color_range=shown[1],
        height=info.height,
        width=info.width,
        rotation=info.rotation,
        duration=duration,
        frames=len(times),
        fps=fps,
        variable_rate=is_variable(times, tick),
        keyframes=tuple(round(float(second), 3) for second in times[keys]),
        audio=audio,
        bytes=path.stat().st_size,
    )


def is_variable(times: np.ndarray, tick: float) -> bool:
    """Whether the gaps between pictures differ by more than rounding to the clock's `tick` (seconds) can explain."""
    gaps = np.diff(times)
    if len(gaps) < 2:
        return False
    usual = float(np.median(gaps))
    return bool(np.abs(gaps - usual).max() > max(1.5 * tick, 0.1 * usual))


def _packet_times(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[np.ndarray, np.ndarray, float]:
    """Display times since the first picture, float64 [N] in order; which are keyframes, bool [N]; the clock's unit."""
    stamps: list[int | None] = []
    keys: list[bool] = []
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard:  # the end of the stream, or what an edit list leaves out
            continue
        if packet.is_corrupt:
            raise VideoError("truncated", f"{path}: ends in the middle of packet {len(stamps)}")
        stamps.append(packet.dts if packet.pts is None else packet.pts)
        keys.append(packet.is_keyframe)
    if not stamps:
        raise VideoError("no_frames", f"{path}: its video stream holds no picture")
    tick = float(stream.time_base)
    if None in stamps:  # a raw stream: pictures are counted, as decoding does
        tick = 1 / float(stream.average_rate or stream.guessed_rate or 25)
        stamps = list(range(len(stamps)))
    order = np.argsort(np.array(stamps), kind="stable")
    times = (np.array(stamps)[order] - min(stamps)) * tick
    return times, np.array(keys)[order], tick


def _span(times: np.ndarray, tick: float, declared: float) -> tuple[float, float]:
    """Duration in seconds, and pictures per second."""
    if len(times) == 1:
        return round(1 / declared, 3) if declared else 0.0, declared
    last = float(times[-1] - times[-2]) or tick
    seconds = float(times[-1]) + last
    return round(seconds, 3), round((len(times) - 1) / float(times[-1]), 6) if times[-1] else declared
