"""Parity certificates: a network here against the published class, at weights that hide nothing.

Every weight of the published module is drawn again first (zero-initialised ones would make any comparison vacuous),
the module is saved, read here, and compared: output, gradients with respect to every floating-point input and every
parameter, and what comes back out after export, bit for bit.  PyTorch is imported when a certificate is made.

Errors are relative: the largest difference over the largest value of theirs.  A gradient that is zero but for rounding
(of the bias of keys, say) is measured against `TINY` of the largest of all.
"""

import dataclasses
import hashlib
import importlib
import json
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from vdm_jax.errors import RunError
from vdm_jax.interop.component import Component, read, write
from vdm_jax.interop.families.family import NETWORK, Family
from vdm_jax.interop.files.tensors import read_json

FORWARD_BAR, GRADIENT_BAR = 1e-4, 1e-3
TINY = 1e-4  # of the largest gradient
QUICK = {"xla_backend_optimization_level": 0}  # of tiny networks, compiling takes all the time
Inputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """A tiny network of a family, and how it is called here and there.

    Attributes:
      name: of the case, unique in its family.
      family: the published class.
      published: a tiny `config.json`.
      inputs: name -> shape of each input, drawn from a normal distribution; or the values themselves.
      ours: (network, inputs as `jax.Array`) -> output.
      theirs: (published module, inputs as `torch.Tensor`) -> the same output, in our layout.
      std: of the weights.
    """

    name: str
    family: Family
    published: Mapping[str, Any]
    inputs: Mapping[str, tuple[int, ...] | np.ndarray]
    ours: Callable[[Any, Mapping[str, jax.Array]], jax.Array]
    theirs: Callable[[Any, Mapping[str, Any]], Any]
    std: float = 0.02

    def draw(self, seed: int = 0) -> Inputs:
        """The inputs."""
        rng = np.random.default_rng(seed)
        return {
            name: value if isinstance(value, np.ndarray) else rng.standard_normal(value).astype(np.float32)
            for name, value in self.inputs.items()
        }


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What a comparison found; see the module docstring for what an error is.

    Attributes:
      published, case: the class, and which network of it.
      config_hash: of the published config, the first 12 digits of SHA-256.
      dtype: of the computation.
      parameters: number of values.
      forward_max, forward: largest absolute and relative error of the output.
      input_gradient, parameter_gradient: largest relative error over all inputs, and over all parameters.
      worst: the parameter with that error.
      round_trip: exported and loaded strictly, every tensor and the output are the same.
    """

    published: str
    case: str
    config_hash: str
    dtype: str
    parameters: int
    forward_max: float
    forward: float
    input_gradient: float
    parameter_gradient: float
    worst: str
    round_trip: bool

    @property
    def ok(self) -> bool:
        """Whether every bar is met."""
        gradient = max(self.input_gradient, self.parameter_gradient)
        return self.forward <= FORWARD_BAR and gradient <= GRADIENT_BAR and self.round_trip


def torch_module(name: str) -> Any:
    """`torch`, `diffusers` or `transformers`.

    Raises:
      RunError: it is not installed; says how to get it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RunError(f"parity: {name} cannot be imported ({error}); pip install vdm_jax[torch]") from None


def build_published(family: Family, published: Mapping[str, Any]) -> Any:
    """The published module of a config, in evaluation mode and in float32 (some tables are computed in float64)."""
    library = torch_module(family.library)
    cls = getattr(library, family.published)
    options = {name: value for name, value in published.items() if not name.startswith("_")}
    # Published files hold options that their class does not know; it leaves these out by itself.
    module = cls.from_config(options) if family.library == "diffusers" else cls(cls.config_class(**options))
    return module.eval().float()


def redraw(module: Any, std: float, seed: int = 0, tables: Collection[str] = ()) -> None:
    """Draws every parameter again, and the buffers `tables`: scales of norms around 1, all others around 0."""
    torch = torch_module("torch")
    generator = torch.Generator().manual_seed(seed)
    scales = {
        f"{prefix}.{name}"
        for prefix, part in module.named_modules()
        for name in ("weight", "gamma")
        if "norm" in type(part).__name__.lower()
    }  # of norms, whatever kind they are
    with torch.no_grad():
        for name, parameter in weights_of(module, tables).items():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if name in scales and parameter.squeeze().ndim == 1 else std * noise)


def weights_of(module: Any, tables: Collection[str] = ()) -> dict[str, Any]:
    """Its parameters, and those of its buffers that are in `tables`."""
    return dict(module.named_parameters()) | {n: b for n, b in module.named_buffers() if n in tables}


def certify(case: Case) -> Certificate:
    """Makes the comparison; nothing is judged here, see `Certificate.ok`.

    Raises:
      RunError: PyTorch is missing.
      ValueError: see `component.read`.
    """
    torch_module("torch")
    theirs = build_published(case.family, case.published)
    keymap = case.family.keymap(case.family.config(case.published))
    tables = {rule.theirs for rule in keymap.rules}  # a buffer there may be a parameter here
    redraw(theirs, case.std, tables=tables)
    inputs = case.draw()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(Path(folder) / "published")
        component = read(Path(folder) / "published", family=case.family)
        out, cotangent, wanted = _run_theirs(case, theirs, inputs, tables)
        found = _run_ours(case, component, inputs, cotangent)
        write(component, Path(folder) / "ours")
        same = _comes_back(case, theirs, Path(folder) / "ours", inputs, out)
    forward_max = float(np.max(np.abs(found[0] - out)))
    inputs_error = max((relative_error(found[1][n], wanted[0][n]) for n in wanted[0]), default=0.0)
    floor = TINY * max(float(np.max(np.abs(g))) for g in wanted[1].values())
    errors = {n: relative_error(found[2][n], wanted[1][n], floor) for n in wanted[1]}
    worst = max(errors, key=errors.get)
    count = sum(leaf.size for leaf in jax.tree.leaves(component.params))
    return Certificate(
        case.family.published, case.name, config_hash(case.published), str(out.dtype), count,
        forward_max, relative_error(found[0], out), inputs_error, errors[worst], worst, same,
    )  # fmt: skip


def relative_error(found: np.ndarray, wanted: np.ndarray, floor: float = 0.0) -> float:
    """Largest difference over the largest value of `wanted`, or over `floor` if that is more."""
    assert found.shape == wanted.shape, f"shape {found.shape}, theirs has {wanted.shape}"
    size = max(float(np.max(np.abs(wanted))), floor)
    difference = float(np.max(np.abs(found.astype(np.float64) - wanted)))
    return difference / size if size else difference


def config_hash(published: Mapping[str, Any]) -> str:
    """The first 12 digits of the SHA-256 of a config, whatever its order."""
    return hashlib.sha256(json.dumps(dict(published), sort_keys=True).encode()).hexdigest()[:12]


def _run_theirs(
    case: Case, module: Any, inputs: Inputs, tables: Collection[str]
) -> tuple[np.ndarray, np.ndarray, tuple[dict, dict]]:
    """Output, the direction in which it is differentiated, gradients of inputs and of parameters."""
    torch = torch_module("torch")
    tensors = {name: torch.from_numpy(value.copy()) for name, value in inputs.items()}
    floats = {name: t.requires_grad_() for name, t in tensors.items() if t.is_floating_point()}
    parameters = {name: weight.requires_grad_() for name, weight in weights_of(module, tables).items()}
    out = case.theirs(module, tensors)
    direction = np.random.default_rng(1).standard_normal(tuple(out.shape)).astype(np.float32)
    (out * torch.from_numpy(direction)).sum().backward()

    def gradient(tensor: Any) -> np.ndarray:
        return np.zeros(tuple(tensor.shape), np.float32) if tensor.grad is None else tensor.grad.numpy()

    of_inputs = {name: gradient(tensor) for name, tensor in floats.items()}
    of_parameters = {case.family.spell(name): gradient(tensor) for name, tensor in parameters.items()}
    return out.detach().numpy(), direction, (of_inputs, of_parameters)


def _run_ours(case: Case, component: Component, inputs: Inputs, direction: np.ndarray) -> tuple[np.ndarray, dict, dict]:
    """Output and gradients; those of parameters under their published names and in their layout."""
    networks = component.family.define(component.config)
    floats = {name: value for name, value in inputs.items() if np.issubdtype(value.dtype, np.floating)}
    others = {name: value for name, value in inputs.items() if name not in floats}

    def weighted(params, floats):
        out = case.ours(networks.merge({NETWORK: params})[NETWORK], {**floats, **others})
        return jnp.sum(out * direction), out

    options = QUICK if jax.default_backend() == "cpu" else None
    step = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True), compiler_options=options)
    (_, out), (of_params, of_inputs) = step(component.params, floats)
    return np.asarray(out), jax.device_get(of_inputs), to_published(component, of_params)


def to_published(component: Component, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A nested dict like the weights (gradients, for example), by published names and in published layouts."""
    flat = {".".join(path): np.asarray(leaf) for path, leaf in flatten_dict(params).items()}
    entries = component.family.keymap(component.config).entries({path: leaf.shape for path, leaf in flat.items()})
    return {entry.name: entry.read(flat[entry.rule.ours]) for entry in entries}


def _comes_back(case: Case, theirs: Any, folder: Path, inputs: Inputs, out: np.ndarray) -> bool:
    """Whether a fresh published module takes the files of `folder` and is the same to the last bit."""
    torch = torch_module("torch")
    opened = open_published(case.family, folder)
    original, back = theirs.state_dict(), opened.state_dict()
    if any(not torch.equal(back[name], original[name]) for name in original):
        return False
    again = case.theirs(opened, {name: torch.from_numpy(value) for name, value in inputs.items()})
    return np.array_equal(again.detach().numpy(), out)  # with gradients as before, or other kernels are chosen


def open_published(family: Family, folder: Path) -> Any:
    """The published module of a folder; every tensor of it must be there, and nothing else."""
    if family.library == "diffusers":
        module = build_published(family, read_json(folder / "config.json"))
        module.load_state_dict(_tensors(folder), strict=True)
        return module
    cls = getattr(torch_module(family.library), family.published)
    return cls.from_pretrained(folder).eval()  # its files name tied tensors once


def _tensors(folder: Path) -> dict[str, Any]:
    """Every tensor of a folder, as PyTorch's own reader sees it."""
    load = torch_module("safetensors.torch").load_file
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load(file).items()}


def abstract_check(family: Family, published: Mapping[str, Any]) -> int:
    """Holds every key and shape of a full published config against the key map, without a byte of weights.

    Returns:
      The number of tensors.

    Raises:
      ValueError: a tensor that only one side has, or of another shape; an option that is not known here.
      RunError: PyTorch is missing.
    """
    with torch_module("torch").device("meta"):
        state = build_published(family, published).state_dict()
    wanted = {name: tuple(tensor.shape) for name, tensor in state.items()}
    config = family.config(published)
    mapped = family.keymap(config).shapes(family.shapes(config))
    spelt = {family.spell(name): shape for name, shape in wanted.items()}
    faults = [f"{n}: {spelt.get(n)} there, {mapped.get(n)} here" for n in spelt.keys() | mapped.keys()]
    faults = [fault for fault, n in zip(faults, spelt.keys() | mapped.keys()) if spelt.get(n) != mapped.get(n)]
    if faults:
        raise ValueError(f"{family.published}: {len(faults)} tensors differ: {'; '.join(sorted(faults)[:12])}")
    return len(wanted)
