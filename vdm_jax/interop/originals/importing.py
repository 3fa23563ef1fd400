"""`vdm import` of a file in the layout of a model's authors: first the published folder, then a run of it."""

import tempfile
from pathlib import Path

import numpy as np

from vdm_jax.interop.component import Examined
from vdm_jax.interop.files.folder import check_new
from vdm_jax.interop.files.tensors import SUFFIX, tensors_of
from vdm_jax.interop.imported import INDEX, import_folder
from vdm_jax.interop.originals.layout import Recognised, write_published
from vdm_jax.interop.originals.layouts import LAYOUTS, open_original


def is_original(path: Path) -> bool:
    """Whether a path is for `import_original`: a file, or a folder whose safetensors are of a known layout.

    Raises:
      ValueError, RunError: see `tensors.tensors_of`.
    """
    if not path.is_dir() or (path / INDEX).is_file() or not any(path.glob(f"*{SUFFIX}")):
        return path.is_file()
    names = tensors_of(path)
    return any(original.prefix(names) is not None for original in LAYOUTS)


def import_original(path: Path, run: Path, dtype: np.dtype | None = None) -> tuple[dict[str, Examined], Recognised]:
    """Makes a run of the one network in a file, whose tensors are copied under their published names.

    Args:
      path: see `layouts.open_original`.
      run, dtype: see `import_folder`.

    Returns:
      What `import_folder` returns, and what the file was.

    Raises:
      ValueError, RunError: see `layouts.open_original` and `import_folder`.
    """
    check_new(run)
    found = open_original(path)
    run.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{run.name}.", dir=run.absolute().parent) as beside:
        folder = Path(beside) / found.original.component
        write_published(found, folder)
        return import_folder(folder, run, dtype, source=path), found
