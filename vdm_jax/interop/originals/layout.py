"""A file as the authors of a model wrote it, and the published class that holds the same tensors under other names.

Every tensor there is one tensor here, of the same shape and with the same values; only names differ.  What
`config.json` would say follows from shapes.  So a layout is a name for each published name, and all else is derived:
what is missing, and the way back.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vdm_jax.interop.families.family import Family
from vdm_jax.interop.families.known import FAMILIES
from vdm_jax.interop.files.keymap import Shape
from vdm_jax.interop.files.matching import listed, misshaped
from vdm_jax.interop.files.tensors import STEMS, Stored, TensorWriter

Shapes = Mapping[str, Shape]


@dataclasses.dataclass(frozen=True)
class Original:
    """A layout.

    Attributes:
      title: what it is, for people.
      component: what pipelines of the published class call it.
      marks: names that every file of it has and no other; what stands in front of them is cut off all names.
      config: name -> shape, to `config.json`.
      rename: (name in the published class, shapes) -> name in the file.
      unread: whether a name is of something that no network here uses; it is left out, and whoever imports is told.
    """

    title: str
    component: str
    marks: tuple[str, ...]
    config: Callable[[Shapes], dict[str, Any]]
    rename: Callable[[str, Shapes], str]
    unread: Callable[[str], bool] = lambda name: False

    def prefix(self, names: Mapping[str, Any]) -> str | None:
        """What stands in front of all marks in a file; None if it is of another layout."""
        found = {name.removesuffix(self.marks[0]) for name in names if name.endswith(self.marks[0])}
        fitting = [prefix for prefix in found if all(prefix + mark in names for mark in self.marks)]
        return fitting[0] if len(fitting) == 1 else None


@dataclasses.dataclass(frozen=True)
class Recognised:
    """A file whose layout is known and that holds all of it.

    Attributes:
      original, family: its layout, and the class it is of.
      published: `config.json`.
      tensors: name in the published class -> where its values are.
      left_out: names of the file that nothing uses.
    """

    original: Original
    family: Family
    published: dict[str, Any]
    tensors: dict[str, Stored]
    left_out: tuple[str, ...]


def recognise(original: Original, prefix: str, found: Mapping[str, Stored], file: Path) -> Recognised:
    """Holds the tensors of a file against a layout.

    Args:
      original, prefix: the layout, and what stands in front of its names.
      found: name -> tensor of the file.
      file: for messages.

    Raises:
      ValueError: one line with all that is missing, unexpected or of another shape, in the names of the file.
    """
    own = {name.removeprefix(prefix): stored for name, stored in found.items() if name.startswith(prefix)}
    shapes = {name: stored.shape for name, stored in own.items()}
    try:
        published = original.config(shapes)
    except KeyError as error:
        raise ValueError(f"{file}: not {original.title}: it has no tensor {error.args[0]}") from None
    family = FAMILIES[(published.get("architectures") or [published.get("_class_name")])[0]]
    config = family.config(published)
    wanted = family.keymap(config).shapes(family.shapes(config))
    names = {name: original.rename(name, shapes) for name in wanted}
    weights = {names[name]: shape for name, shape in wanted.items()}
    missing = sorted(weights.keys() - own.keys())
    unexpected = sorted(name for name in own.keys() - weights.keys() if not original.unread(name))
    faults = [
        *listed("missing", missing, unexpected),
        *listed("unexpected", unexpected, missing),
        *listed("of another shape", misshaped(weights, own)),
    ]
    if faults:
        raise ValueError(f"{file}: not {original.title}: {'; '.join(faults)}")
    tensors = {name: own[there] for name, there in names.items()}
    kept = {prefix + there for there in names.values()}
    return Recognised(original, family, published, tensors, tuple(sorted(found.keys() - kept)))


def write_published(found: Recognised, folder: Path) -> None:
    """Writes the published folder, tensor by tensor, in the dtypes of the file.

    Raises:
      RunError: the file has changed since it was opened.
      OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(found.published, indent=2) + "\n", "utf-8")
    _copy(found.tensors, folder, STEMS[found.family.library])


def write_original(original: Original, tensors: Mapping[str, Stored], folder: Path, stem: str) -> None:
    """The way back: the tensors of a published class under the names of its authors.

    Args:
      original: the layout.
      tensors: name in the published class -> tensor.
      folder: where to; exists.
      stem: name of the file without its suffix.

    Raises:
      RunError: a tensor has changed since it was opened.
      OSError: the file cannot be written.
    """
    shapes = {name: stored.shape for name, stored in tensors.items()}
    _copy({original.rename(name, shapes): stored for name, stored in tensors.items()}, folder, stem)


def _copy(tensors: Mapping[str, Stored], folder: Path, stem: str) -> None:
    writer = TensorWriter(folder, stem, {name: (stored.shape, stored.dtype) for name, stored in tensors.items()})
    for name, stored in tensors.items():
        writer.put(name, stored.mapped())
    writer.close()


def replaced(name: str, pairs: Mapping[str, str]) -> str:
    """`name` with each part that is a key of `pairs` (one or more whole words between dots) put in its other form."""
    text = f".{name}."
    for ours, theirs in pairs.items():
        text = text.replace(f".{ours}.", f".{theirs}.")
    return text[1:-1]


def count(shapes: Shapes, pattern: str) -> int:
    """How many names there are of `pattern`, whose `{i}` counts from 0."""
    number = 0
    while pattern.replace("{i}", str(number)) in shapes:
        number += 1
    return number
