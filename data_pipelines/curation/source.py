"""One video (or picture) to curate: where it is, and what is known of it before anybody looks inside.

A source is a path, a URL that fsspec opens, or a range of bytes of either: a member of a tar, which holds its files
whole and uncompressed, is read without unpacking the rest.  Every stage works on a local path; `local_path` gives one
for the time of a `with` block.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vdm_jax.errors import RunError
from vdm_jax.media.video import VideoError

COPY_BYTES = 1 << 20
KINDS = ("video", "image")
VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv")
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclasses.dataclass(frozen=True, order=True)
class Span:
    """A stretch of a video: the pictures shown at `start <= t < end`, seconds of the source, to the millisecond."""

    start: float
    end: float

    def __post_init__(self):
        for name in ("start", "end"):
            object.__setattr__(self, name, round(float(getattr(self, name)), 3))
        if not 0 <= self.start < self.end < float("inf"):
            raise ValueError(f"span: {self.start!r} to {self.end!r} is not a stretch of time from 0 on")

    @property
    def duration(self) -> float:
        """Seconds."""
        return round(self.end - self.start, 3)

    @property
    def milliseconds(self) -> tuple[int, int]:
        """(start, end) as whole milliseconds: what ids are made of."""
        return round(self.start * 1000), round(self.end * 1000)


@dataclasses.dataclass(frozen=True)
class Source:
    """One thing to curate.

    Attributes:
      id: stable and unique: the path within the folder or tar (with "/"), or the key of a table's row.
      url: a local path, or a URL that fsspec opens.
      kind: one of `KINDS`; an image is a clip of one frame.
      group: what a split never divides, the video that several sources are stretches or cameras of; the id
        unless given.
      caption: a sentence that came with the source, or "".
      captions: several with their probabilities, ((text, probability), ...); empty where there is at most one.
      span: the stretch of the file that this source is; None for all of it.
      offset, size: the bytes of `url` that are the file, for a member of a tar; (0, 0) for the whole of it.
      extra: whatever else a table says of it, plain JSON values by column.
    """

    id: str
    url: str
    kind: str = "video"
    group: str = ""
    caption: str = ""
    captions: tuple[tuple[str, float], ...] = ()
    span: Span | None = None
    offset: int = 0
    size: int = 0
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self):
        if not self.id or not self.url:
            raise ValueError(f"source: needs an id and a url, got id {self.id!r} and url {self.url!r}")
        if self.kind not in KINDS:
            raise ValueError(f"kind: {self.kind!r} is neither {' nor '.join(KINDS)}")
        if not self.group:
            object.__setattr__(self, "group", self.id)

    @property
    def is_file(self) -> bool:
        """Whether `url` is itself the local file: nothing has to be copied to read it."""
        return not self.size and "://" not in self.url

    def to_json(self) -> str:
        """One line; the same for equal sources."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Source":
        """The inverse of `to_json`.

        Raises:
          ValueError: the text is no such source.
        """
        try:
            fields = json.loads(text)
            fields["captions"] = tuple((str(t), float(p)) for t, p in fields["captions"])
            fields["span"] = Span(**fields["span"]) if fields["span"] else None
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"source: {text[:80]!r} is no source ({error})") from None


def kind_of(name: str) -> str:
    """What a file's suffix says it holds: one of `KINDS`, or "" for anything else."""
    suffix = os.path.splitext(name)[1].lower()
    return "video" if suffix in VIDEO_SUFFIXES else "image" if suffix in IMAGE_SUFFIXES else ""


def check_unique(sources: Iterable[Source]) -> None:
    """Refuses two sources of one id.

    Raises:
      ValueError: names the id and both places.
    """
    seen: dict[str, Source] = {}
    for source in sources:
        other = seen.setdefault(source.id, source)
        if other is not source:
            places = f"{_place(other)} and {_place(source)}"
            raise ValueError(f"inputs: two sources have the id {source.id!r} ({places}); ids must differ")


@contextlib.contextmanager
def local_path(source: Source, folder: str | os.PathLike | None = None) -> Iterator[Path]:
    """The source as a local file, for as long as the block lasts.

    A file that is local already is not copied.  Of a tar's member or a URL exactly its bytes are, piece by piece.

    Args:
      source: what to read.
      folder: where a copy is put; the system's folder for temporary files unless given.

    Raises:
      VideoError: it is `missing` or `unreadable`.
      RunError: the copy cannot be written, or fsspec lacks what the URL needs.
    """
    if source.is_file:
        if not Path(source.url).is_file():
            raise VideoError("missing", f"{source.url}: no such file")
        yield Path(source.url)
        return
    with tempfile.TemporaryDirectory(prefix="vdm-source-", dir=folder) as scratch:
        path = Path(scratch) / f"source{Path(source.id).suffix.lower()}"
        _copy(source, path)
        yield path


def _copy(source: Source, path: Path) -> None:
    with path.open("wb") as target:
        try:
            with open_url(source.url) as file:
                if source.size:
                    file.seek(source.offset)
                    _copy_bytes(file, target, source)
                else:
                    shutil.copyfileobj(file, target, COPY_BYTES)
        except FileNotFoundError:
            raise VideoError("missing", f"{source.url}: no such file") from None
        except OSError as error:
            if error.filename in (None, os.fspath(path)) and error.errno == 28:  # ENOSPC
                raise RunError(f"cannot copy {source.url} to {path.parent}: {error.strerror}") from None
            raise VideoError("unreadable", f"{source.url}: {error.strerror or error}") from None


def _copy_bytes(file: Any, target: Any, source: Source) -> None:
    left = source.size
    while left:
        piece = file.read(min(COPY_BYTES, left))
        if not piece:
            raise VideoError("truncated", f"{source.url}: ends {left} bytes before the end of {source.id}")
        target.write(piece)
        left -= len(piece)


def open_url(url: str) -> Any:
    """A path or URL, opened for reading bytes.

    Raises:
      RunError: the package that the URL's protocol needs is not installed.
      OSError: it cannot be read.
    """
    if "://" not in url:
        return open(url, "rb")
    fsspec = import_fsspec(url)
    try:
        return fsspec.open(url, "rb").open()
    except (ImportError, ValueError) as error:  # no such protocol, or its package is missing
        raise RunError(f"{url}: {' '.join(str(error).split())}") from None


def import_fsspec(url: str) -> Any:
    """The package fsspec, which only URLs need.

    Raises:
      RunError: it is not installed.
    """
    try:
        import fsspec
    except ImportError:
        raise RunError(f"{url}: URLs need fsspec: pip install 'vdm_jax[curate]'") from None
    return fsspec


def _place(source: Source) -> str:
    span = f" {source.span.start:g}..{source.span.end:g} s" if source.span else ""
    return f"{source.url}{f' at byte {source.offset}' if source.size else ''}{span}"
