"""What is finished, on disk: one file for each source and step, there whole or not at all.

    WORK/STAGE-FINGERPRINT/ab/abcdef...json       {"digest": of the value, "value": ...}

A record is written beside its place and renamed, so a process may be killed at any moment and two may write the same
one.  It carries its own digest: what the disk has lost or damaged counts as not done, and is made again.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from data_pipelines.curation.stage import Stage, canonical
from vdm_jax.errors import RunError


class Records:
    """Results of steps, by step and key.

    Args:
      folder: the working directory, made when something is written.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def read(self, stage: Stage, key: str) -> Any | None:
        """The stored value (JSON types), or None if it is not there or is damaged."""
        try:
            stored = json.loads(self._path(stage, key).read_bytes())
            value = stored["value"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return value if hashlib.sha256(canonical(value)).hexdigest() == stored.get("digest") else None

    def write(self, stage: Stage, key: str, value: Any) -> None:
        """Stores a value.

        Raises:
          ValueError: it holds a number that is not finite, or what JSON cannot hold.
          RunError: the disk is full, or fails otherwise.
        """
        text = canonical(value)
        self.put(stage, key, canonical({"digest": hashlib.sha256(text).hexdigest(), "value": json.loads(text)}))

    def put(self, stage: Stage, key: str, content: bytes) -> None:
        """Stores bytes as they are, atomically."""
        path = self._path(stage, key)
        partial = self.partial(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            partial.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise RunError(f"cannot write {path}: {error.strerror or error}") from None

    def place(self, stage: Stage, key: str, suffix: str) -> Path:
        """Where a file that belongs to a record lies; its folder exists afterwards.

        Raises:
          RunError: the folder cannot be made.
        """
        path = self._path(stage, key).with_suffix(suffix)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot write {path.parent}: {error.strerror or error}") from None
        return path

    @staticmethod
    def partial(path: Path) -> Path:
        """The name under which a file is written before it has its own."""
        return path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")

    def clear_partial(self) -> None:
        """Removes what killed processes left half written; only while nobody else writes."""
        for left_over in self.folder.glob("*/*/.*.part"):
            left_over.unlink(missing_ok=True)

    def _path(self, stage: Stage, key: str) -> Path:
        return self.folder / stage.folder / key[:2] / f"{key}.json"
