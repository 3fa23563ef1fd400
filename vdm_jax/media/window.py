"""Some pictures of a video, and as little decoding as they take.

The packets of a stream say, before anything is decoded, when each picture is shown and where decoding may begin
(keyframes).  Their times in order number the pictures 0, 1, 2 ... as `video.iter_frames` does, so for pictures
n_0 <= n_1 <= ... decoding starts at the last keyframe at or before n_0 and stops with the last one.  Where pictures are
wanted smaller, libswscale shrinks them while it converts to RGB.
"""

import contextlib
import itertools
from collections.abc import Sequence

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from vdm_jax.media.video import Source, VideoError, check_not_truncated, name_of, opened, rotation_of


def decode_frames(
    source: Source, numbers: Sequence[int], size: tuple[int, int] | None = None, *, frames: int | None = None
) -> np.ndarray:
    """Decodes pictures by number.

    Args:
      source: a path, or the bytes of a file.
      numbers: which, ascending (repeats are given again), counted in the order in which they are shown.
      size: height and width of what is returned; None is as they are.
      frames: how many pictures there must be in all; None takes any number.

    Returns:
      RGB uint8 [len(numbers), H, W, 3].

    Raises:
      ValueError: no numbers, or not ascending ones of 0 or more.
      VideoError: as `video.iter_frames`; also where a picture is not there, or their number is another than `frames`.
    """
    numbers = [int(number) for number in numbers]
    if not numbers or numbers[0] < 0 or any(b < a for a, b in itertools.pairwise(numbers)):
        raise ValueError(f"numbers: {numbers} are not ascending numbers of 0 or more")
    with opened(source) as container:
        if not container.streams.video:
            raise VideoError("no_video", f"{name_of(source)}: holds no video stream")
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
        check_not_truncated(source, stream)
        times, keys = _timetable(source, container, stream)
        if frames is not None and len(times) != frames:
            raise VideoError("damaged", f"{name_of(source)}: has {len(times)} pictures instead of {frames}")
        if numbers[-1] >= len(times):
            raise VideoError("damaged", f"{name_of(source)}: has {len(times)} pictures, not {numbers[-1] + 1}")
        wanted = {times[number] for number in numbers}
        near = [time for time in keys if time <= times[numbers[0]]][-1:]
        # Some streams call pictures keyframes after which a few others are still incomplete: then from the beginning.
        for start in (*near, times[0]):
            container.seek(start, stream=stream, backward=True)
            found = _pictures(container, stream, wanted)
            if found is not None:
                break
        else:
            raise VideoError("damaged", f"{name_of(source)}: some of its pictures {numbers} cannot be decoded")
        reformatter = VideoReformatter()
        found = {time: _to_rgb(source, frame, reformatter, size) for time, frame in found.items()}
    return np.stack([found[times[number]] for number in numbers])


def resize(video: np.ndarray, height: int, width: int) -> np.ndarray:
    """Shrinks RGB uint8 [T, H, W, 3] to [T, height, width, 3]; bicubic, over as many pixels as one stands for."""
    if video.shape[1:3] == (height, width):
        return video
    pictures = [Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC) for pixels in video]
    return np.stack([np.asarray(picture) for picture in pictures])


def _timetable(
    source: Source, container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[list[int], list[int]]:
    """Times of all pictures and of the keyframes, ascending, in units of the stream; decodes nothing."""
    times, keys = [], []
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise VideoError("truncated", f"{name_of(source)}: ends in the middle of a packet")
        if packet.pts is not None and not packet.is_discard:
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
    if not times:
        raise VideoError("no_frames", f"{name_of(source)}: its packets do not say when pictures are shown")
    return sorted(times), sorted(keys)


def _pictures(
    container: av.container.InputContainer, stream: av.VideoStream, wanted: set[int]
) -> dict[int, av.VideoFrame] | None:
    """Time -> picture, decoded from where the container stands until all are found; None if one is damaged or lacks."""
    found: dict[int, av.VideoFrame] = {}
    with contextlib.closing(container.decode(stream)) as decoded:
        for frame in decoded:
            if frame.pts not in wanted:
                continue
            if frame.is_corrupt:
                return None
            found[frame.pts] = frame
            if len(found) == len(wanted):
                return found
    return None


def _to_rgb(
    source: Source, frame: av.VideoFrame, reformatter: VideoReformatter, size: tuple[int, int] | None
) -> np.ndarray:
    turns = rotation_of(source, frame) // 90
    height, width = (None, None) if size is None else size if turns % 2 == 0 else size[::-1]
    scaling = {} if size is None else {"height": height, "width": width, "interpolation": Interpolation.BICUBIC}
    stored = reformatter.reformat(frame, format="rgb24", threads=1, **scaling).to_ndarray()
    return np.ascontiguousarray(np.rot90(stored, turns))
