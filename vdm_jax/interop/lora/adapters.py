"""Low-rank adapters in and out: those of a run as a file, those of a file as part of an import.

A file has one pair for each published matrix, a run one for each matrix of each stack of layers.  A published kernel
holds the values of ours in another order of rows and of columns (`keymap.Layout`); B has the rows and A the columns, so
both orders are all there is to convert.

Importing merges: `W + scale s B A` is written tensor by tensor beside links to what stays, and the result is an import
like any other, which samples, trains and exports.
"""

import concurrent.futures
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from vdm_jax.adapters.lora import MATRICES, TAG, Site
from vdm_jax.errors import did_you_mean
from vdm_jax.interop import component as components
from vdm_jax.interop.families.family import Family
from vdm_jax.interop.families.known import FAMILIES
from vdm_jax.interop.files.folder import whole_or_nothing
from vdm_jax.interop.files.keymap import Entry, Layout, Rule, Shape
from vdm_jax.interop.files.tensors import STEMS, Stored, TensorWriter
from vdm_jax.interop.imported import RECORD, WEIGHTS, examined, is_imported, records_of
from vdm_jax.interop.lora.files import Factors, read_lora
from vdm_jax.models.networks import BACKBONES, kind_of

_KERNEL, _WEIGHT = ".kernel", ".weight"


def names_of(model: Any) -> dict[Site, str]:
    """Published names of the sites of a backbone, given its config; empty where no published class has them."""
    family = class_of(model)
    return {} if family is None else published_names(family, model)


def class_of(model: Any) -> Family | None:
    """The published class of a backbone, given its config."""
    _, module = BACKBONES[kind_of(model)]
    return next((family for family in FAMILIES.values() if family.module is module and family.fits(model)), None)


def published_names(family: Family, config: Any) -> dict[Site, str]:
    """Site -> its published name, `{i}` for the number of a stacked layer."""
    shapes = family.shapes(config)
    rules = (rule for rule in family.keymap(config).rules if _is_matrix(rule))
    return {_site(rule, shapes[rule.ours]): rule.theirs.removesuffix(_WEIGHT) for rule in rules}


def matrix_shapes(family: Family, config: Any) -> dict[str, Shape]:
    """Published name without `.weight` -> shape, of every matrix that can have a pair."""
    shapes = family.shapes(config)
    return {
        entry.name.removesuffix(_WEIGHT): entry.shape(shapes[entry.rule.ours])
        for entry in family.keymap(config).entries(shapes)
        if _is_matrix(entry.rule)
    }


def factors_of(family: Family, config: Any, params: Mapping[str, Any], scale: float) -> dict[str, Factors]:
    """Published name without `.weight` -> pair.

    Args:
      family, config: of the network without pairs.
      params: nested dict of its weights, with pairs.
      scale: `LoRAConfig.scale`.

    Raises:
      ValueError: a pair beside a matrix that is none in published files.
    """
    flat = {".".join(map(str, path)): leaf for path, leaf in flatten_dict(params).items()}
    shapes, found, used = family.shapes(config), {}, set()
    for entry in family.keymap(config).entries(shapes):
        if not _is_matrix(entry.rule):
            continue
        site = _site(entry.rule, shapes[entry.rule.ours])
        pair = ".".join((*site.layer, TAG, *site.matrix))
        if f"{pair}.a.kernel" in flat:
            used.add(pair)
            halves = (np.asarray(flat[f"{pair}.{half}.kernel"]) for half in "ab")
            found[entry.name.removesuffix(_WEIGHT)] = _published_pair(entry, *halves, scale)
    pairs = {name.removesuffix(".a.kernel") for name in flat if name.endswith(".a.kernel") and f".{TAG}." in name}
    if left := sorted(pairs - used):
        raise ValueError(f"targets: {left[0]} stands beside no matrix of {family.published}")
    return found


def _published_pair(entry: Entry, a: np.ndarray, b: np.ndarray, scale: float) -> Factors:
    """The pair of one layer, in the order of the published kernel."""
    if entry.layer is not None:
        a, b = a[entry.layer], b[entry.layer]
    rank, inputs, outputs = a.shape[-1], a.shape[:-1], b.shape[1:]
    rows, columns, window = _orders(entry.rule.layout, inputs, outputs)
    theirs = a.reshape(-1, rank)[columns].T.reshape(rank, *window)
    up = b.reshape(rank, -1)[:, rows].T.reshape(-1, rank, *(1,) * (len(window) - 1))
    return Factors(np.ascontiguousarray(theirs), np.ascontiguousarray(up), scale)


def _orders(layout: Layout, inputs: Shape, outputs: Shape) -> tuple[np.ndarray, np.ndarray, Shape]:
    """Which of our outputs each row of theirs is, which of our inputs each column, and their shape `[in, *window]`."""
    dims = len(inputs)
    into, out = np.prod(inputs, dtype=int), np.prod(outputs, dtype=int)
    ones = (1,) * dims
    of_outputs = np.broadcast_to(np.arange(out, dtype=np.int32).reshape(*ones, *outputs), (*inputs, *outputs))
    of_inputs = np.arange(into, dtype=np.int32).reshape(*inputs, *(1,) * len(outputs))
    of_inputs = np.broadcast_to(of_inputs, (*inputs, *outputs))
    rows, columns = layout.to_theirs(of_outputs), layout.to_theirs(of_inputs)
    window = columns.shape[1:]
    rows, columns = rows.reshape(out, into), columns.reshape(out, into)
    assert (rows == rows[:, :1]).all(), "a layout that mixes inputs and outputs"
    assert (columns == columns[:1]).all(), "a layout that mixes inputs and outputs"
    return rows[:, 0], columns[0], window


def import_lora(file: Path, base: str, run: Path, scale: float = 1.0) -> dict[str, int]:
    """Makes an import whose weights are those of another with a LoRA in them.

    Args:
      file: of pairs, see `lora.files`.
      base: directory of an import, or `RUN:COMPONENT` where not its one backbone is meant (but a motion adapter).
      run: must not exist, or be empty.
      scale: strength; 1 is as trained.

    Returns:
      Name of the component -> how many of its matrices were changed.

    Raises:
      ValueError: no such file or base; the LoRA is for another one, see `lora.files.read_lora`.
      RunError: a file is damaged, or the run cannot be written.
    """
    source, name = _base(base)
    found = examined(source, name, records_of(source)[name])
    pairs = read_lora(file, matrix_shapes(found.family, found.config), found.family.published)
    records = records_of(source)
    with whole_or_nothing(run) as partial:
        shutil.copytree(source, partial, copy_function=_link, dirs_exist_ok=True)
        to = partial / WEIGHTS / name
        shutil.rmtree(to)
        to.mkdir()
        shutil.copyfile(source / WEIGHTS / name / "config.json", to / "config.json")
        digests = _write_merged(found, pairs, scale, to)
        added = {"file": str(file), "scale": scale, "onto": records[name]["source"]}
        records[name] = records[name] | {"digests": digests, "lora": [*records[name].get("lora", ()), added]}
        (partial / RECORD).unlink()  # a link to that of the base
        (partial / RECORD).write_text(json.dumps({"components": records}, indent=1))
    return {name: len(pairs)}


def _write_merged(found: components.Examined, pairs: Mapping[str, Factors], scale: float, folder: Path) -> dict:
    """Writes the tensors of a component, those with a pair changed; returns the digest of each."""
    spell = found.family.spell
    announced = {name: (stored.shape, stored.dtype) for name, stored in found.files.items()}
    writer = TensorWriter(folder, STEMS[found.family.library], announced)
    for name, stored in found.files.items():
        values, pair = stored.read(), pairs.get(spell(name).removesuffix(_WEIGHT))
        if pair is not None:
            values = (values.astype(np.float32) + scale * pair.product()).astype(stored.dtype)
        writer.put(name, values)
    writer.close()
    files = components.examine(folder, family=found.family).files
    with concurrent.futures.ThreadPoolExecutor(components.THREADS) as pool:
        return dict(zip(files, pool.map(Stored.digested, files.values()), strict=True))


def _base(base: str) -> tuple[Path, str]:
    """The directory and the component that are meant."""
    run, _, part = (base, "", "") if Path(base).is_dir() else base.partition(":")
    path = Path(run)
    if not is_imported(path):
        raise ValueError(f"--base: {run} is not an import; a LoRA is put into one that `vdm import` made")
    modules = {module for _, module in BACKBONES.values()}
    records = records_of(path)
    able = [name for name, record in records.items() if FAMILIES[record["class"]].module in modules]
    if part and part not in records:
        raise ValueError(f"--base: component: {did_you_mean(part, records)}")
    if not part and len(able) != 1:
        raise ValueError(f"--base: {run} has {' and '.join(able) or 'no network for a LoRA'}; name one, RUN:COMPONENT")
    return path, part or able[0]


def _link(source: str, to: str) -> None:
    try:
        os.link(source, to)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, to)


def _is_matrix(rule: Rule) -> bool:
    return rule.ours.endswith(_KERNEL) and rule.theirs.endswith(_WEIGHT)


def _site(rule: Rule, shape: Shape) -> Site:
    """Where the pair of a tensor stands, given the shape of our kernel."""
    layer = tuple(rule.ours.removesuffix(_KERNEL).split("."))
    if rule.part is None:
        return Site(layer)
    count = shape[rule.part[0] + rule.stacked]
    return Site(layer, MATRICES[-count:][rule.part[1]])
