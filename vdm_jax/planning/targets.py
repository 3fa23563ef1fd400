"""Machines to plan for, named as `v5p:4x4x8`, `v6e:16x16` with `--slices 2`, `cpu:8`, `h200:64`.

A TPU is the topology that libtpu's compiler knows, without any chip: its devices can be compiled for and hold nothing.
`cpu:N` is N fake devices of this process.  A GPU's program cannot be compiled where there is none, so `h100:N` and
`h200:N` have no devices: their plan is calculated (`estimate.py`) on an abstract mesh.
"""

import dataclasses
import math
import os
import re
from collections.abc import Sequence

import jax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh

from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.planning.chips import CHIPS, GIB, Chip
from vdm_jax.sharding import AXES, MeshConfig, make_mesh

TPU_KINDS = tuple(name for name, chip in CHIPS.items() if chip.wraps)
GPU_KINDS = tuple(name for name, chip in CHIPS.items() if chip.node)
_SPELLINGS = {"7x": "tpu7x", "v7x": "tpu7x", "v5litepod": "v5e", "v5": "v5p", "trillium": "v6e", "ironwood": "tpu7x"}
_EXAMPLES = "v5e:4x4, v5p:4x4x8, v6e:16x16, tpu7x:4x4x4, h100:64, h200:8, cpu:8"
# libtpu looks for the machine it runs on; this keeps it from asking the network, from complaining, and from locking
# out other processes: nothing here touches a chip.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_INSTALL = "install the extra: ./tools/setup --tpu, or pip install 'vdm_jax[tpu]'"


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine that need not be there.

    Attributes:
      kind: a name of `CHIPS`, or `cpu`.
      shape: chips along each dim of one slice; one number for a CPU or GPUs.
      slices: TPU slices joined by the data-centre network.
      memory: bytes of a device that a step may take; None is all there are.
    """

    kind: str
    shape: tuple[int, ...]
    slices: int = 1
    memory: float | None = None

    @property
    def name(self) -> str:
        """As it is written, `2 x v5p:4x4x8` for two slices."""
        one = f"{self.kind}:{'x'.join(map(str, self.shape))}"
        return one if self.slices == 1 else f"{self.slices} x {one}"

    @property
    def chip(self) -> Chip | None:
        """Its peaks; None for a CPU, whose peaks nobody knows."""
        return CHIPS.get(self.kind)

    @property
    def platform(self) -> str:
        """`cpu`, `gpu` or `tpu`."""
        return "cpu" if self.kind == "cpu" else "tpu" if self.kind in TPU_KINDS else "gpu"

    @property
    def compiles(self) -> bool:
        """Whether its program can be compiled here; else it is calculated."""
        return self.platform != "gpu"

    @property
    def usable(self) -> float | None:
        """Bytes that a step may take on a device; None where nobody knows."""
        whole = None if self.chip is None else self.chip.hbm
        return whole if self.memory is None else min(self.memory, whole or self.memory)

    @property
    def compiler_options(self) -> dict[str, str]:
        """What holds the compiler to `memory`; only that for TPUs can be held."""
        if self.memory is None or self.platform != "tpu":
            return {}
        return {"xla_tpu_max_hbm_size_mib": str(int(self.memory / 2**20))}

    @property
    def devices(self) -> int:
        """JAX devices in all: a 7x chip counts twice."""
        return math.prod(self.shape) * self.slices * (2 if self.kind == "tpu7x" else 1)


def parse_target(text: str, slices: int = 1, memory: float | None = None) -> Target:
    """Reads a target.

    Args:
      text: `KIND:SIZExSIZE...` for a TPU, `KIND:COUNT` for a CPU or GPUs.
      slices: of a multi-slice TPU.
      memory: GiB of a device that a step may take; None is all there are.

    Raises:
      ValueError: an unknown kind (lists the known ones) or a size that makes no sense.
    """
    kind, colon, size = text.partition(":")
    kind = _SPELLINGS.get(kind.lower(), kind.lower())
    known = (*TPU_KINDS, *GPU_KINDS, "cpu")
    if kind not in known:
        raise ValueError(f"target: {did_you_mean(kind, known)} (for example {_EXAMPLES})")
    if not colon or not re.fullmatch(r"\d+(x\d+)*", size) or "0" in size.split("x"):
        wanted = "its chips along each dim" if kind in TPU_KINDS else "a number of devices"
        raise ValueError(f"target: {text!r} needs {wanted} after {kind}:, as in {_EXAMPLES}")
    shape = tuple(map(int, size.split("x")))
    if kind not in TPU_KINDS and len(shape) > 1:
        raise ValueError(f"target: {text!r} is not a torus; say how many, as in {kind}:{math.prod(shape)}")
    if slices < 1:
        raise ValueError(f"slices: {slices} must be 1 or more")
    if slices > 1 and kind not in TPU_KINDS:
        raise ValueError(f"slices: {slices} slices of {kind}; only TPUs ({', '.join(TPU_KINDS)}) have slices")
    if memory is not None and not memory > 0:
        raise ValueError(f"memory: {memory:g} GiB must be above 0")
    return Target(kind, shape, slices, None if memory is None else memory * GIB)


def target_devices(target: Target) -> Sequence[jax.Device]:
    """Devices that can be compiled for.

    Raises:
      ValueError: a topology that libtpu does not know, or more fake CPU devices than this process started with.
      RunError: libtpu is not installed.
    """
    assert target.compiles, target
    return _cpu_devices(target) if target.kind == "cpu" else _tpu_devices(target)


def target_mesh(target: Target, config: MeshConfig) -> Mesh | AbstractMesh:
    """The mesh of a run on the target; abstract where there are no devices to compile for.

    Raises:
      ValueError: the mesh does not fit the target; see also `target_devices`.
    """
    if target.compiles:
        return make_mesh(config, target_devices(target))
    sizes, kind = config.sizes(target.devices), AbstractDevice("cpu", None, "cpu")
    types = (AxisType.Auto,) * len(AXES)  # a GPU's own kernels cannot be traced without its libraries
    return AbstractMesh(tuple(sizes.values()), AXES, axis_types=types, abstract_device=kind)


def use_cpu(devices: int = 1) -> None:
    """Makes this process a CPU one with that many fake devices, so that planning for an accelerator starts none.

    To be called before anything else asks JAX for a device; afterwards it has no effect.
    """
    try:
        if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
            jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError:  # devices are there already, whatever they are
        return
    jax.config.update("jax_platforms", "cpu")


def _cpu_devices(target: Target) -> Sequence[jax.Device]:
    use_cpu(target.devices)
    devices = jax.devices("cpu")
    if len(devices) < target.devices:
        raise ValueError(f"target: {target.name} needs {target.devices} CPU devices, this process has {len(devices)}")
    return devices[: target.devices]


def _tpu_devices(target: Target) -> Sequence[jax.Device]:
    from jax.experimental import topologies

    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    options = {"num_slices": target.slices} if target.slices > 1 else {}
    if math.prod(target.shape) < 8 and any(size % 2 for size in target.shape[:2]):  # a part of one host
        options["chips_per_host_bounds"] = (*target.shape, 1, 1)[:3]
    name = f"{target.kind}:{'x'.join(map(str, target.shape))}"
    try:
        return topologies.get_topology_desc(name, "tpu", **options).devices
    except RuntimeError as error:
        if "not installed" in str(error):
            raise RunError(f"target: {name} is compiled by libtpu, which is not installed; {_INSTALL}") from None
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise ValueError(f"target: libtpu knows no {name} ({reason}); it knows {', '.join(TPU_KINDS)}") from None
