"""One published network with its weights: read from a folder, placed on a mesh, written to a folder.

A folder is `config.json` beside safetensors, as `save_pretrained` of diffusers and transformers leaves it.  Everything
is checked from the headers before a weight is read, so a load is whole or it is one error.  Weights are then read
parameter by parameter, largest first: beside what is placed already there is never more than one of ours on the host.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils
from jax.sharding import Mesh, SingleDeviceSharding

from vdm_jax.errors import did_you_mean
from vdm_jax.interop.families import FAMILIES
from vdm_jax.interop.family import NETWORK, Family
from vdm_jax.interop.folder import whole_or_nothing
from vdm_jax.interop.keymap import Entry, KeyMap, Shape
from vdm_jax.interop.matching import check_tensors
from vdm_jax.interop.tensors import MAX_FILE, STEMS, Stored, TensorWriter, read_json, tensors_of
from vdm_jax.sharding import LogicalRules, param_shardings

FLOATS: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
_ALIGNMENT = 64  # bytes
_THREADS = min(8, os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class Component:
    """A published network.

    Attributes:
      family, config: what it is.
      params: nested dict of its weights.
      published: its `config.json`, as it was read; None for a network made here.
      stored: name -> dtype of every tensor in the files it was read from; None for a network made here.
      left_out: tensors of those files that no network of today uses (`KeyMap.unread`).
      constants: name -> value of the constants in those files (`KeyMap.buffers`), which may differ from those that are
        computed here in the last digit.
    """

    family: Family
    config: Any
    params: dict[str, Any]
    published: Mapping[str, Any] | None = None
    stored: Mapping[str, np.dtype] | None = None
    left_out: tuple[str, ...] = ()
    constants: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def network(self) -> nnx.Module:
        """The module with these weights."""
        return self.family.define(self.config).merge({NETWORK: self.params})[NETWORK]


def family_of(published: Mapping[str, Any], folder: Path) -> Family:
    """The family that a `config.json` names.

    Raises:
      ValueError: it names none, or one that is not known here.
    """
    name = published.get("_class_name") or next(iter(published.get("architectures") or ()), None)
    if name is None:
        raise ValueError(f"{folder}/config.json: names no class (_class_name or architectures)")
    if name not in FAMILIES:
        raise ValueError(f"{folder}/config.json: class: {did_you_mean(name, FAMILIES)}")
    return FAMILIES[name]


def float_type(name: str) -> np.dtype:
    """`float32`, `bfloat16` or `float16`, also as `fp32`, `bf16`, `fp16`.  Raises ValueError for others."""
    short = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    if (full := short.get(name, name)) not in FLOATS:
        raise ValueError(f"dtype: {did_you_mean(name, [*FLOATS, *short])}")
    return FLOATS[full]


def number_type(name: str) -> np.dtype:
    """A dtype by its name, `bfloat16` and the like included."""
    return FLOATS.get(name) or np.dtype(getattr(ml_dtypes, name, name))


def read(
    folder: str | os.PathLike,
    *,
    mesh: Mesh | None = None,
    rules: LogicalRules | None = None,
    dtype: np.dtype | None = None,
    family: Family | None = None,
) -> Component:
    """Reads a folder.

    Args:
      folder: `config.json` and safetensors.
      mesh: where the weights go, cut as `rules` say; None is the first device.
      rules: default where None.
      dtype: of the weights here; None keeps them as stored (float32 where tensors of two dtypes make one parameter).
      family: what it must be; None takes what `config.json` names.

    Raises:
      ValueError: no such folder, a class or an option that is not known here, another family than asked for, tensors
        that are missing, unexpected, of another shape or not floating point (all in one line).
      RunError: a file is cut off or damaged.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: holds no config.json")
    published = read_json(folder / "config.json")
    found = family_of(published, folder) if family is None or "_class_name" in published else family
    if family is not None and found is not family:
        raise ValueError(f"{folder}: holds a {found.published}, not a {family.published}")
    config = found.config(published)
    tensors = tensors_of(folder)
    keymap, shapes = found.keymap(config), found.shapes(config)
    names = check_tensors(found, keymap, shapes, tensors, folder)
    params = _read_params(found, config, keymap, names, dtype, mesh, rules)
    kept = {name: stored.dtype for name, stored in tensors.items() if found.spell(name) in names}
    left_out = tuple(sorted(tensors.keys() - kept.keys()))
    constants = {b.theirs: names[b.theirs].read() for b in keymap.buffers if b.theirs in names}
    return Component(found, config, params, published, kept, left_out, constants)


def params_dtypes(family: Family, config: Any, stored: Mapping[str, np.dtype], dtype: np.dtype | None) -> dict:
    """Dotted path of each of our parameters -> its dtype after `read(dtype=...)`."""
    of = {family.spell(name): kind for name, kind in stored.items()}
    kinds = collections.defaultdict(set)
    for entry in family.keymap(config).entries(family.shapes(config)):
        kinds[entry.rule.ours].add(of[entry.name])
    return {ours: dtype or _widest(found) for ours, found in kinds.items()}


def shardings(family: Family, config: Any, mesh: Mesh | None, rules: LogicalRules | None) -> dict[str, Any]:
    """Dotted path -> where the parameter lives."""
    networks = family.define(config)
    if mesh is None:
        here = SingleDeviceSharding(jax.local_devices()[0])
        return {".".join(path): here for path in flatten_dict(networks.abstract[NETWORK])}
    placed = param_shardings(networks.abstract[NETWORK], networks.axes[NETWORK], mesh, rules or LogicalRules())
    return {".".join(path): sharding for path, sharding in flatten_dict(placed).items()}


def nested(params: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted paths -> nested dict."""
    return unflatten_dict({tuple(path.split(".")): leaf for path, leaf in params.items()})


def _read_params(family, config, keymap: KeyMap, names: Mapping[str, Stored], dtype, mesh, rules) -> dict[str, Any]:
    shapes = family.shapes(config)
    where = shardings(family, config, mesh, rules)
    entries = collections.defaultdict(list)
    for entry in keymap.entries(shapes):
        entries[entry.rule.ours].append(entry)
    params = {}
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for path in sorted(shapes, key=lambda p: math.prod(shapes[p]), reverse=True):
            mine = [(entry, names[entry.name]) for entry in entries[path]]
            host = _aligned(shapes[path], dtype or _widest({stored.dtype for _, stored in mine}))
            list(pool.map(_fill, itertools.repeat(host), *zip(*mine)))
            params[path] = jax.block_until_ready(_place(host, where[path]))  # before the next one takes its room
    return nested(params)


def _aligned(shape: Shape, dtype: np.dtype) -> np.ndarray:
    """An empty array that the CPU's runtime takes over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def _fill(host: np.ndarray, entry: Entry, stored: Stored) -> None:
    entry.write(host, stored.read())


def _place(host: np.ndarray, sharding: Any) -> jax.Array:
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _widest(dtypes: set[np.dtype]) -> np.dtype:
    return next(iter(dtypes)) if len(dtypes) == 1 else FLOATS["float32"]


def write(
    component: Component, folder: str | os.PathLike, *, dtype: np.dtype | None = None, max_file: int = MAX_FILE
) -> None:
    """Writes a folder that `from_pretrained` opens; it appears whole or not at all.

    Args:
      component: what to write.
      folder: must not exist, or be empty.
      dtype: of floating-point tensors; None is what they were read as, or what they are.
      max_file: bytes of tensors in one file.

    Raises:
      ValueError: there is something already.
      RunError: it cannot be written.
    """
    writes = jax.process_index() == 0
    with whole_or_nothing(Path(folder)) if writes else contextlib.nullcontext() as partial:
        _write_into(component, partial, dtype, max_file)


def _write_into(component: Component, folder: Path | None, dtype: np.dtype | None, max_file: int) -> None:
    """Writes `config.json` and weights; without a folder, takes part in gathering the weights."""
    family, params = component.family, flatten_dict(component.params)
    flat = {".".join(map(str, path)): leaf for path, leaf in params.items()}
    keymap, shapes = family.keymap(component.config), {path: leaf.shape for path, leaf in flat.items()}
    entries: dict[str, list[Entry]] = collections.defaultdict(list)
    for entry in keymap.entries(shapes):
        entries[entry.rule.ours].append(entry)
    tensors = _announced(component, keymap, entries, flat, dtype)
    spelt = collections.defaultdict(list)
    for name in tensors:
        spelt[family.spell(name)].append(name)
    writer = None
    if folder is not None:
        published = dict(component.published or family.published_config(component.config))
        (folder / "config.json").write_text(json.dumps(published, indent=2) + "\n", "utf-8")
        writer = TensorWriter(folder, STEMS[family.library], tensors, max_file)
    for path, leaf in flat.items():
        host = _on_host(leaf)
        for entry in entries[path] if writer is not None else ():
            for name in spelt[entry.name]:
                writer.put(name, entry.read(host))
    if writer is not None:
        for buffer in keymap.buffers:
            for name in spelt[buffer.theirs]:
                read = component.constants.get(buffer.theirs)
                writer.put(name, buffer.make() if read is None else read)
        writer.close()


def _announced(component: Component, keymap: KeyMap, entries, flat, dtype) -> dict[str, tuple]:
    """Name -> (shape, dtype) of every tensor that will be written."""
    own = {e.name: (e.shape(flat[path].shape), np.dtype(flat[path].dtype)) for path in entries for e in entries[path]}
    for buffer in keymap.buffers:
        if buffer.saved or component.stored is not None:
            own[buffer.theirs] = (buffer.make().shape, buffer.make().dtype)
    if component.stored is None:
        found = own
    else:
        found = {name: (own[component.family.spell(name)][0], kind) for name, kind in component.stored.items()}
    if dtype is None:
        return found
    return {name: (shape, dtype if kind in FLOATS.values() else kind) for name, (shape, kind) in found.items()}


def _on_host(leaf: jax.Array) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)
