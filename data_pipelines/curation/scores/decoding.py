"""Decoding only what is needed: the pictures at some wanted times of a file, in one pass.

The packets of a file are gathered into groups, from one keyframe to the next.  A group in which no time is wanted is
not decoded at all; any other until the last wanted time is on screen.  Pictures to which no other refers are left out
as well (`thin`): then a wanted time is answered by its neighbours.
"""

import bisect
import dataclasses
import os
from collections.abc import Iterator, Sequence

import av

from vdm_jax.media.video import VideoError

INF = float("inf")
TICK = 1e-3  # seconds; times of spans are rounded to it
Stretch = tuple[float, float]
Shown = tuple[float, float, av.VideoFrame]  # seconds from which and until which a picture is on screen


def decode_at(path: str | os.PathLike, wanted: Sequence[Stretch], thin: bool = True) -> Iterator[Shown]:
    """Decodes a file as far as needed to see some of its times.

    Args:
      path: a local file.
      wanted: what is to be seen: (first, last) seconds since the file's first picture, both included, which may be
        the same; in any order.
      thin: leave out pictures to which no other refers, and the smoothing of blocks in all but keyframes, which more
        than halves the time; small pictures hardly show it.

    Yields:
      Every picture that was decoded, in order: the seconds from which and until which it is shown (until the next
      picture of the file, decoded or not), and libav's picture, valid until the next one is asked for.

    Raises:
      VideoError: the file cannot be read, or is truncated or damaged.
    """
    try:
        with av.open(os.fspath(path)) as container:
            if not container.streams.video:
                raise VideoError("no_video", f"{path}: holds no video stream")
            yield from _decoded(path, container, sorted(wanted), thin)
    except av.FFmpegError as error:
        raise VideoError("damaged", f"{path}: decoding failed ({error.strerror})") from None


def _decoded(
    path: str | os.PathLike, container: av.container.InputContainer, wanted: list[Stretch], thin: bool
) -> Iterator[Shown]:
    stream = container.streams.video[0]
    stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
    if thin:
        stream.codec_context.options = {"skip_loop_filter": "nokey"}
    decoder = _Decoder(path, stream, thin)
    for group in _groups(path, container, stream):
        if decoder.origin is None:
            decoder.origin = group.times[0] if group.times else 0.0
        last = _last_wanted(wanted, group.start - decoder.origin, group.end - decoder.origin) if group.times else INF
        yield from decoder.stop() if last is None else decoder.decode(group, last)
    yield from decoder.stop()


def _last_wanted(wanted: list[Stretch], start: float, end: float) -> float | None:
    """The last second from `start` until before `end` that is wanted; None if none is."""
    lasts = [last for first, last in wanted if first < end - TICK and last >= start - TICK]
    return None if not lasts else max(lasts) if max(lasts) < end - TICK else INF


@dataclasses.dataclass
class _Group:
    """The packets from one keyframe to the next; seconds of the container's clock."""

    packets: list[av.Packet]
    times: list[float]  # of display, rising; empty in a stream without times
    start: float
    end: float


def _groups(
    path: str | os.PathLike, container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[_Group]:
    packets: list[av.Packet] = []
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        if packet.is_corrupt:
            raise VideoError("truncated", f"{path}: ends in the middle of a packet")
        if packet.is_keyframe and packets:
            yield _group(packets, packet, float(stream.time_base))
            packets = []
        packets.append(packet)
    if packets:
        yield _group(packets, None, float(stream.time_base))


def _group(packets: list[av.Packet], after: av.Packet | None, tick: float) -> _Group:
    stamps = sorted(p.pts for p in packets if p.pts is not None and not p.is_discard)
    if len(stamps) < sum(not p.is_discard for p in packets):
        stamps = []  # a raw stream
    start = packets[0].pts if packets[0].is_keyframe and stamps else min(stamps, default=0)
    end = INF if after is None or after.pts is None else after.pts * tick
    return _Group(packets, [s * tick for s in stamps], start * tick, end)


class _Decoder:
    """A decoder that is stopped and started again at keyframes.

    Attributes:
      origin: seconds of the container's clock at which the first picture is shown.
    """

    def __init__(self, path: str | os.PathLike, stream: av.VideoStream, thin: bool):
        self._path, self._thin = path, thin
        self.origin: float | None = None
        self._context = stream.codec_context
        self._rate = float(stream.average_rate or stream.guessed_rate or 25)
        self._tick = float(stream.time_base)
        self._count = 0
        self._running = False
        self._whole = False  # whether it has seen everything since the keyframe before
        self._not_before = -INF  # earlier pictures refer to what was left out
        self._shown: list[float] = []

    def decode(self, group: _Group, last: float) -> Iterator[Shown]:
        """Pictures of a group (and what is left of the one before), until one is shown at `last` or later."""
        if group.times and not self._whole:
            self._not_before = group.start - self.origin - 1e-4
        self._running, self._whole = True, False
        thin = self._thin and group.times  # without times pictures are counted
        self._context.skip_frame = "NONREF" if thin else "DEFAULT"
        self._shown = sorted(self._shown[-64:] + [t - self.origin for t in group.times])
        for packet in group.packets:
            for found in self._timed(packet):
                yield found
                if last < found[1] - TICK:
                    return
        self._whole = True

    def stop(self) -> Iterator[Shown]:
        """The last pictures; the decoder then waits for a keyframe."""
        if self._running:
            yield from self._timed(None)
            self._context.flush_buffers()
            self._running = self._whole = False
            self._shown = []

    def _timed(self, packet: av.Packet | None) -> Iterator[Shown]:
        for frame in self._context.decode(packet):
            if frame.is_corrupt:
                raise VideoError("damaged", f"{self._path}: picture {self._count} is damaged")
            seconds = self._count / self._rate if frame.pts is None else frame.pts * self._tick - self.origin
            self._count += 1
            if seconds >= self._not_before:
                i = bisect.bisect_right(self._shown, seconds + 1e-4)
                yield seconds, self._shown[i] if i < len(self._shown) else seconds + 1 / self._rate, frame
