"""The device mesh: four named axes, and what must divide by them.

| axis      | what is split over it                              | traffic per step                      |
| --------- | -------------------------------------------------- | ------------------------------------- |
| `data`    | the batch; parameters are copied                   | one gradient all-reduce               |
| `fsdp`    | the batch; parameters and moments are split        | all-gather, reduce-scatter per layer  |
| `context` | tokens of one clip (time, space); parameters too   | exchange inside attention             |
| `tensor`  | heads and MLP width inside one layer               | all-reduce per layer                  |

The axes are listed from the slowest wires to the fastest: neighbouring devices of the torus or the node come next to
each other on the last axis, where the traffic is, and the slices of a multi-slice TPU, which only the data-centre
network joins, are the outermost parts of `data`.  All axes are Auto (the compiler chooses layouts, model code only
hints).
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "context", "tensor")
BATCH_AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; at most one is -1, which means "all devices that are left"."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1

    def __post_init__(self):
        for axis in AXES:
            size = getattr(self, axis)
            if size != -1 and size < 1:
                raise ValueError(f"{axis}: {size} is not an axis size; use 1 or more, or -1 for the devices left")
        free = [axis for axis in AXES if getattr(self, axis) == -1]
        if len(free) > 1:
            raise ValueError(f"{free[0]}: only one axis can be -1, but {' and '.join(free)} are")

    def sizes(self, devices: int) -> dict[str, int]:
        """Axis sizes on `devices` devices, -1 filled in.

        Raises:
          ValueError: the product is not the device count; says the nearest size that would do.
        """
        sizes = {axis: getattr(self, axis) for axis in AXES}
        free = [axis for axis, size in sizes.items() if size == -1]
        fixed = math.prod(size for size in sizes.values() if size != -1)
        if free and devices % fixed == 0:
            return {**sizes, free[0]: devices // fixed}
        if not free and fixed == devices:
            return sizes
        raise ValueError(f"mesh: {_product(sizes)} does not fit {devices} devices; {_nearest(sizes, devices)}")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh over `devices` (all of them, over all processes, unless told).

    Raises:
      ValueError: the axis sizes do not multiply to the device count, or `data` to the number of slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = config.sizes(len(devices))
    return Mesh(_arrange(sizes, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def slice_count(devices: Sequence[jax.Device]) -> int:
    """TPU slices that the devices belong to; 1 for any other platform, where `jax` numbers nodes, not networks."""
    return len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"}) or 1


def _arrange(sizes: dict[str, int], devices: list[jax.Device]) -> np.ndarray:
    """The devices as an array of the axes' sizes; axes may share a dim of the torus (16 x 4 on 4 x 4 x 4)."""
    slices = slice_count(devices)
    if slices == 1:
        return mesh_utils.create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
    if sizes["data"] % slices:
        near = max(slices, round(sizes["data"] / slices) * slices)
        raise ValueError(
            f"data: {sizes['data']} does not divide into the {slices} slices, which only data parallelism may cross;"
            f" the nearest that does is {near}"
        )
    inside = sizes | {"data": sizes["data"] // slices}
    across = dict.fromkeys(sizes, 1) | {"data": slices}
    return mesh_utils.create_hybrid_device_mesh(
        tuple(inside.values()), tuple(across.values()), devices, allow_split_physical_axes=True
    )


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Refuses a global batch that cannot be split over `data` x `fsdp` and into `accumulate` microbatches.

    Raises:
      ValueError: names both sides and the nearest batch size that works.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate: {accumulate} microbatches; use 1 or more")
    parts = batch_shards(mesh) * accumulate
    if batch_size < 1 or batch_size % parts:
        near = max(parts, round(batch_size / parts) * parts)
        raise ValueError(
            f"batch_size: {batch_size} does not divide into data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}"
            f" x accumulate {accumulate} = {parts} parts; the nearest that does is {near}"
        )


def check_heads(mesh: Mesh, heads: int) -> None:
    """Refuses a head count that tensor parallelism cannot split.

    Raises:
      ValueError: names both sides and the nearest `tensor` that works.
    """
    tensor = mesh.shape["tensor"]
    if heads % tensor:
        near = max(k for k in range(1, tensor + 1) if heads % k == 0)
        raise ValueError(f"heads: {heads} does not divide by tensor {tensor}; the nearest tensor that does is {near}")


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def _product(sizes: dict[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items())


def _nearest(sizes: dict[str, int], devices: int) -> str:
    """Which single change of the largest fixed axis makes the product fit."""
    fixed = {axis: size for axis, size in sizes.items() if size != -1}
    complete = len(fixed) == len(sizes)
    for axis in sorted(fixed, key=fixed.get, reverse=True):
        rest = math.prod(size for name, size in fixed.items() if name != axis)
        if devices % rest:
            continue
        whole = devices // rest
        fits = [whole] if complete else [k for k in range(1, whole + 1) if whole % k == 0]
        near = min(fits, key=lambda k: abs(k - fixed[axis]))
        return f"the nearest that does has {axis} {near}"
    return "set data to -1 and the others to 1, then split further"
