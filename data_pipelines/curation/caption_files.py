"""Captions that people or other programs wrote: files beside the videos, and tables.

    NAME.txt       beside NAME.mp4: one caption, all words of the file
    NAME.json      where there is no NAME.txt: `caption` or `text`, or `captions`, sentences or [sentence, probability]
    TABLE          TSV, CSV, JSONL or Parquet with a column that names a video or clip, and one that holds its caption

A table may name a video by its id, without the suffix, or by the last part of either; or one clip of it, as the table
of clips does (`walks/a.mp4:1500-3500`).  Several rows of one name are several captions: with a column of probabilities,
or equally likely.  What a table says of a source counts before what came with the source, and that before the files
beside it.  A caption without a video, and a video without a caption, are known by name.
"""

import collections
import dataclasses
import json
import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipelines.curation.captions import Caption, checked
from data_pipelines.curation.inputs.folder import list_files
from data_pipelines.curation.inputs.rows import TABLE_SUFFIXES, Row, is_text, read_rows
from data_pipelines.curation.inputs.webdataset import weighed
from data_pipelines.curation.source import Source, open_url
from data_pipelines.shards.manifest import Dropped
from vdm_jax.errors import did_you_mean
from vdm_jax.media.video import VideoError

WORDS = ("beside", "required", "none")
COLUMNS = {
    "name": ("clip", "path", "video", "video_path", "file", "file_name", "filename", "source", "name", "id", "key"),
    "caption": ("caption", "text", "prompt", "description", "sentence", "captions"),
    "probability": ("probability", "weight"),
}
NOTES = ("license", "readme", "changelog")  # text files that are no captions
_CLIP = re.compile(r"(.+):(\d+-\d+)")


@dataclasses.dataclass(frozen=True)
class CaptionTable:
    """What a table says, once it is known which sources there are.

    Attributes:
      captions: source or clip id -> its captions.
      bad: source or clip id -> why what the table says of it cannot be used.
      refused: rows that say nothing usable about anything.
      strangers: names in the table that are no source, in order.
      without: sources that the table does not name, in order.
    """

    captions: Mapping[str, tuple[Caption, ...]]
    bad: Mapping[str, str]
    refused: tuple[Dropped, ...]
    strangers: tuple[str, ...]
    without: tuple[str, ...]

    def of(self, name: str) -> tuple[Caption, ...]:
        """What is said of a source or a clip.

        Raises:
          VideoError: `bad_caption`, with what is wrong.
        """
        if name in self.bad:
            raise VideoError("bad_caption", f"{name}: {self.bad[name]}")
        return self.captions.get(name, ())


def read_caption_table(url: str, ids: Sequence[str], required: bool = False) -> CaptionTable:
    """Reads a table of captions for the sources of a run.

    Args:
      url: the file, a path or URL.
      ids: of all sources.
      required: whether a name that is no source is an error.

    Raises:
      ValueError: it has no known suffix or columns, names a video in a way that fits several, or (if `required`) names
        one that there is not.
      RunError: it cannot be read.
    """
    suffix = os.path.splitext(url)[1].lower()
    if suffix not in TABLE_SUFFIXES:
        raise ValueError(f"captions: {url} is neither {', '.join(WORDS)} nor a file {' '.join(TABLE_SUFFIXES)}")
    refused: list[Dropped] = []
    columns, rows = read_rows(url, refused)
    roles = _roles(url, columns)
    found: dict[str, list[tuple[int, Row]]] = {}
    for number, row in rows:
        name = str(row.get(roles["name"]) or "").strip()
        if name and is_text(name):
            found.setdefault(name, []).append((number, row))
        else:
            refused.append(
                Dropped(f"{url}:{number}", "no_path", f"row {number}: column {roles['name']!r} names nothing")
            )
    known = _Names(url, ids)
    captions: dict[str, tuple[Caption, ...]] = {}
    bad, strangers, said = {}, [], {}
    for name, mine in found.items():
        place = known.resolve(name)
        if place is None:
            strangers.append(name)
            continue
        if place in said:
            raise ValueError(f"captions: {url} names {place} twice, as {said[place]!r} and as {name!r}")
        said[place] = name
        try:
            captions[place] = _captions(mine, roles)
        except ValueError as error:
            bad[place] = str(error)
    if strangers and required:
        more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
        raise ValueError(f"captions: {url} names videos that there are not: {', '.join(strangers[:3])}{more}")
    named = {_CLIP.sub(r"\1", place) if place not in known.ids else place for place in (*captions, *bad)}
    without = tuple(name for name in ids if name not in named)
    return CaptionTable(captions, bad, tuple(refused), tuple(strangers), without)


def source_captions(source: Source, word: str = "beside", table: CaptionTable | None = None) -> tuple[Caption, ...]:
    """The captions of a source, from the table, from what came with it, or from the files beside it.

    Args:
      source: what to look for.
      word: `beside`; `required`, if there must be one; `none`, if nothing but a table counts.
      table: what a table says.

    Raises:
      VideoError: `no_caption`, or `bad_caption`: not UTF-8, or no captions with probabilities.
    """
    if word not in WORDS:
        raise ValueError(f"captions: {did_you_mean(word, WORDS)}")
    found = table.of(source.id) if table is not None else ()
    if not found and word != "none":
        found = _own(source) or (read_sidecar(source.url) if not source.size else ())
    clips = table is not None and source.id not in table.without
    if not found and word == "required" and not clips:
        beside = posixpath.basename(os.path.splitext(source.url)[0])
        raise VideoError("no_caption", f"{source.id}: has no caption in {beside}.txt, nor anywhere else")
    return found


def read_sidecar(url: str) -> tuple[Caption, ...]:
    """The captions of the file beside a video.

    Args:
      url: of the video, a path or URL.

    Raises:
      VideoError: `bad_caption`.
    """
    stem = os.path.splitext(url)[0]
    text = _text(f"{stem}.txt")
    if text is not None:
        return (Caption(text),) if text.split() else ()
    text = _text(f"{stem}.json")
    if text is None:
        return ()
    try:
        fields = json.loads(text)
        return _of_fields(fields) if isinstance(fields, dict) else ()
    except ValueError as error:
        raise VideoError("bad_caption", f"{stem}.json: {error}") from None


def stray_sidecars(inputs: Iterable[str], sources: Iterable[Source], word: str) -> list[str]:
    """Captions beside no video: `NAME.txt` without any `NAME.*` that was found to curate, by path within its folder.

    Args:
      inputs: of the run; local folders are looked through.
      sources: what was found in them.
      word: as in `source_captions`; `none` looks for nothing.

    Raises:
      ValueError: there are any, and captions are `required`.
    """
    if word == "none":
        return []
    urls = [source.url for source in sources if source.is_file]
    stems, found = {os.path.splitext(url)[0] for url in urls}, []
    for folder in (f"{given.rstrip('/')}/" for given in inputs if os.path.isdir(given)):
        if not any(url.startswith(folder) for url in urls):
            continue  # it holds tars or tables
        for file in list_files(folder[:-1]):
            stem, suffix = os.path.splitext(file)
            if suffix.lower() == ".txt" and stem not in stems and os.path.basename(stem).lower() not in NOTES:
                found.append(file.removeprefix(folder).replace(os.sep, "/"))
    if found and word == "required":
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ValueError(f"captions: no video for {', '.join(found[:3])}{more}")
    return found


def _own(source: Source) -> tuple[Caption, ...]:
    if source.captions:
        try:
            return checked(Caption(text, probability, "input") for text, probability in source.captions)
        except ValueError as error:
            raise VideoError("bad_caption", f"{source.id}: {error}") from None
    return (Caption(source.caption, origin="input"),) if source.caption.strip() else ()


def _text(url: str) -> str | None:
    """The text of a file; None where there is none."""
    try:
        with open_url(url) as file:
            return file.read().decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise VideoError("bad_caption", f"{url}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise VideoError("bad_caption", f"{url}: {error.strerror or error}") from None


def _of_fields(fields: Mapping[str, Any]) -> tuple[Caption, ...]:
    """The captions in a JSON object; none if it speaks of other things."""
    if fields.get("captions"):
        return checked(Caption(text, probability) for text, probability in weighed(fields["captions"]))
    text = fields.get("caption") or fields.get("text") or ""
    if not isinstance(text, str):
        raise ValueError(f"caption: {text!r} is no text")
    return (Caption(text),) if text.split() else ()


def _roles(url: str, columns: Sequence[str]) -> dict[str, str]:
    by_name = {column.lower().replace(" ", "_"): column for column in columns}
    roles = {role: next((by_name[n] for n in names if n in by_name), "") for role, names in COLUMNS.items()}
    for role in ("name", "caption"):
        if not roles[role]:
            held = f"its columns: {', '.join(columns)}" if columns else "it is empty"
            raise ValueError(f"captions: {url} has no column {' or '.join(COLUMNS[role][:3])} ... ({held})")
    return roles


def _captions(rows: Sequence[tuple[int, Row]], roles: Mapping[str, str]) -> tuple[Caption, ...]:
    """The captions of all rows with one name."""
    pairs: list[tuple[str, Any]] = []
    for number, row in rows:
        value = row.get(roles["caption"])
        if isinstance(value, str) and not is_text(value):
            raise ValueError(f"row {number}: its caption is not UTF-8 text")
        if isinstance(value, str) and not (roles["caption"].lower() == "captions" and value.startswith("[")):
            pairs.append((value, row.get(roles["probability"])))
        elif value is not None:
            pairs += weighed(json.loads(value) if isinstance(value, str) else value)
    pairs = [(text, weight) for text, weight in pairs if text.split()]
    given = [weight for _, weight in pairs if weight not in (None, "")]
    if given and len(given) < len(pairs):
        raise ValueError("some of its captions have a probability, others have none")
    try:
        shares = [float(weight) for weight in given] or [1 / len(pairs)] * len(pairs) if pairs else []
    except (TypeError, ValueError):
        raise ValueError(f"probabilities {', '.join(map(repr, given))} are no numbers") from None
    return checked(Caption(text, share, "table") for (text, _), share in zip(pairs, shares))


class _Names:
    """Which source a name in a table means."""

    def __init__(self, url: str, ids: Sequence[str]):
        self.ids = frozenset(ids)
        self._url = url
        self._short: dict[str, set[str]] = collections.defaultdict(set)
        for name in ids:
            stem, last = os.path.splitext(name)[0], posixpath.basename(name)
            for short in {stem, last, os.path.splitext(last)[0]}:
                self._short[short].add(name)

    def resolve(self, name: str) -> str | None:
        """The id of a source, or of a clip of it; None if there is none.

        Raises:
          ValueError: several sources could be meant.
        """
        if name in self.ids:
            return name
        fitting = self._short.get(name, ())
        if len(fitting) > 1:
            raise ValueError(
                f"captions: {self._url}: {name!r} may be {' or '.join(sorted(fitting)[:2])}; write the whole path"
            )
        if fitting:
            return next(iter(fitting))
        clip = _CLIP.fullmatch(name)
        place = self.resolve(clip[1]) if clip else None
        return f"{place}:{clip[2]}" if place else None
