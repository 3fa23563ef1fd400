"""A single file with all networks of a pipeline, and the folder that the pipeline is published as."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vdm_jax.interop.files.tensors import Stored
from vdm_jax.interop.layout import INDEX
from vdm_jax.interop.originals.layout import Original, Recognised, recognise, write_published


@dataclasses.dataclass(frozen=True)
class Whole:
    """A layout of several networks.

    Attributes:
      title: what it is, for people.
      pipeline: class of the published pipeline.
      originals: layouts of its networks; a file that has all of their marks is one of these.
      settings: components without weights, which no file has, as they are published: name -> (library, name of the
        file, what it says); what names their class is in it.
      needs: components that are nowhere in it, and that whoever imports it must add.
      by_name: stem of the file -> by component what `config.json` says that no tensor does.
    """

    title: str
    pipeline: str
    originals: tuple[Original, ...]
    settings: Mapping[str, tuple[str, str, Mapping[str, Any]]]
    needs: tuple[str, ...] = ()
    by_name: Callable[[str], Mapping[str, Mapping[str, Any]]] = lambda stem: {}

    def fits(self, names: Mapping[str, Any]) -> bool:
        """Whether a file with these tensors is one of these."""
        return all(original.prefix(names) is not None for original in self.originals)


def recognise_all(whole: Whole, found: Mapping[str, Stored], file: Path) -> tuple[Recognised, ...]:
    """Holds the tensors of a file against all its layouts.

    Args:
      whole: one that fits.
      found: name -> tensor of the file.
      file: for messages.

    Returns:
      Its networks; what each leaves out is what all leave out.

    Raises:
      ValueError: see `layout.recognise`.
    """
    networks = [recognise(original, original.prefix(found), found, file) for original in whole.originals]
    left_out = tuple(sorted(set.intersection(*(set(network.left_out) for network in networks))))
    told = whole.by_name(file.stem)
    return tuple(
        dataclasses.replace(n, left_out=left_out, published=n.published | dict(told.get(n.original.component, {})))
        for n in networks
    )


def write_pipeline(whole: Whole, networks: tuple[Recognised, ...], folder: Path) -> None:
    """Writes the published folder of the pipeline: `model_index.json`, networks and settings.

    Raises:
      RunError: the file has changed since it was opened.
      OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True)
    index: dict[str, Any] = {"_class_name": whole.pipeline}
    for network in networks:
        name, published = network.original.component, network.family.published
        index[name] = [network.family.library, published]
        write_published(network, folder / name)
    for name, (library, file, said) in whole.settings.items():
        (folder / name).mkdir()
        (folder / name / file).write_text(json.dumps(said, indent=2) + "\n", "utf-8")
        index[name] = [library, said.get("_class_name") or said["image_processor_type"]]
    (folder / INDEX).write_text(json.dumps(dict(sorted(index.items())), indent=2) + "\n", "utf-8")
