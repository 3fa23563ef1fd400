"""`vdm import` of a file in the layout of a model's authors: first the published folder, then a run of it."""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from vdm_jax.interop.component import Examined
from vdm_jax.interop.files.folder import check_new
from vdm_jax.interop.files.tensors import SUFFIX, tensors_of
from vdm_jax.interop.imported import INDEX, import_folder
from vdm_jax.interop.originals.layout import write_published
from vdm_jax.interop.originals.layouts import LAYOUTS, read_original, recognised, whole_of
from vdm_jax.interop.originals.whole import recognise_all, write_pipeline


def is_original(path: Path) -> bool:
    """Whether a path is for `import_original`: a file, or a folder whose safetensors are of a known layout.

    Raises:
      ValueError, RunError: see `tensors.tensors_of`.
    """
    if not path.is_dir() or (path / INDEX).is_file() or not any(path.glob(f"*{SUFFIX}")):
        return path.is_file()
    names = tensors_of(path)
    return any(original.prefix(names) is not None for original in LAYOUTS)


@dataclasses.dataclass(frozen=True)
class ImportedOriginal:
    """What a file was.

    Attributes:
      title: its layout, for people.
      components: what `import_folder` returned.
      left_out: names of it that nothing uses.
    """

    title: str
    components: Mapping[str, Examined]
    left_out: tuple[str, ...]


def import_original(
    path: Path, run: Path, dtype: np.dtype | None = None, others: Mapping[str, Path] = MappingProxyType({}),
    pipeline: str | None = None,
) -> ImportedOriginal:  # fmt: skip
    """Makes a run of the networks in a file, whose tensors are copied under their published names.

    Args:
      path: see `layouts.read_original`.
      run, dtype: see `import_folder`.
      others, pipeline: the same, for a file with a whole pipeline.

    Raises:
      ValueError, RunError: see `layouts` and `import_folder`; `others` without what no file holds, or for a network
        alone.
    """
    check_new(run)
    found = read_original(path)
    whole = whole_of(found)
    if whole is not None and (absent := [name for name in whole.needs if name not in others]):
        raise ValueError(f"{path}: holds no {absent[0]}; --with {absent[0]}=DIR names one ({whole.title})")
    if whole is None and (others or pipeline is not None):
        raise ValueError("--with, --pipeline: are for a folder with a model_index.json, or a file with all networks")
    networks = (recognised(found, path),) if whole is None else recognise_all(whole, found, path)
    run.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{run.name}.", dir=run.absolute().parent) as beside:
        if whole is None:
            folder = Path(beside) / networks[0].original.component
            write_published(networks[0], folder)
        else:
            folder = Path(beside) / "pipeline"
            write_pipeline(whole, networks, folder)
        components = import_folder(folder, run, dtype, source=path, others=others, pipeline=pipeline)
    title = networks[0].original.title if whole is None else whole.title
    return ImportedOriginal(title, components, networks[0].left_out)
