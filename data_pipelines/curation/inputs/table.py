"""Tables of videos: one row, one source.  Columns are given, or guessed by name.

Known layouts:

    Kinetics  label, youtube_id, time_start, time_end    files ID_START_END.mp4 (trimmed) or ID.mp4, also below LABEL/
    WebVid    videoid, contentUrl, page_dir, name        files PAGE_DIR/ID.mp4 or ID.mp4
    UCF       clip_name, clip_path, label                clips of one recording share a group
    OpenVid   video, caption, ... scores                 and anything else with a path and, perhaps, a caption

A row's id is its `id` column, or else its path, with the stretch if it has one: `a.mp4#2000-5500` (milliseconds).
Columns that play no role go into `Source.extra`.
"""

import dataclasses
import json
import math
import os
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_pipelines.curation.inputs.found import Found, InputSettings
from data_pipelines.curation.inputs.rows import Row, is_text, read_rows
from data_pipelines.curation.inputs.webdataset import weighed
from data_pipelines.curation.source import Source, Span, kind_of
from data_pipelines.shards.manifest import Dropped
from vdm_jax.errors import did_you_mean

GUESSES: dict[str, tuple[str, ...]] = {
    "path": ("path", "video", "video_path", "clip_path", "file", "file_name", "filename", "filepath", "file_path",
             "video_file", "clip", "image", "image_path", "url", "contenturl"),
    "id": ("id", "clip_id", "uid", "key"),
    "group": ("group", "source_id", "video_id"),
    "caption": ("caption", "text", "prompt", "description", "sentence", "label", "title"),
    "captions": ("captions",),
    "start": ("start", "start_time", "time_start", "start_seconds"),
    "end": ("end", "end_time", "time_end", "end_seconds"),
}  # fmt: skip
UCF_CLIP = re.compile(r"(v_\w+_g\d+)_c\d+")


class BadRowError(Exception):
    """A row that gives no source.

    Attributes:
      reason: one word for counting.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the rows of one table are understood.

    Attributes:
      roles: column by role.
      root: where relative paths start.
      candidates: (row, path as written) -> the places where its file may be, with whether a file there is the
        whole recording, of which the row is a stretch.
    """

    roles: Mapping[str, str]
    root: str
    candidates: Callable[[Row, str], list[tuple[str, bool]]]


def table_sources(url: str, settings: InputSettings) -> Found:
    """The sources of a table.

    Args:
      url: a path or URL ending in one of `rows.TABLE_SUFFIXES`.
      settings: columns and root.

    Raises:
      ValueError: a column that the table lacks, or no column with paths.
      RunError: the file cannot be read.
    """
    refused: list[Dropped] = []
    columns, rows = read_rows(url, refused)
    layout = _layout(url, columns, settings)
    sources = []
    for number, row in rows:
        try:
            sources.append(_source(row, layout))
        except BadRowError as bad:
            refused.append(Dropped(f"{url}:{number}", bad.reason, f"row {number}: {bad}"))
    refused.sort(key=lambda drop: int(drop.file.rpartition(":")[2]))
    return Found(tuple(sources), tuple(refused))


def _layout(url: str, columns: Sequence[str], settings: InputSettings) -> Layout:
    given = dict(settings.columns)
    for role, column in given.items():
        if column not in columns:
            raise ValueError(f"columns.{role}: {did_you_mean(column, columns)} (the columns of {url})")
    by_name = {column.lower().replace(" ", "_"): column for column in columns}
    roles = {}
    for role, names in GUESSES.items():
        column = given.get(role) or next((by_name[name] for name in names if name in by_name), None)
        if column and (role in given or column not in given.values()):
            roles[role] = column
    root = settings.root or posixpath.dirname(url)
    if "path" not in given and {"youtube_id", "time_start", "time_end"} <= set(by_name):
        return Layout({**roles, "path": by_name["youtube_id"]}, root, _kinetics)
    if "path" not in given and {"videoid", "page_dir"} <= set(by_name):
        roles = {"caption": by_name["name"]} | roles if "name" in by_name else roles
        return Layout({**roles, "path": by_name["videoid"]}, root, _webvid)
    if "path" not in roles:
        held = f"its columns: {', '.join(columns)}" if columns else "it is empty"
        raise ValueError(f"columns.path: {url} has no column of paths that can be guessed ({held}); name it")
    return Layout(roles, root, lambda row, path: [(path, True)])


def _kinetics(row: Row, name: str) -> list[tuple[str, bool]]:
    start, end, label = (_field(row, column) for column in ("time_start", "time_end", "label"))
    trimmed = f"{name}_{_whole(start):06d}_{_whole(end):06d}.mp4"
    folders = ["", *({label, label.replace(" ", "_")} - {""}), _field(row, "split")]
    places = [posixpath.join(folder, trimmed) for folder in sorted(set(folders))]
    return [(place, False) for place in places] + [(f"{name}.mp4", True)]


def _webvid(row: Row, name: str) -> list[tuple[str, bool]]:
    return [(posixpath.join(_field(row, "page_dir"), f"{name}.mp4"), True), (f"{name}.mp4", True)]


def _field(row: Row, name: str) -> str:
    return str(next((v for k, v in row.items() if k.lower() == name and v is not None), ""))


def _whole(text: str) -> int:
    try:
        return int(float(text))
    except ValueError:
        raise BadRowError("bad_span", f"{text!r} is not a number of seconds") from None


def _source(row: Row, layout: Layout) -> Source:
    roles = layout.roles
    for name, value in row.items():
        if isinstance(value, str) and not is_text(value):
            reason = "bad_caption" if name in (roles.get("caption"), roles.get("captions")) else "bad_row"
            raise BadRowError(reason, f"column {name!r} is not UTF-8 text")
    path = str(row.get(roles["path"]) or "").strip()
    if not path:
        raise BadRowError("no_path", f"column {roles['path']!r} is empty")
    url, whole = _find(row, path, layout)
    if not kind_of(url):
        raise BadRowError("no_video", f"{path} is not named like a video or a picture")
    span = _span(row, roles)
    name = path if span is None else f"{path}#{span.milliseconds[0]}-{span.milliseconds[1]}"
    key, group = (str(row.get(roles[role]) or "") if role in roles else "" for role in ("id", "group"))
    recording = UCF_CLIP.search(path)
    return Source(
        id=key or name,
        url=url,
        kind=kind_of(url),
        group=group or (recording[1] if recording else path),
        caption=" ".join(str(row.get(roles.get("caption", "")) or "").split()),
        captions=_captions(row, roles),
        span=span if whole else None,
        extra={k: _plain(v) for k, v in row.items() if k not in roles.values()},
    )


def _find(row: Row, path: str, layout: Layout) -> tuple[str, bool]:
    """The first place with a file; a URL is believed."""
    places = [(_join(layout.root, place), whole) for place, whole in layout.candidates(row, path)]
    for url, whole in places:
        if "://" in url or os.path.isfile(url):
            return url, whole
    raise BadRowError("missing", f"no such file: {' or '.join(url for url, _ in places)}")


def _join(root: str, path: str) -> str:
    if "://" in path or (posixpath.isabs(path) and ("://" in root or os.path.exists(path))):
        return path
    return posixpath.join(root, path.lstrip("/"))


def _span(row: Row, roles: Mapping[str, str]) -> Span | None:
    values = [row.get(roles[role]) if role in roles else None for role in ("start", "end")]
    if all(value in (None, "") for value in values):
        return None
    try:
        start, end = (float(value) for value in values)
        if not (math.isfinite(start) and math.isfinite(end)):
            raise ValueError
        return Span(start, end)
    except (TypeError, ValueError):
        raise BadRowError("bad_span", f"{values[0]!r} to {values[1]!r} is not a stretch of seconds") from None


def _captions(row: Row, roles: Mapping[str, str]) -> tuple[tuple[str, float], ...]:
    value = row.get(roles.get("captions", ""))
    if value in (None, ""):
        return ()
    try:
        return weighed(json.loads(value) if isinstance(value, str) else value)
    except ValueError as error:
        raise BadRowError("bad_caption", str(error)) from None


def _plain(value: Any) -> Any:
    """What JSON holds; a float that is not finite becomes None, anything unknown its text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(k): _plain(item) for k, item in value.items()}
    return str(value)
