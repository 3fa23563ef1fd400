"""One published network with its weights: read from a folder, placed on a mesh, written to a folder.

A folder is `config.json` beside safetensors, as `save_pretrained` of diffusers and transformers leaves it.  Everything
is checked from the headers before a weight is read (`examine`), so a load is whole or it is one error.  Weights are
then read parameter by parameter, largest first, and of each only what the devices of this process hold: on the host is
what is being placed and, of the tensors that are read into it, never more than the largest one of the folder.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
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

from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.interop.families.family import NETWORK, Family
from vdm_jax.interop.families.known import FAMILIES
from vdm_jax.interop.files.folder import whole_or_nothing
from vdm_jax.interop.files.keymap import Entry, KeyMap
from vdm_jax.interop.files.matching import check_tensors
from vdm_jax.interop.files.placing import place
from vdm_jax.interop.files.tensors import MAX_FILE, STEMS, Stored, TensorWriter, read_json, tensors_of
from vdm_jax.sharding import LogicalRules, param_shardings

FLOATS: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
THREADS = min(8, os.cpu_count() or 1)


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


@dataclasses.dataclass(frozen=True)
class Examined:
    """A folder that holds exactly the weights of a network, none of which has been read.

    Attributes:
      family, config: the network.
      published: `config.json`.
      files: name in the files -> where its values are.
      tensors: name in the key map -> the same.
    """

    family: Family
    config: Any
    published: Mapping[str, Any]
    files: Mapping[str, Stored]
    tensors: Mapping[str, Stored]

    @property
    def stored(self) -> dict[str, np.dtype]:
        """See `Component`."""
        spell = self.family.spell
        return {name: stored.dtype for name, stored in self.files.items() if spell(name) in self.tensors}

    @property
    def left_out(self) -> tuple[str, ...]:
        """See `Component`."""
        return tuple(sorted(self.files.keys() - self.stored.keys()))

    @property
    def parameters(self) -> int:
        """How many numbers its parameters are."""
        return sum(math.prod(shape) for shape in self.family.shapes(self.config).values())

    def dtypes(self, dtype: np.dtype | None = None) -> set[np.dtype]:
        """Those of the weights after `load(dtype=...)`."""
        return set(_dtypes(self, dtype).values())


def examine(
    folder: str | os.PathLike, *, family: Family | None = None, digests: Mapping[str, str] | None = None
) -> Examined:
    """Holds the headers of a folder's files against its `config.json`.

    Args:
      folder: `config.json` and safetensors.
      family: what it must be; None takes what `config.json` names.
      digests: name in the files -> what `Stored.digested` must give of each tensor when it is read.

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
    if digests is not None:
        tensors = _with_digests(tensors, digests, folder)
    names = check_tensors(found, found.keymap(config), found.shapes(config), tensors, folder)
    return Examined(found, config, published, tensors, names)


def _with_digests(tensors: Mapping[str, Stored], digests: Mapping[str, str], folder: Path) -> dict[str, Stored]:
    if differing := sorted(tensors.keys() ^ digests.keys()):
        raise RunError(
            f"{folder}: is not what was imported: {differing[0]} has {'gone' if differing[0] in digests else 'come'}"
        )
    return {name: dataclasses.replace(stored, digest=digests[name]) for name, stored in tensors.items()}


def load(
    found: Examined,
    *,
    mesh: Mesh | None = None,
    rules: LogicalRules | None = None,
    dtype: np.dtype | None = None,
) -> Component:
    """Reads the weights.

    Args:
      found: whose.
      mesh: where the weights go, cut as `rules` say; None is the first device.
      rules: default where None.
      dtype: of the weights here; None keeps them as stored (float32 where tensors of two dtypes make one parameter).

    Raises:
      RunError: a file has changed since it was examined, or is not what its digests say.
    """
    params = _read_params(found, _dtypes(found, dtype), shardings(found.family, found.config, mesh, rules))
    buffers = found.family.keymap(found.config).buffers
    constants = {b.theirs: found.tensors[b.theirs].read() for b in buffers if b.theirs in found.tensors}
    return Component(found.family, found.config, params, found.published, found.stored, found.left_out, constants)


def read(
    folder: str | os.PathLike,
    *,
    mesh: Mesh | None = None,
    rules: LogicalRules | None = None,
    dtype: np.dtype | None = None,
    family: Family | None = None,
) -> Component:
    """Reads a folder: `examine` and `load`, whose arguments and errors these are."""
    return load(examine(folder, family=family), mesh=mesh, rules=rules, dtype=dtype)


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


def _read_params(found: Examined, dtypes: Mapping[str, np.dtype], where: Mapping[str, Any]) -> dict[str, Any]:
    shapes = found.family.shapes(found.config)
    entries = _by_parameter(found)
    room = max((stored.size for stored in found.tensors.values()), default=0)
    params = {}
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for path in sorted(shapes, key=lambda p: math.prod(shapes[p]), reverse=True):
            sources = [(entry, found.tensors[entry.name]) for entry in entries[path]]
            placed = place(sources, shapes[path], dtypes[path], where[path], pool, room)
            params[path] = jax.block_until_ready(placed)  # before the next one takes its room
    return nested(params)


def _by_parameter(found: Examined) -> dict[str, list[Entry]]:
    entries = collections.defaultdict(list)
    for entry in found.family.keymap(found.config).entries(found.family.shapes(found.config)):
        entries[entry.rule.ours].append(entry)
    return entries


def _dtypes(found: Examined, dtype: np.dtype | None) -> dict[str, np.dtype]:
    """Dotted path of each of our parameters -> its dtype once it is read."""
    return {
        ours: dtype or _widest({found.tensors[entry.name].dtype for entry in entries})
        for ours, entries in _by_parameter(found).items()
    }


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
