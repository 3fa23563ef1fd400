"""Folders that appear whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from vdm_jax.errors import RunError


def check_new(folder: Path) -> None:
    """Raises ValueError where there is something already; for whoever would find out late."""
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: exists already; choose another folder")


@contextlib.contextmanager
def whole_or_nothing(folder: Path) -> Iterator[Path]:
    """A new folder to write into that takes the name `folder` when all of it is there.

    Raises:
      ValueError: there is something already.
      RunError: it cannot be written.
    """
    folder = folder.absolute()
    check_new(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(folder)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
