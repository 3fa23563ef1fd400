"""`open_inputs`: from the words on a command line to the list of sources.

    FOLDER  **/*.mp4  a.mp4  shards-{000..099}.tar  clips.parquet  table.csv  LEROBOT_FOLDER  s3://bucket/folder

What a word is follows from what is there.  Sources keep the order of the words, and within one the order of names (or
of the table's rows, or the tar's members), so the same input gives the same list on every machine.
"""

import os
from collections.abc import Sequence

from data_pipelines.curation.inputs import folder as folders
from data_pipelines.curation.inputs.found import Found, InputSettings, merged
from data_pipelines.curation.inputs.lerobot import INFO, is_lerobot, lerobot_sources
from data_pipelines.curation.inputs.rows import TABLE_SUFFIXES
from data_pipelines.curation.inputs.table import table_sources
from data_pipelines.curation.inputs.webdataset import brace_range, tar_sources
from data_pipelines.curation.source import IMAGE_SUFFIXES, VIDEO_SUFFIXES, check_unique, kind_of


def open_inputs(words: Sequence[str | os.PathLike], settings: InputSettings | None = None) -> Found:
    """Lists what there is to curate; opens tables and the headers of tars, but no video.

    Args:
      words: paths, globs or URLs, at least one.
      settings: how they are read.

    Raises:
      ValueError: nothing is there, it is of no known kind, it holds nothing to curate, or two sources have one id.
      RunError: it cannot be read.
    """
    settings = settings or InputSettings()
    if not words:
        raise ValueError("inputs: none given")
    parts = [_open_one(os.fspath(word), settings) for word in words]
    found = merged(parts)
    for word, part in zip(words, parts):
        if not part.sources and not part.refused:
            suffixes = " ".join(VIDEO_SUFFIXES if settings.images == "no" else VIDEO_SUFFIXES + IMAGE_SUFFIXES)
            raise ValueError(f"inputs: {word} holds nothing to curate ({suffixes})")
    check_unique(found.sources)
    return found


def _open_one(word: str, settings: InputSettings) -> Found:
    remote = "://" in word
    if not remote and os.path.isdir(word):
        return _open_folder(word, settings)
    if not remote and os.path.exists(word):
        return _open_file(word, settings)
    names = brace_range(word)
    if len(names) > 1:
        return merged([_open_one(name, settings) for name in names])
    if folders.MAGIC.search(word):
        return _open_glob(word, settings)
    if not remote:
        raise ValueError(f"inputs: {word} is neither a file nor a folder")
    if _is_file_name(word):
        return _open_file(word, settings)
    if not folders.is_folder(word):
        raise ValueError(f"inputs: {word} is neither a folder nor named like a video, a tar or a table")
    return _open_folder(word, settings)


def _open_folder(folder: str, settings: InputSettings) -> Found:
    files = folders.list_files(folder.rstrip("/"))
    if is_lerobot(folder) or f"{folder.rstrip('/')}/{INFO}" in files:
        return lerobot_sources(folder)
    tars = [path for path in files if path.lower().endswith(".tar")]
    if tars and not any(kind_of(path) for path in files):
        return merged([tar_sources(path, settings) for path in tars])
    return folders.folder_sources(folder, settings)


def _open_glob(pattern: str, settings: InputSettings) -> Found:
    matches = folders.expand(pattern)
    if not matches:
        raise ValueError(f"inputs: nothing matches {pattern}")
    opened = [path for path in matches if path.lower().endswith((".tar", *TABLE_SUFFIXES))]
    plain = [path for path in matches if path not in set(opened) and ("://" in path or os.path.isfile(path))]
    parts = [_open_file(path, settings) for path in opened]
    return merged([*parts, folders.glob_sources(pattern, plain, settings)])


def _open_file(path: str, settings: InputSettings) -> Found:
    name = path.lower()
    if name.endswith(".tar"):
        return tar_sources(path, settings)
    if name.endswith(TABLE_SUFFIXES):
        return table_sources(path, settings)
    if kind_of(path):
        return folders.file_source(path)
    known = " ".join((*VIDEO_SUFFIXES, *IMAGE_SUFFIXES, ".tar", *TABLE_SUFFIXES))
    raise ValueError(f"inputs: {path} is named like nothing that can be curated ({known})")


def _is_file_name(url: str) -> bool:
    return url.lower().endswith((".tar", *TABLE_SUFFIXES)) or bool(kind_of(url))
