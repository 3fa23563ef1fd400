"""Folders, globs and single files, on a disk or wherever fsspec reaches.

The id of a source is its path within the folder (or below the fixed part of a glob), with "/".  Hidden files are no
footage, and neither are those whose suffix is of nothing that can be curated: they are counted.
"""

import collections
import glob
import os
import posixpath
import re
from collections.abc import Iterable
from typing import Any

from data_pipelines.curation.inputs.found import Found, InputSettings, wanted
from data_pipelines.curation.source import Source, import_fsspec, kind_of
from vdm_jax.errors import RunError

MAGIC = re.compile(r"[*?\[]")
SIDECARS = (".txt", ".json")  # captions beside the files; whoever reads captions reads them


def folder_sources(folder: str, settings: InputSettings) -> Found:
    """All footage of a folder and its subfolders.

    Args:
      folder: a path or URL.
      settings: whether pictures count.

    Raises:
      RunError: a URL cannot be listed.
    """
    folder = canonical(folder.rstrip("/") or "/")
    return _sources(folder, list_files(folder), settings)


def glob_sources(pattern: str, files: Iterable[str], settings: InputSettings) -> Found:
    """The footage among the files that match a pattern; ids start where the pattern's fixed part ends."""
    fixed = posixpath.dirname(pattern[: MAGIC.search(pattern).start()])
    return _sources(canonical(fixed), sorted(files), settings)


def file_source(path: str) -> Found:
    """One file, known by its name."""
    return Found((Source(posixpath.basename(path), path, kind_of(path)),))


def list_files(folder: str) -> list[str]:
    """Every file below a folder, hidden ones excepted, in one order whatever the file system's.

    Raises:
      RunError: a URL cannot be listed.
    """
    if "://" in folder:
        folder = canonical(folder)
        return sorted(p for p in _remote(folder, "find") if not _hidden(p[len(folder) :]))
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)


def expand(pattern: str) -> list[str]:
    """The files (and folders, for a path) that match a glob, in order.

    Raises:
      RunError: a URL cannot be listed.
    """
    return sorted(_remote(pattern, "glob") if "://" in pattern else glob.glob(pattern, recursive=True))


def is_folder(url: str) -> bool:
    """Whether a URL is a folder.

    Raises:
      RunError: it cannot be reached.
    """
    return bool(_remote(url, "isdir"))


def canonical(url: str) -> str:
    """A URL as its own listings spell it (`memory://a` is `memory:///a`); a path is itself.

    Raises:
      RunError: its protocol is unknown, or lacks a package.
    """
    return _remote(url, "name") if "://" in url else url


def _remote(url: str, verb: str) -> Any:
    fsspec = import_fsspec(url)
    try:
        system, path = fsspec.core.url_to_fs(url)
        if verb == "name":
            return system.unstrip_protocol(path)
        if verb == "isdir":
            return system.isdir(path)
        names = system.find(path) if verb == "find" else system.glob(path)
        return [system.unstrip_protocol(name) for name in names]
    except (OSError, ValueError, ImportError) as error:
        raise RunError(f"{url}: cannot be listed ({' '.join(str(error).split())})") from None


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/") if part)


def _sources(folder: str, files: list[str], settings: InputSettings) -> Found:
    kinds = {path: kind_of(path) for path in files}
    taken = wanted({kind for kind in kinds.values() if kind}, settings.images)
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    sources, ignored = [], collections.Counter()
    for path, kind in kinds.items():
        if kind and kind in taken:
            sources.append(Source(path.removeprefix(prefix).replace(os.sep, "/"), path, kind))
        elif os.path.splitext(path)[1].lower() not in SIDECARS:
            ignored[os.path.splitext(path)[1].lower() or "none"] += 1
    return Found(tuple(sources), (), tuple(sorted(ignored.items())))
