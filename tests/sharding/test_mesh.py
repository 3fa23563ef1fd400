import dataclasses

import jax
import pytest
from jax.sharding import AxisType

from vdm_jax.sharding import AXES, MeshConfig, batch_shards, check_batch, check_heads, make_mesh, slice_count


@dataclasses.dataclass(frozen=True)
class Chip:
    """As much of a device as a mesh looks at."""

    id: int
    coords: tuple[int, int, int]
    slice_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"
    process_index: int = 0
    core_on_chip: int = 0


def torus(x, y, z=1, slices=1, kind="TPU v6 lite"):
    places = [(i, j, k) for k in range(z) for j in range(y) for i in range(x)]
    return [Chip(n + s * len(places), at, s, device_kind=kind) for s in range(slices) for n, at in enumerate(places)]


def test_the_default_is_data_parallel_over_all_devices():
    mesh = make_mesh(MeshConfig())
    assert dict(mesh.shape) == {"data": 8, "fsdp": 1, "context": 1, "tensor": 1}
    assert mesh.axis_names == AXES


def test_axes_are_auto():
    assert set(make_mesh(MeshConfig(fsdp=2)).axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(("config", "sizes"), [
    (MeshConfig(fsdp=2, tensor=2), (2, 2, 1, 2)),
    (MeshConfig(data=1, fsdp=-1), (1, 8, 1, 1)),
    (MeshConfig(data=2, context=4), (2, 1, 4, 1)),
])  # fmt: skip
def test_minus_one_is_what_is_left(config, sizes):
    assert tuple(make_mesh(config).shape.values()) == sizes


def test_a_mesh_of_some_devices():
    assert make_mesh(MeshConfig(), jax.devices()[:2]).size == 2


@pytest.mark.parametrize(("config", "message"), [
    (MeshConfig(fsdp=3), "does not fit 8 devices; the nearest that does has fsdp 2"),
    (MeshConfig(data=2, fsdp=3), "does not fit 8 devices; the nearest that does has fsdp 4"),
    (MeshConfig(data=4), "does not fit 8 devices; the nearest that does has data 8"),
    (MeshConfig(data=3, fsdp=3), "set data to -1"),
])  # fmt: skip
def test_sizes_that_do_not_fit_name_the_nearest_that_do(config, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(config)


@pytest.mark.parametrize(("fields", "message"), [
    ({"fsdp": 0}, "fsdp: 0 is not an axis size"),
    ({"tensor": -2}, "tensor: -2 is not an axis size"),
    ({"data": -1, "fsdp": -1}, "only one axis can be -1, but data and fsdp are"),
])  # fmt: skip
def test_config_names_the_axis(fields, message):
    with pytest.raises(ValueError, match=message):
        MeshConfig(**fields)


def test_batch_must_divide():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    assert batch_shards(mesh) == 4
    check_batch(mesh, 16, accumulate=4)
    with pytest.raises(ValueError, match="batch_size: 18 .* data 2 x fsdp 2 x accumulate 1 = 4 parts; .* is 16"):
        check_batch(mesh, 18)
    with pytest.raises(ValueError, match="the nearest that does is 12"):
        check_batch(mesh, 1, accumulate=3)


def test_heads_must_divide():
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    check_heads(mesh, 12)
    with pytest.raises(ValueError, match="heads: 6 does not divide by tensor 4; the nearest tensor that does is 3"):
        check_heads(mesh, 6)


def test_slices_are_the_outermost_part_of_data():
    mesh = make_mesh(MeshConfig(data=4, fsdp=4), torus(4, 2, slices=2))
    assert [{d.slice_index for d in row.flat} for row in mesh.devices] == [{0}, {0}, {1}, {1}]
    assert slice_count(mesh.devices.flatten()) == 2


def test_only_data_crosses_slices():
    with pytest.raises(ValueError, match="data: 1 does not divide into the 2 slices, .* the nearest that does is 2"):
        make_mesh(MeshConfig(data=1, fsdp=16), torus(4, 2, slices=2))


def test_other_platforms_number_nodes_not_networks():
    nodes = [dataclasses.replace(d, platform="gpu", device_kind="NVIDIA H100") for d in torus(4, 1, slices=2)]
    assert slice_count(nodes) == 1
    assert [d.id for d in make_mesh(MeshConfig(data=1, fsdp=8), nodes).devices.flat] == list(range(8))
    assert slice_count(jax.devices()) == 1


def test_axes_may_share_a_dim_of_the_torus():
    """16 x 4 on 4 x 4 x 4: neither is a product of its dims for every order of axes, as `jax.make_mesh` wants."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=8, context=4), torus(4, 4, 4, kind="TPU v5"))
    assert len({d.id for d in mesh.devices.flat}) == 64
    along = [d.coords for d in mesh.devices[0, 0, :, 0]]
    assert sum(len({place[dim] for place in along}) > 1 for dim in range(3)) == 1  # context has a ring of its own
