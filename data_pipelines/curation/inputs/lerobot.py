"""LeRobot data sets: `meta/info.json` names the cameras and where their videos lie; an episode has a task in words.

Version 2 keeps one file per episode and camera, version 3 many episodes in one file, each a stretch of seconds.  One
source is one camera's view of one episode; all views of an episode form a group.
"""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from data_pipelines.curation.inputs.folder import list_files
from data_pipelines.curation.inputs.found import Found
from data_pipelines.curation.inputs.rows import read_rows
from data_pipelines.curation.source import Source, Span, open_url
from data_pipelines.shards.manifest import Dropped
from vdm_jax.errors import RunError

INFO = "meta/info.json"


def is_lerobot(folder: str) -> bool:
    """Whether a local folder is such a data set."""
    return os.path.isfile(os.path.join(folder, INFO))


def lerobot_sources(folder: str) -> Found:
    """The camera views of all episodes.

    Args:
      folder: a path or URL, the one that holds `meta`.

    Raises:
      RunError: `info.json` or the list of episodes cannot be read, or names no camera that is stored as video.
    """
    folder = folder.rstrip("/")
    info = _read_info(f"{folder}/{INFO}")
    cameras = sorted(name for name, feature in info["features"].items() if feature.get("dtype") == "video")
    if not cameras or not info.get("video_path"):
        raise RunError(f"{folder}/{INFO}: no feature is stored as video")
    sources, refused = [], []
    for episode in _episodes(folder, refused):
        for camera in cameras:
            name = f"episode_{int(episode['episode_index']):06d}"
            try:
                sources.append(_source(folder, info, episode, camera, name))
            except (KeyError, TypeError, ValueError) as error:
                said = f"no {error}" if isinstance(error, KeyError) else str(error)
                refused.append(Dropped(f"{name}/{camera}", "bad_row", f"{name}/{camera}: {said}"))
            except FileNotFoundError as error:
                refused.append(Dropped(f"{name}/{camera}", "missing", f"{name}/{camera}: no such file: {error}"))
    return Found(tuple(sources), tuple(refused))


def _read_info(url: str) -> dict[str, Any]:
    try:
        with open_url(url) as file:
            info = json.loads(file.read())
        if not isinstance(info, dict) or not isinstance(info.get("features"), dict):
            raise ValueError("it has no features")
    except OSError as error:
        raise RunError(f"{url}: {error.strerror or error}") from None
    except ValueError as error:
        raise RunError(f"{url}: no description of a LeRobot data set ({error})") from None
    return info


def _episodes(folder: str, refused: list[Dropped]) -> Iterable[Mapping[str, Any]]:
    """In order of their numbers: `meta/episodes.jsonl` (version 2), or Parquet files in `meta/episodes` (version 3)."""
    tables = [path for path in list_files(f"{folder}/meta/episodes") if path.endswith(".parquet")]
    rows = [row for url in tables or [f"{folder}/meta/episodes.jsonl"] for _, row in read_rows(url, refused)[1]]
    if not rows or not all(isinstance(row.get("episode_index"), int) for row in rows):
        raise RunError(f"{folder}/meta: its list of episodes is empty, or lacks episode_index")
    return sorted(rows, key=lambda row: row["episode_index"])


def _source(folder: str, info: Mapping[str, Any], episode: Mapping[str, Any], camera: str, name: str) -> Source:
    number, chunk = episode["episode_index"], f"videos/{camera}/chunk_index"
    span = None
    if chunk in episode:
        place = {"chunk_index": episode[chunk], "file_index": episode[f"videos/{camera}/file_index"]}
        span = Span(*(episode[f"videos/{camera}/{side}_timestamp"] for side in ("from", "to")))
    else:
        place = {"episode_chunk": number // int(info.get("chunks_size") or 1000), "episode_index": number}
    url = f"{folder}/{info['video_path'].format(video_key=camera, **place)}"
    if "://" not in url and not os.path.isfile(url):
        raise FileNotFoundError(url)
    tasks = [" ".join(str(task).split()) for task in episode.get("tasks") or ()]
    return Source(
        id=f"{name}/{camera}",
        url=url,
        group=name,
        caption=tasks[0] if tasks else "",
        captions=tuple((task, 1 / len(tasks)) for task in tasks) if len(tasks) > 1 else (),
        span=span,
        extra={"camera": camera, "fps": info.get("fps"), "length": episode.get("length")},
    )
