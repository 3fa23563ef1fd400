"""Published weights as a run: what `vdm import` leaves behind.

    RUN/imported.json      per component: class, `config.json` as it was, digest and dtype of every tensor, its source
        weights/NAME/      a component's files as they were published
        published/         of a pipeline: `model_index.json` and the folders without weights (scheduler, tokenizer)
        code.json          the code version that imported it

Nothing is converted when weights are imported: their files are linked (copied where the file system cannot), and read
tensor by tensor into the arrays of whoever opens them, each held against its digest.  So an import takes no room of its
own, loses nothing, and notices when its files are changed.  There is no `config.json`, as nothing was trained: that
file belongs to the run that starts from these weights.
"""

import concurrent.futures
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jax.sharding import Mesh

from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.interop import component as components
from vdm_jax.interop.component import Component, Examined
from vdm_jax.interop.families.known import FAMILIES
from vdm_jax.interop.files.folder import whole_or_nothing
from vdm_jax.interop.files.tensors import SUFFIX, Stored, read_json
from vdm_jax.interop.layout import INDEX, read_layout
from vdm_jax.sharding import LogicalRules
from vdm_jax.training.run_directory import code_version

RECORD, PUBLISHED, WEIGHTS = "imported.json", "published", "weights"


def import_folder(
    folder: Path,
    run: Path,
    dtype: np.dtype | None = None,
    *,
    source: Path | None = None,
    others: Mapping[str, Path] = MappingProxyType({}),
    pipeline: str | None = None,
) -> dict[str, Examined]:
    """Makes a run of a component, or of every component of a pipeline.

    Args:
      folder: with `config.json`, or with `model_index.json`.
      run: must not exist, or be empty.
      dtype: that the weights have when they are opened; None keeps that of the files, which stay as they are.
      source: what the record says that the components of `folder` came from; None is the folder of each.
      others, pipeline: see `Layout.joined`.

    Returns:
      What was found, by name.

    Raises:
      ValueError: see `component.examine`, `read_layout` and `Layout.joined`; the run exists.
      RunError: see `component.examine` and `read_layout`; the run cannot be written.
    """
    layout = read_layout(folder).joined(others, pipeline)
    parts = layout.parts
    found = {name: components.examine(path) for name, path in parts.items()}
    with whole_or_nothing(run) as partial:
        for name, path in parts.items():
            _take_over(found[name], path, partial / WEIGHTS / name)
        if layout.index is not None:
            (partial / PUBLISHED).mkdir()
            (partial / PUBLISHED / INDEX).write_text(layout.index, "utf-8")
        for name, path in layout.rest.items():
            shutil.copytree(path, partial / PUBLISHED / name)
        sources = {name: path if source is None or name in others else source for name, path in parts.items()}
        record = {name: _record(found[name], sources[name], dtype) for name in parts}
        (partial / "code.json").write_text(json.dumps([code_version()], indent=1))
        (partial / RECORD).write_text(json.dumps({"components": record}, indent=1))
    return found


def _take_over(found: Examined, folder: Path, to: Path) -> None:
    """The files of a component under another name."""
    to.mkdir(parents=True)
    shutil.copyfile(folder / "config.json", to / "config.json")
    for file in {*folder.glob(f"*{SUFFIX}.index.json"), *(stored.file for stored in found.files.values())}:
        try:
            os.link(file.resolve(), to / file.name)
        except OSError:  # another file system, one without links, or a file of somebody else
            shutil.copyfile(file, to / file.name)


def is_imported(run: Path) -> bool:
    """Whether a run was made by `import_folder`."""
    return (run / RECORD).is_file()


def records_of(run: Path) -> dict[str, dict[str, Any]]:
    """What is known of each component without its weights.

    Returns:
      Name -> `class`; `config`, its `config.json`; `dtype` of the weights when they are opened, None for that of the
      files; `tensors`, name -> dtype in the files; `digests`, name -> SHA-256; `left_out`, names of those that nothing
      uses; `source`.

    Raises:
      ValueError: no imported run.
      RunError: the record is damaged.
    """
    if not is_imported(run):
        raise ValueError(f"{run}: holds no imported weights (no {RECORD})")
    return read_json(run / RECORD).get("components", {})


def open_imported(
    run: Path,
    only: str | None = None,
    mesh: Mesh | None = None,
    rules: LogicalRules | None = None,
    dtype: np.dtype | None = None,
) -> dict[str, Component]:
    """The components of an imported run.

    Args:
      run: its directory.
      only: the name of one; None is all.
      mesh, rules: where the weights go, see `component.load`.
      dtype: of the weights; None is that of the import.

    Raises:
      ValueError: no such component, or no imported run.
      RunError: the record or a file is damaged.
    """
    records = records_of(run)
    if only is not None and only not in records:
        raise ValueError(f"component: {did_you_mean(only, records)}")
    return {
        name: components.load(examined(run, name, record), mesh=mesh, rules=rules, dtype=dtype or _dtype(record))
        for name, record in records.items()
        if only in (None, name)
    }


def damage_of(run: Path) -> dict[str, str | None]:
    """Name of each component -> what is wrong with its files, all of which are read, or None.

    Raises:
      ValueError: no imported run.
      RunError: the record is damaged.
    """
    found: dict[str, str | None] = {}
    for name, record in records_of(run).items():
        found[name] = None
        try:
            for stored in examined(run, name, record).files.values():
                stored.read()
        except (RunError, ValueError) as error:
            found[name] = str(error)
    return found


def examined(run: Path, name: str, record: Mapping[str, Any]) -> Examined:
    """A component of an import, none of whose weights has been read.

    Args:
      run: its directory.
      name, record: of `records_of`.

    Raises:
      RunError: its files are not those that were imported, as far as their headers say.
    """
    folder = run / WEIGHTS / name
    try:
        found = components.examine(folder, family=FAMILIES[record["class"]], digests=record["digests"])
    except ValueError as error:
        raise RunError(f"{folder}: is not what was imported: {error}") from None
    if dict(found.published) != record["config"]:
        raise RunError(f"{folder}/config.json: is not what was imported")
    return found


def _dtype(record: Mapping[str, Any]) -> np.dtype | None:
    return None if record["dtype"] is None else components.number_type(record["dtype"])


def _record(found: Examined, path: Path, dtype: np.dtype | None) -> dict[str, Any]:
    with concurrent.futures.ThreadPoolExecutor(components.THREADS) as pool:
        digests = dict(zip(found.files, pool.map(Stored.digested, found.files.values()), strict=True))
    return {
        "class": found.family.published,
        "config": dict(found.published),
        "dtype": None if dtype is None else dtype.name,
        "tensors": {name: kind.name for name, kind in found.stored.items()},
        "digests": digests,
        "left_out": list(found.left_out),
        "source": str(path),
    }
