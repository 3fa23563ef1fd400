"""Published weights as a run: what `vdm import` leaves behind, and what `vdm export` makes of it or of a trained run.

    RUN/imported.json      per component: class, `config.json` as it was, dtype of every tensor, where it came from
        checkpoints/0/     params {component: nested dict} in the checkpoint format of every other run
        constants/         of a component whose files hold constants: their values, which export writes again
        published/         of a pipeline: `model_index.json` and the folders without weights (scheduler, tokenizer)
        code.json          the code version that imported it

The weights are a checkpoint like that of a trained run, step 0 with `params` alone, so that what starts from a run
(`restore_weights`) or shows one takes either; a component stands where a run has a network.  There is no `config.json`,
as nothing was trained: that file belongs to the run that starts from these weights.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.interop import component as components
from vdm_jax.interop.component import Component
from vdm_jax.interop.families import FAMILIES
from vdm_jax.interop.family import Family
from vdm_jax.interop.folder import whole_or_nothing
from vdm_jax.interop.tensors import SUFFIX, TensorWriter, read_header, read_json
from vdm_jax.models.networks import BACKBONES
from vdm_jax.sharding import LogicalRules
from vdm_jax.training.checkpoint import CheckpointConfig, Checkpointer, StepMeta, restore_weights
from vdm_jax.training.run_config import run_config_from
from vdm_jax.training.run_directory import code_version, read_config

RECORD, INDEX, PUBLISHED, CHECKPOINTS = "imported.json", "model_index.json", "published", "checkpoints"
CONSTANTS = "constants"
ALONE = "model"  # name of a component that came by itself


def import_folder(folder: Path, run: Path, dtype: np.dtype | None = None) -> dict[str, Component]:
    """Reads a component, or every component of a pipeline, and writes a run.

    Args:
      folder: with `config.json`, or with `model_index.json`.
      run: must not exist, or be empty.
      dtype: see `component.read`.

    Returns:
      The components by name.

    Raises:
      ValueError: see `component.read`; the run exists; a class of the pipeline is not known here.
      RunError: see `component.read`; the run cannot be written.
    """
    parts, rest = _parts(folder)
    with whole_or_nothing(run) as partial:
        read = {name: components.read(path, dtype=dtype) for name, path in parts.items()}
        record = {name: _record(read[name], path, dtype) for name, path in parts.items()}
        with Checkpointer(partial / CHECKPOINTS, CheckpointConfig()) as checkpointer:
            params = {name: found.params for name, found in read.items()}
            checkpointer.save(0, {"params": params}, StepMeta({}, {}, {}, code_version()))
        for name, found in read.items():
            _keep_constants(found, partial / CONSTANTS, name)
        for path in rest:
            _copy(path, partial / PUBLISHED / path.name)
        (partial / "code.json").write_text(json.dumps([code_version()], indent=1))
        (partial / RECORD).write_text(json.dumps({"components": record}, indent=1))
    return read


def is_imported(run: Path) -> bool:
    """Whether a run was made by `import_folder`."""
    return (run / RECORD).is_file()


def records_of(run: Path) -> dict[str, dict[str, Any]]:
    """What is known of each component without its weights: `class`, `config`, `dtype`, `tensors`, `source`.

    Raises:
      ValueError: no imported run.
      RunError: the record is damaged.
    """
    if not is_imported(run):
        raise ValueError(f"{run}: holds no imported weights (no {RECORD})")
    return read_json(run / RECORD).get("components", {})


def open_imported(
    run: Path, only: str | None = None, mesh: Mesh | None = None, rules: LogicalRules | None = None
) -> dict[str, Component]:
    """The components of an imported run.

    Args:
      run: its directory.
      only: the name of one; None is all.
      mesh, rules: where the weights go, see `component.read`.

    Raises:
      ValueError: no such component, or no imported run.
      RunError: the record or the checkpoint is damaged.
    """
    records = records_of(run)
    if only is not None and only not in records:
        raise ValueError(f"component: {did_you_mean(only, records)}")
    bare = {name: _unrecorded(record) for name, record in records.items() if only in (None, name)}
    abstract = {name: _abstract(found, records[name], mesh, rules) for name, found in bare.items()}
    state = restore_weights((run / CHECKPOINTS).absolute(), abstract=abstract).state
    return {
        name: dataclasses.replace(found, params=state[name], constants=_constants(run / CONSTANTS, name))
        for name, found in bare.items()
    }


def trained_component(run: Path, which: str | None = None) -> Component:
    """The backbone of a trained run, as the published class whose network it is.

    Args:
      run: its directory.
      which: `params`, `ema` (what the run samples with) or `ema:<decay>`; None is what the run samples with.

    Raises:
      ValueError: the network has no published class; no such weights.
      RunError: no intact checkpoint.
    """
    config = run_config_from(read_config(run))
    average = f"ema:{config.sampled_weights}" if config.sampled_weights else "params"
    which = average if which in (None, "ema") else which
    family = _family_of_network(config.networks.model, run)
    restored = restore_weights((run / CHECKPOINTS).absolute(), which)
    return Component(family, config.networks.model, restored.state["backbone"])


def export_run(run: Path, out: Path, which: str | None = None, dtype: np.dtype | None = None) -> dict[str, Component]:
    """Writes a run's weights as folders that `from_pretrained` opens.

    Args:
      run: imported or trained.
      out: must not exist, or be empty; a component alone is this folder, those of a pipeline are folders in it.
      which: see `trained_component`.
      dtype: see `component.write`.

    Returns:
      What was written, by name.

    Raises:
      ValueError, RunError: see `open_imported`, `trained_component` and `component.write`.
    """
    if not is_imported(run):
        found = trained_component(run, which)
        components.write(found, out, dtype=dtype)
        return {ALONE: found}
    if which not in (None, "params"):
        raise ValueError(f"weights: {which!r} is not there; {run} was imported, not trained, and has params alone")
    parts = open_imported(run)
    if not (run / PUBLISHED).is_dir():
        (alone,) = parts.values()
        components.write(alone, out, dtype=dtype)
        return parts
    with whole_or_nothing(out) as partial:
        for name, part in parts.items():
            components.write(part, partial / name, dtype=dtype)
        for path in (run / PUBLISHED).iterdir():
            _copy(path, partial / path.name)
    return parts


def _parts(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """Folders with weights by the name of their component, and what else belongs to a pipeline."""
    if not (folder / INDEX).is_file():
        return {ALONE: folder}, []
    index = read_json(folder / INDEX)
    named = [name for name, entry in index.items() if isinstance(entry, list) and entry[0] is not None]
    if absent := [name for name in named if not (folder / name).is_dir()]:
        raise RunError(f"{folder}/{INDEX}: names {absent[0]}, which is not there")
    weighted = {name: folder / name for name in named if list((folder / name).glob(f"*{SUFFIX}*"))}
    unknown = [f"{name} ({index[name][1]})" for name in weighted if index[name][1] not in FAMILIES]
    if unknown:
        raise ValueError(f"{folder}: {', '.join(unknown)}: not known here; known: {', '.join(sorted(FAMILIES))}")
    return weighted, [folder / INDEX, *(folder / name for name in named if name not in weighted)]


def _record(found: Component, path: Path, dtype: np.dtype | None) -> dict[str, Any]:
    return {
        "class": found.family.published,
        "config": dict(found.published),
        "dtype": None if dtype is None else dtype.name,
        "tensors": {name: kind.name for name, kind in found.stored.items()},
        "left_out": list(found.left_out),
        "source": str(path),
    }


def _unrecorded(record: Mapping[str, Any]) -> Component:
    """A component without its weights."""
    family = FAMILIES[record["class"]]
    stored = {name: components.number_type(kind) for name, kind in record["tensors"].items()}
    config = family.config(record["config"])
    return Component(family, config, {}, record["config"], stored, tuple(record["left_out"]))


def _abstract(found: Component, record: Mapping[str, Any], mesh: Mesh | None, rules: LogicalRules | None) -> dict:
    dtype = None if record["dtype"] is None else components.number_type(record["dtype"])
    dtypes = components.params_dtypes(found.family, found.config, found.stored, dtype)
    where = components.shardings(found.family, found.config, mesh, rules)
    shapes = found.family.shapes(found.config)
    return components.nested(
        {path: jax.ShapeDtypeStruct(shape, dtypes[path], sharding=where[path]) for path, shape in shapes.items()}
    )


def _keep_constants(found: Component, folder: Path, name: str) -> None:
    if not found.constants:
        return
    folder.mkdir(exist_ok=True)
    writer = TensorWriter(folder, name, {key: (value.shape, value.dtype) for key, value in found.constants.items()})
    for key, value in found.constants.items():
        writer.put(key, value)
    writer.close()


def _constants(folder: Path, name: str) -> dict[str, np.ndarray]:
    file = folder / f"{name}{SUFFIX}"
    return {key: stored.read() for key, stored in read_header(file).items()} if file.is_file() else {}


def _family_of_network(model: Any, run: Path) -> Family:
    module = next(module for config, module in BACKBONES.values() if isinstance(model, config))
    for family in FAMILIES.values():
        if family.module is module:
            return family
    raise ValueError(f"{run}: its network ({module.__name__}) has no published class; those that have: "
                     f"{', '.join(sorted(FAMILIES))}")  # fmt: skip


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, to)
    else:
        shutil.copyfile(path, to)
