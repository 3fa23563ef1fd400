"""The run directory: one folder from which a run can be resumed, sampled, exported or reproduced.

    RUN/config.json       the config as run
        code.json         the code versions that trained it, one entry per start
        checkpoints/      (`checkpoint.py`)
        frozen/           weights that nothing trains, where it has such (the same)
        metrics.jsonl     (`writers.py`)
        tb/               TensorBoard event files
        samples/          videos sampled while training
        programs/         compiled steps, if they are kept (`programs.py`)
        lock              held by the process that trains

Opening it for training takes the lock, so that two processes never write one run, and compares the config: a run
goes on only with the config it began with, apart from the fields of `MAY_CHANGE`.  A first start that a `ValueError`
ends before its first step leaves nothing.
"""

import datetime
import errno
import fcntl
import fnmatch
import json
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from vdm_jax.config import difference, to_dict
from vdm_jax.errors import RunError

# Fields a resumed run may change: they decide when a run ends, what it logs and where it computes, and leave what
# each step computes alone.
MAY_CHANGE = ("train.steps", "log.*", "checkpoint.*", "mesh.*", "compile.*")


class RunDirectory:
    """A run directory opened for training; used as a context manager, which holds the lock.

    Args:
      path: the directory; made if absent.
      config: the config of this start (ConfigDict, dataclass or mapping).
      may_change: patterns of the config fields in which a resumed run may differ.

    Attributes:
      path, checkpoints, samples, programs, tensorboard, metrics: where things are.
      config: the config as plain JSON types.
      code: the code version of this start.
      is_new: True when no run was here before.
      changes: lines `field: old -> new`, the permitted changes of this start.

    Raises:
      ValueError: the directory belongs to another config (shows the difference), or to no run at all.
      RunError: it cannot be written, is damaged, or another process is training in it.
    """

    def __init__(self, path: str | os.PathLike, config: Any, may_change: tuple[str, ...] = MAY_CHANGE):
        self.path = Path(path).absolute()
        self.config = json.loads(json.dumps(to_dict(config)))
        self.code = code_version()
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.programs = self.path / "programs"
        self.tensorboard = self.path / "tb"
        self.metrics = self.path / "metrics.jsonl"
        self.is_new = not (self.path / "config.json").exists()
        self.changes: list[str] = []
        self._lock = None
        try:
            if jax.process_index() == 0:
                self._claim(may_change)
        except OSError as error:
            self.close()
            raise RunError(f"workdir: cannot write {self.path}: {error.strerror or error}") from None
        except Exception:
            self.close()
            raise
        if jax.process_count() > 1:  # the others go on when it is theirs too; if process 0 fails, they end with it
            multihost_utils.sync_global_devices("run directory")

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, ValueError):
            self._undo()
        self.close()

    def close(self) -> None:
        """Lets go of the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _undo(self) -> None:
        """Removes what a first start wrote before a mistake of the user's was found, so that the next one is a first
        start too; once there is a step, the directory is worth more than that."""
        stepped = self.metrics.exists() and self.metrics.stat().st_size > 0
        if self.is_new and self._lock is not None and not stepped and not any(self.checkpoints.iterdir()):
            for path in self.path.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.path.rmdir()

    def _claim(self, may_change: tuple[str, ...]) -> None:
        if self.is_new and self.path.is_dir() and any(p.name != "lock" for p in self.path.iterdir()):
            raise ValueError(f"workdir: {self.path} is not empty and holds no run (no config.json); choose another one")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(self.path / "lock")
        if not self.is_new:
            self.changes = check_config(self.path, self.config, may_change)
        for folder in (self.checkpoints, self.samples, self.tensorboard):
            folder.mkdir(exist_ok=True)
        starts = json.loads((self.path / "code.json").read_text()) if (self.path / "code.json").exists() else []
        write_atomically(self.path / "code.json", json.dumps([*starts, self.code], indent=1))
        write_atomically(self.path / "config.json", json.dumps(self.config, indent=1))


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """Reads the config of the run in directory `path`.

    Raises:
      ValueError: there is no run.
      RunError: its config.json is damaged.
    """
    file = Path(path) / "config.json"
    if not file.is_file():
        raise ValueError(f"workdir: {path} holds no run (no config.json)")
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"workdir: {file} cannot be read: {error}") from None


def check_config(path: str | os.PathLike, config: Mapping[str, Any], may_change: tuple[str, ...]) -> list[str]:
    """Compares `config` with that of the run in `path`; returns the permitted changes.

    Raises:
      ValueError: they differ in a field that no pattern of `may_change` covers; shows `field: old -> new`.
    """
    lines = difference(read_config(path), config)
    forbidden = [n for n in lines if not any(fnmatch.fnmatch(n.split(":", 1)[0], p) for p in may_change)]
    if forbidden:
        raise ValueError(
            f"workdir: {path} belongs to another config ({'; '.join(forbidden)}); use its config or another workdir "
            f"(a resumed run may change {', '.join(may_change)})"
        )
    return lines


def take_lock(path: Path):
    """Takes the exclusive lock of a run; it is held until the returned file is closed or the process ends.

    The kernel lets go of it when the holder dies, however it dies, so a lock file that merely exists locks nothing.

    Raises:
      RunError: another process holds it; names its pid and host.
      OSError: the file cannot be written.
    """
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise RunError(f"workdir: {path.parent} is in use by {holder}; stop it or choose another workdir") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that a reader or a crash sees the old text or the new one, never a part.  Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def code_version() -> dict[str, Any]:
    """Returns package version, git revision of the checkout (None outside of one), jax, Python, and the time."""
    source = Path(__file__).resolve().parents[2]
    revision = _git(source, "rev-parse", "HEAD")
    changed = _git(source, "status", "--porcelain", "--untracked-files=no")
    return {
        "vdm_jax": metadata.version("vdm_jax"),
        "revision": revision,
        "uncommitted_changes": None if changed is None else bool(changed),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    if not (folder / ".git").exists():  # installed: the git repository around it, if any, is somebody else's
        return None
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
