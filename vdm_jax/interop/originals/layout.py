"""A file as the authors of a model wrote it, and the published class that holds the same values under other names.

A published tensor is one of the file under another name, or one of the equal pieces of it (`Form`); no value changes.
What `config.json` would say follows from shapes.  So a layout is a name, and seldom a form, for each published name,
and all else is derived: what is missing, and the way back.
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vdm_jax.interop.families.family import Family
from vdm_jax.interop.families.known import FAMILIES
from vdm_jax.interop.files.keymap import Shape
from vdm_jax.interop.files.matching import listed, misshaped
from vdm_jax.interop.files.tensors import MAX_FILE, STEMS, Stored, TensorWriter

Shapes = Mapping[str, Shape]


@dataclasses.dataclass(frozen=True)
class Form:
    """How a published tensor lies in one of the file.

    Attributes:
      part: (i, n): the i-th of n equal pieces of its first dim.
      ones: dims of 1 that it has behind the others there, as the matrix of a 1 x 1 convolution does.
      turned: its two dims are swapped there.
    """

    part: tuple[int, int] = (0, 1)
    ones: int = 0
    turned: bool = False

    def shape(self, published: Shape) -> Shape:
        """Of the tensor in the file."""
        first, *rest = published[::-1] if self.turned else published
        return (first * self.part[1], *rest, *(1,) * self.ones)

    def read(self, there: np.ndarray, published: Shape) -> np.ndarray:
        """The published tensor, of that shape, out of the one in the file; shares its memory."""
        own = np.split(there, self.part[1])[self.part[0]].reshape(published[::-1] if self.turned else published)
        return own.T if self.turned else own


PLAIN = Form()


@dataclasses.dataclass(frozen=True)
class Piece:
    """A published tensor `[*shape]` in a file."""

    stored: Stored
    form: Form
    shape: Shape

    def mapped(self) -> np.ndarray:
        """Its values, see `Stored.mapped`."""
        return self.form.read(self.stored.mapped(), self.shape)


@dataclasses.dataclass(frozen=True)
class Original:
    """A layout.

    Attributes:
      title: what it is, for people.
      component: what pipelines of the published class call it.
      marks: names that every file of it has and no other; what stands in front of them is cut off all names.
      config: name -> shape, to `config.json`.
      rename: (name in the published class, shapes) -> name in the file.
      unread: whether a name is of something else, or of nothing that is used; whoever imports is told.
      form: name in the published class -> how it lies there.
      twin: name in the file -> a second one that the same values have there, or None.
    """

    title: str
    component: str
    marks: tuple[str, ...]
    config: Callable[[Shapes], dict[str, Any]]
    rename: Callable[[str, Shapes], str]
    unread: Callable[[str], bool] = lambda name: False
    form: Callable[[str], Form] = lambda name: PLAIN
    twin: Callable[[str], str | None] = lambda name: None

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
      tensors: name in the published class -> its values.
      left_out: names of the file that nothing uses.
    """

    original: Original
    family: Family
    published: dict[str, Any]
    tensors: dict[str, Piece]
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
    weights = {names[name]: original.form(name).shape(shape) for name, shape in wanted.items()}
    missing = sorted(weights.keys() - own.keys())
    unexpected = sorted(name for name in own.keys() - weights.keys() if not original.unread(name))
    faults = [
        *listed("missing", missing, unexpected),
        *listed("unexpected", unexpected, missing),
        *listed("of another shape", misshaped(weights, own)),
    ]
    if faults:
        raise ValueError(f"{file}: not {original.title}: {'; '.join(faults)}")
    tensors = {name: Piece(own[names[name]], original.form(name), shape) for name, shape in wanted.items()}
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
    tensors = found.tensors
    announced = {name: (piece.shape, piece.stored.dtype) for name, piece in tensors.items()}
    writer = TensorWriter(folder, STEMS[found.family.library], announced)
    for name, piece in tensors.items():
        writer.put(name, piece.mapped())
    writer.close()


def write_original(
    original: Original, tensors: Mapping[str, Stored], folder: Path, stem: str, max_file: int = MAX_FILE
) -> None:
    """The way back: the tensors of a published class under the names of its authors.

    Args:
      original: the layout.
      tensors: name in the published class -> tensor.
      folder: where to; exists.
      stem: name of the file without its suffix.
      max_file: bytes of tensors in it, beyond which there are several.

    Raises:
      RunError: a tensor has changed since it was opened.
      OSError: the file cannot be written.
    """
    shapes = {name: stored.shape for name, stored in tensors.items()}
    pieces: dict[str, list[str]] = collections.defaultdict(list)
    for name in tensors:
        pieces[original.rename(name, shapes)].append(name)
    announced = {
        there: (original.form(names[0]).shape(shapes[names[0]]), tensors[names[0]].dtype)
        for there, names in pieces.items()
    }
    twins = {there: twin for there in announced if (twin := original.twin(there)) is not None}
    writer = TensorWriter(folder, stem, announced | {twin: announced[there] for there, twin in twins.items()}, max_file)
    for there, names in pieces.items():
        shape, dtype = announced[there]
        whole = np.empty(shape, dtype)
        for name in names:
            original.form(name).read(whole, shapes[name])[...] = tensors[name].mapped()
        writer.put(there, whole)
        if there in twins:
            writer.put(twins[there], whole)
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
