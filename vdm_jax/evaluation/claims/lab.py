"""What the measurement of a claim works with: its seed, its budget, base models, a place for pictures.

Base models are trained once and kept in a cache under the hash of everything that decides them (`Base.settings`), so a
claim that starts from a pretrained network costs what the method costs, and a base that was changed is never mistaken
for the one before.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.media.grid import strip_sheet, write_png

BUDGETS = ("fast", "full")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Base:
    """A base model.

    Attributes:
      name: of the kind `video_dit`.
      settings: everything that decides its weights: configs, data, steps, seed; plain values.
      train: makes the weights, `{network: nested dict of arrays}`.
    """

    name: str
    settings: Mapping[str, Any]
    train: Callable[[], dict[str, Any]]

    @property
    def key(self) -> str:
        """The content hash of its settings."""
        text = json.dumps({"name": self.name, **self.settings}, sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def path(self, cache: Path) -> Path:
        """Its file in a cache."""
        return cache / f"{self.name}-{self.key}.npz"


@dataclasses.dataclass(frozen=True)
class Lab:
    """See the top of this file.

    Attributes:
      seed: of weights, data order and samples.
      budget: one of `BUDGETS`.
      cache: directory of base models.
      pictures: directory that pictures go to; None shows nothing (only one seed does).
      say: what progress is told to.
    """

    seed: int
    budget: str
    cache: Path
    pictures: Path | None = None
    say: Callable[[str], None] = print

    def __post_init__(self):
        if self.budget not in BUDGETS:
            raise ValueError(f"budget: {did_you_mean(self.budget, BUDGETS)}")

    def pick(self, fast: T, full: T) -> T:
        """The value for this budget."""
        return fast if self.budget == "fast" else full

    def base(self, base: Base) -> dict[str, Any]:
        """The weights of a base model, `{network: nested dict}` of host arrays; trained now if the cache lacks them.

        Raises:
          RunError: its file is damaged.
        """
        path = base.path(self.cache)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.with_suffix(".lock").open("w") as lock:  # seeds run side by side, and one of them trains it
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    self.say(f"training the base {base.name}")
                    _write(path, base.train())
        return _read(path)

    def show(self, name: str, cells: Sequence[Mapping[str, np.ndarray]], captions: Sequence[str], **layout) -> None:
        """Writes `NAME.png`, a sheet of film strips.

        Args:
          name: of the picture, without a suffix.
          cells: label -> uint8 `[T, H, W, 3]`, a group of clips each.
          captions: of the groups.
          layout: `frames`, `height`, `columns` of `media.grid.strip_sheet`.
        """
        if self.pictures is not None:
            write_png(strip_sheet(cells, captions, **layout), self.pictures / f"{name}.png")


def _write(path: Path, params: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with partial.open("wb") as file:
        np.savez(file, **{"/".join(keys): np.asarray(leaf) for keys, leaf in flatten_dict(params).items()})
    os.replace(partial, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        with np.load(path) as file:
            return unflatten_dict({tuple(name.split("/")): file[name] for name in file.files})
    except Exception as error:
        raise RunError(f"{path}: is not a base model ({error}); delete it, and it is trained again") from None
