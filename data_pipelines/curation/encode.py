"""Clips of a source at the size of the set, as they are stored.

The pictures of a clip are those on screen at start + k / fps, k = 0 .. T-1 (a stored picture is on screen until the
next one), or, at fps = 0, the first T that are shown from its start on.  A file is decoded once for all of its clips
that lie close together, from the keyframe before them, and no picture is converted that no clip shows; the small
pictures of the clips at hand are all that is held.

The encoded clips of a source lie in one ArrayRecord file, there whole or not at all.  Clips that are asked for later
join those that are there in a file that takes the place of the first; so filters may change back and forth, and only
what was never used before is decoded.
"""

import bisect
import dataclasses
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_pipelines.curation.cutting import resize_crop
from data_pipelines.curation.examine import LocalFile, Spent, named
from data_pipelines.curation.probe import Facts
from data_pipelines.curation.records import Records
from data_pipelines.curation.settings import ClipSettings
from data_pipelines.curation.source import Source, Span
from data_pipelines.curation.stage import Stage, fingerprint
from data_pipelines.shards.files import count_records, writing
from data_pipelines.shards.schema import pack_pixels
from vdm_jax.errors import RunError
from vdm_jax.media.video import Picture, VideoError, iter_pictures

SUFFIX = ".clips"
Box = tuple[int, int, int, int]
_TICK = 0.001  # seconds; spans are rounded to it, so a picture that comes so much later is the one that is meant
_WORTH_SEEKING = 1.0  # seconds without a clip, below which going on costs less than opening the file again


@dataclasses.dataclass(frozen=True, order=True)
class Clip:
    """A clip to encode.

    Attributes:
      span: seconds of the source.
      box: (top, bottom, left, right) of the picture to use, half open; () uses all of it.
    """

    span: Span
    box: Box | tuple[()] = ()

    def to_numbers(self) -> list[int]:
        """Milliseconds and box."""
        return [*self.span.milliseconds, *self.box]

    @classmethod
    def from_numbers(cls, numbers: Sequence[int]) -> "Clip":
        """The inverse of `to_numbers`."""
        start, end, *box = numbers
        return cls(Span(start / 1000, end / 1000), tuple(box))


@dataclasses.dataclass(frozen=True)
class Job:
    """All clips of one source.

    Attributes:
      source, digest: the file.
      clips: in order, none twice.
    """

    source: Source
    digest: str
    clips: tuple[Clip, ...]

    @property
    def key(self) -> str:
        """Names the source and its bytes, whichever of its clips are asked for."""
        return fingerprint([self.source.id, self.digest])

    def to_json(self) -> str:
        """One line."""
        clips = [clip.to_numbers() for clip in self.clips]
        return json.dumps({"source": self.source.to_json(), "digest": self.digest, "clips": clips})

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The inverse of `to_json`."""
        fields = json.loads(text)
        clips = tuple(map(Clip.from_numbers, fields["clips"]))
        return cls(Source.from_json(fields["source"]), fields["digest"], clips)


@dataclasses.dataclass(frozen=True)
class _Stored:
    """Encoded clips of a source: their file, and the place of each in it."""

    path: Path
    places: Mapping[Clip, int]

    def read(self, clips: Iterable[Clip]) -> Iterator[bytes]:
        """Some of them, in the order asked for.

        Raises:
          RunError: they cannot be read.
        """
        try:
            reader = ArrayRecordReader(str(self.path), options="readahead_buffer_size:0")
            for clip in clips:
                yield reader.read(np.array([self.places[clip]]))[0]
            reader.close()
        except (RuntimeError, IndexError) as error:
            said = " ".join(str(error).split())
            raise RunError(f"{self.path}: damaged ({said}); remove it and start again") from None


class Encoder:
    """Encodes the clips of sources, one call each.

    Args:
      stage: under which results are stored.
      clip: what clips shall be.
      records: where results lie.
    """

    def __init__(self, stage: Stage, clip: ClipSettings, records: Records):
        self._stage, self._clip, self._records = stage, clip, records

    def encode(self, job: Job, facts: Facts) -> Spent:
        """Encodes what is not stored.

        Returns:
          What it took.

        Raises:
          VideoError: the source is damaged or has changed.
          RunError: the disk is full, or fails otherwise.
        """
        spent, stored = Spent(), self._stored(job)
        missing = [clip for clip in job.clips if clip not in stored.places]
        if not missing:
            return spent
        begin = time.thread_time()
        with LocalFile(job.source) as lazy, named(job.source, lazy):
            self._write(job, stored, encoded(lazy(), facts, missing, self._clip))
        spent.add(self._stage.name, time.thread_time() - begin, sum(clip.span.duration for clip in missing))
        return spent

    def read(self, job: Job) -> Iterator[bytes]:
        """The stored clips of a source, in order.

        Raises:
          RunError: they cannot be read.
        """
        stored = self._stored(job)
        if any(clip not in stored.places for clip in job.clips):
            raise RunError(f"{stored.path}: damaged, or removed while it was needed; start again")
        return stored.read(job.clips)

    def _stored(self, job: Job) -> _Stored:
        """What is there, whole; no clip if it is damaged."""
        held = self._records.read(self._stage, job.key) or {"file": job.key, "clips": []}
        clips = map(Clip.from_numbers, held["clips"])
        stored = _Stored(self._place(held["file"]), {clip: place for place, clip in enumerate(clips)})
        whole = not stored.places or count_records(stored.path) == len(stored.places)
        return stored if whole else _Stored(stored.path, {})

    def _place(self, name: str) -> Path:
        return self._records.place(self._stage, name, SUFFIX)

    def _write(self, job: Job, stored: _Stored, new: Iterator[tuple[int, bytes]]) -> None:
        """Stores clips together with those that are there, under a name of their own, so that the record, which is
        replaced last, always names a file that is whole."""
        clips = sorted({*stored.places, *job.clips})
        numbers = [clip.to_numbers() for clip in clips]
        name = fingerprint([job.key, numbers])
        old, made = stored.read(clip for clip in clips if clip in stored.places), _in_order(new)
        self._write_file(
            self._place(name), (next(old if clip in stored.places else made) for clip in clips), len(clips)
        )
        self._records.write(self._stage, job.key, {"file": name, "clips": numbers})
        if stored.path != self._place(name):
            with writing(stored.path):
                stored.path.unlink(missing_ok=True)

    @staticmethod
    def _write_file(path: Path, clips: Iterator[bytes], count: int) -> None:
        partial = Records.partial(path)
        try:
            with writing(path):
                writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed")
            try:
                for data in clips:
                    with writing(path):
                        writer.write(data)
            finally:
                with writing(path):
                    writer.close()
            with writing(path):
                if count_records(partial) != count:
                    raise RunError(f"cannot write {path}: not all of {count} clips are there")
                os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def encoded(path: Path, facts: Facts, clips: Sequence[Clip], settings: ClipSettings) -> Iterator[tuple[int, bytes]]:
    """Decodes and encodes clips of a file.

    Args:
      path: a local file.
      facts: of that file.
      clips: in order of time.
      settings: size, rate and codec.

    Yields:
      (place in `clips`, stored pixels), as they are complete.

    Raises:
      VideoError: the file is damaged, or shows fewer pictures than a clip needs.
    """
    rate = settings.rate(facts)
    for start, group in _groups(clips, facts):
        for taker in _taken(path, start, {k: clips[k] for k in group}, settings):
            yield taker.number, pack_pixels(taker.pixels(), settings.codec, rate, settings.crf)


def _groups(clips: Sequence[Clip], facts: Facts) -> Iterator[tuple[float, list[int]]]:
    """Clips that are decoded in one go, for no keyframe lies in a longer gap between them, and where that begins."""
    group: list[int] = []
    start = until = 0.0
    for k, clip in enumerate(clips):
        place = bisect.bisect_right(facts.keyframes, clip.span.start + _TICK) - 1
        key = facts.keyframes[place] if place > 0 else 0.0
        if key > until + _WORTH_SEEKING:
            if group:
                yield start, group
            start, group = clip.span.start + _TICK, []
        group.append(k)
        until = max(until, clip.span.end)
    if group:
        yield start, group


def _taken(path: Path, start: float, clips: dict[int, Clip], settings: ClipSettings) -> Iterator["_Taker"]:
    """Clips as they are complete, decoded from `start` on; from the beginning where that fails."""
    left = dict(clips)
    try:
        for taker in _filled(path, start, left, settings):
            del left[taker.number]
            yield taker
    except VideoError:
        if not start:
            raise
        # A keyframe that is none, or a damaged index: the beginning always works, or says what is wrong.
        yield from _filled(path, 0.0, left, settings)


def _filled(path: Path, start: float, clips: dict[int, Clip], settings: ClipSettings) -> Iterator["_Taker"]:
    """Shows a file to takers of the clips, from `start` on, and yields each as soon as it has all it wants."""
    waiting, shown = [_Taker(number, clip, settings) for number, clip in clips.items()], None
    for seconds, picture in iter_pictures(path, start):
        if shown is not None:
            yield from _show(waiting, shown, seconds)
        if not waiting:
            return
        shown = _Shown(path, seconds, picture, settings, None if shown is None else shown.shape)
    if shown is not None:
        yield from _show(waiting, shown, float("inf"))
    if waiting:
        span = waiting[0].clip.span
        raise VideoError("too_few_pictures", f"{path}: shows too few pictures from {span.start} s to {span.end} s")


def _show(waiting: list["_Taker"], shown: "_Shown", until: float) -> Iterator["_Taker"]:
    for taker in waiting:
        taker.see(shown, until)
    done = [taker for taker in waiting if taker.done]
    waiting[:] = [taker for taker in waiting if not taker.done]
    yield from done


class _Shown:
    """A picture on screen; each box of it is scaled at most once, and none unless a clip wants it."""

    def __init__(self, path: Path, seconds: float, picture: Picture, settings: ClipSettings, shape):
        self.seconds, self.shape = seconds, shape
        self._path, self._picture, self._settings = path, picture, settings
        self._pixels: np.ndarray | None = None
        self._small: dict[tuple, np.ndarray] = {}

    def small(self, box: Box | tuple[()]) -> np.ndarray:
        """uint8 [height, width, 3] of the set's size."""
        if box not in self._small:
            if self._pixels is None:
                self._pixels = self._picture.rgb()
                if self.shape is not None and self.shape != self._pixels.shape:
                    raise VideoError("damaged", f"{self._path}: its picture changes size midway")
                self.shape = self._pixels.shape
            top, bottom, left, right = box or (0, self.shape[0], 0, self.shape[1])
            part = self._pixels[top:bottom, left:right]
            self._small[box] = resize_crop(part, self._settings.height, self._settings.width)
        return self._small[box]


class _Taker:
    """Collects the pictures of one clip.

    Attributes:
      number: place of the clip.
      clip: what to collect.
    """

    def __init__(self, number: int, clip: Clip, settings: ClipSettings):
        self.number, self.clip = number, clip
        self._settings = settings
        self._pictures: list[np.ndarray] = []

    @property
    def done(self) -> bool:
        return len(self._pictures) == self._settings.frames

    def see(self, shown: _Shown, until: float) -> None:
        """A picture that is on screen from its time `until` the next one."""
        span, fps = self.clip.span, self._settings.fps
        if not fps:
            if shown.seconds >= span.start - _TICK and shown.seconds < span.end - _TICK and not self.done:
                self._pictures.append(shown.small(self.clip.box))
            return
        while not self.done and span.start + len(self._pictures) / fps + _TICK < until:
            self._pictures.append(shown.small(self.clip.box))

    def pixels(self) -> np.ndarray:
        """uint8 [T, height, width, 3]."""
        return np.stack(self._pictures)


def _in_order(clips: Iterator[tuple[int, bytes]]) -> Iterator[bytes]:
    """The second of each pair, in order of the first: 0, 1, 2 ..."""
    waiting: dict[int, bytes] = {}
    number = 0
    for k, data in clips:
        waiting[k] = data
        while number in waiting:
            yield waiting.pop(number)
            number += 1
    assert not waiting, f"clips {sorted(waiting)} came without those before them"
