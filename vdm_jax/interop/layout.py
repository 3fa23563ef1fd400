"""What a published folder holds: a component alone, or a pipeline, also one put together from several folders.

    model_index.json        the class of the pipeline, and of each component: [library, class], or nulls for none
    unet/, vae/ ...         components with weights
    scheduler/ ...          and without

Some pipelines are nowhere published whole: AnimateDiff is a folder of Stable Diffusion and one of a motion adapter.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdm_jax.errors import RunError
from vdm_jax.interop.families.known import FAMILIES
from vdm_jax.interop.files.tensors import SUFFIX, read_json

INDEX = "model_index.json"
ALONE = "model"  # name of a component that came by itself
_JUDGES = ("StableDiffusionSafetyChecker",)  # look at pictures when they are made: passed on as files
_SAID = {  # of a component without weights: its file, what names its class there, the library
    "scheduler_config.json": ("_class_name", "diffusers"),
    "tokenizer_config.json": ("tokenizer_class", "transformers"),
    "preprocessor_config.json": ("image_processor_type", "transformers"),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Folders of a component or of a pipeline.

    Attributes:
      parts: those with weights that are known here, by the name of their component.
      rest: the others, by name.
      index: the text of `model_index.json`; None for a component alone.
    """

    parts: Mapping[str, Path]
    rest: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    index: str | None = None

    def joined(self, others: Mapping[str, Path], pipeline: str | None = None) -> "Layout":
        """The same with other folders of components, and as another pipeline.

        Args:
          others: name -> folder, in place of what has that name, or beside it.
          pipeline: its class; None is that of the index.

        Raises:
          ValueError: a component alone, a folder that says no class, or one that is not known here.
        """
        if not others and pipeline is None:
            return self
        if self.index is None:
            raise ValueError(f"{self.parts[ALONE]}: is a component alone, nothing can be joined to it (no {INDEX})")
        index, parts, rest = json.loads(self.index), dict(self.parts), dict(self.rest)
        index["_class_name"] = pipeline or index["_class_name"]
        for name, folder in others.items():
            _, published = index[name] = _class_of(folder)
            parts.pop(name, None), rest.pop(name, None)
            (parts if _is_part(folder, published) else rest)[name] = folder
        _check_known(parts, index)
        return Layout(parts, rest, json.dumps(index, indent=2) + "\n")


def read_layout(folder: Path) -> Layout:
    """What a folder holds.

    Raises:
      ValueError: a class of the pipeline is not known here.
      RunError: a component that its index names is not there.
    """
    if not (folder / INDEX).is_file():
        return Layout({ALONE: folder})
    index = read_json(folder / INDEX)
    named = [name for name, entry in index.items() if isinstance(entry, list) and entry[0] is not None]
    if absent := [name for name in named if not (folder / name).is_dir()]:
        raise RunError(f"{folder}/{INDEX}: names {absent[0]}, which is not there")
    parts = {name: folder / name for name in named if _is_part(folder / name, index[name][1])}
    _check_known(parts, index)
    rest = {name: folder / name for name in named if name not in parts}
    return Layout(parts, rest, (folder / INDEX).read_text("utf-8"))


def _is_part(folder: Path, published: str) -> bool:
    weighted = any(path for end in (SUFFIX, ".bin") for path in folder.glob(f"*{end}"))
    return published in FAMILIES or (weighted and published not in _JUDGES)


def _check_known(parts: Mapping[str, Path], index: Mapping[str, Any]) -> None:
    unknown = [f"{folder} ({index[name][1]})" for name, folder in parts.items() if index[name][1] not in FAMILIES]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not known here; known: {', '.join(sorted(FAMILIES))}")


def _class_of(folder: Path) -> list[str]:
    """Library and class of the component in a folder, as an index has them."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: is not a directory")
    if (folder / "config.json").is_file():
        said = read_json(folder / "config.json")
        if "_class_name" in said:
            return ["diffusers", said["_class_name"]]
        if said.get("architectures"):
            return ["transformers", said["architectures"][0]]
    for file, (key, library) in _SAID.items():
        if (folder / file).is_file() and key in (said := read_json(folder / file)):
            return [library, said[key]]
    raise ValueError(f"{folder}: names no class (config.json, {', '.join(_SAID)})")
