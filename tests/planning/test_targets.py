import pytest
from jax.sharding import AbstractMesh

from vdm_jax.errors import RunError
from vdm_jax.planning.chips import GIB
from vdm_jax.planning.targets import Target, parse_target, target_devices, target_mesh
from vdm_jax.sharding import MeshConfig


@pytest.mark.parametrize(
    ("text", "slices", "target", "devices"),
    [
        ("v5p:4x4x8", 1, Target("v5p", (4, 4, 8)), 128),
        ("v6e:16x16", 2, Target("v6e", (16, 16), 2), 512),
        ("7x:2x2x1", 1, Target("tpu7x", (2, 2, 1)), 8),
        ("cpu:8", 1, Target("cpu", (8,)), 8),
        ("H200:64", 1, Target("h200", (64,)), 64),
    ],
)
def test_targets_are_read(text, slices, target, devices):
    assert parse_target(text, slices) == target
    assert target.devices == devices


def test_a_step_may_be_given_less_than_all_memory():
    whole, half = parse_target("v6e:4x4"), parse_target("v6e:4x4", memory=16)
    assert (whole.usable, whole.compiler_options) == (whole.chip.hbm, {})
    assert (half.usable, half.compiler_options) == (16 * GIB, {"xla_tpu_max_hbm_size_mib": str(16 * 1024)})
    assert parse_target("v6e:4x4", memory=64).usable == whole.chip.hbm
    assert (parse_target("h100:8", memory=16).usable, parse_target("cpu:8", memory=2).usable) == (16 * GIB, 2 * GIB)
    assert parse_target("h100:8", memory=16).compiler_options == {}
    with pytest.raises(ValueError, match="memory: -1 GiB must be above 0"):
        parse_target("v6e:4x4", memory=-1)


@pytest.mark.parametrize(
    ("text", "slices", "message"),
    [
        ("v5x:2x2", 1, "target: unknown 'v5x'; did you mean 'v5.'. allowed: cpu, h100, h200, tpu7x, v5e, v5p, v6e"),
        ("v5p", 1, "'v5p' needs its chips along each dim after v5p:, as in v5e:4x4"),
        ("cpu:zero", 1, "needs a number of devices"),
        ("v5p:4x0x4", 1, "needs its chips"),
        ("h100:8x8", 1, "not a torus; say how many, as in h100:64"),
        ("cpu:8", 2, "slices: 2 slices of cpu; only TPUs"),
        ("v6e:4x4", 0, "slices: 0 must be 1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(text, slices, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_target(text, slices)
    assert "\n" not in str(error.value)


def test_topologies_are_those_of_the_compiler():
    for text, kind, last in (("v5p:2x2x2", "TPU v5", [1, 1, 1]), ("v6e:2x4", "TPU v6 lite", [1, 3, 0])):
        devices = target_devices(parse_target(text))
        assert (len(devices), devices[-1].device_kind, devices[-1].coords) == (8, kind, last)
    assert len(target_devices(parse_target("v6e:1x1"))) == 1  # a part of one host
    assert len(target_devices(parse_target("tpu7x:2x2x1"))) == 8


def test_a_topology_the_compiler_does_not_know_lists_those_it_does():
    with pytest.raises(ValueError, match=r"libtpu knows no v5p:3x3x1 .*; it knows v5e, v5p, v6e, tpu7x"):
        target_devices(parse_target("v5p:3x3x1"))


def test_without_the_compiler_the_error_says_how_to_get_it(monkeypatch):
    from jax.experimental import topologies

    def absent(*args, **kwargs):
        raise RuntimeError("JAX TPU support not installed; cannot generate TPU topology. See https://...")

    monkeypatch.setattr(topologies, "get_topology_desc", absent)
    with pytest.raises(RunError, match=r"not installed; install the extra: ./tools/setup --tpu") as error:
        target_devices(parse_target("v5p:2x2x1"))
    assert "\n" not in str(error.value)


def test_cpu_devices_are_those_of_this_process():
    assert len(target_devices(parse_target("cpu:8"))) == 8
    with pytest.raises(ValueError, match="cpu:64 needs 64 CPU devices, this process has 8"):
        target_devices(parse_target("cpu:64"))


def test_a_gpu_has_an_abstract_mesh():
    mesh = target_mesh(parse_target("h200:64"), MeshConfig(fsdp=8))
    assert isinstance(mesh, AbstractMesh)
    assert dict(mesh.shape) == {"data": 8, "fsdp": 8, "context": 1, "tensor": 1}


def test_slices_are_the_outermost_part_of_data():
    mesh = target_mesh(parse_target("v6e:2x4", 2), MeshConfig(data=4, fsdp=4))
    assert [{d.slice_index for d in row.flat} for row in mesh.devices] == [{0}, {0}, {1}, {1}]
    with pytest.raises(ValueError, match="data: 1 does not divide into the 2 slices.* nearest that does is 2"):
        target_mesh(parse_target("v6e:2x4", 2), MeshConfig(data=1, fsdp=16))


def test_axes_may_share_a_dim_of_the_torus():
    """16 x 4 on 4 x 4 x 4: no axis is a dim of the torus, or a product of some."""
    mesh = target_mesh(parse_target("v5p:4x4x4"), MeshConfig(data=2, fsdp=8, context=4))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 8, "context": 4, "tensor": 1}
    context = mesh.devices[0, 0, :, 0]
    assert sum(len({d.coords[dim] for d in context}) > 1 for dim in range(3)) == 1  # one closed ring
