import numpy as np
import pytest

from vdm_jax.planning.chips import CHIPS
from vdm_jax.planning.network import Network
from vdm_jax.planning.targets import parse_target, target_mesh
from vdm_jax.sharding import MeshConfig


def network_of(text, slices=1, **mesh):
    target = parse_target(text, slices)
    devices = tuple(target_mesh(target, MeshConfig(**mesh)).devices.flat) if target.compiles else ()
    return Network.of(target, devices)


def test_a_closed_dim_has_two_links():
    network, link = network_of("v5p:4x4x4", data=1, fsdp=16, context=4), CHIPS["v5p"].link
    assert network.bandwidth(range(4)) == 2 * link  # context: a ring along one dim
    assert network.bandwidth(range(0, 64, 4)) == 4 * link  # fsdp: two dims
    assert network.bandwidth(range(64)) == 6 * link


def test_an_open_dim_has_one():
    assert network_of("v5p:2x2x1", data=1, fsdp=4).bandwidth(range(4)) == 2 * CHIPS["v5p"].link
    network = network_of("v6e:4x4", data=4, fsdp=4)
    assert network.bandwidth(range(4)) == CHIPS["v6e"].link


def test_slices_are_joined_by_the_network_of_their_members():
    network, chip = network_of("v6e:2x4", 2, data=4, fsdp=4), CHIPS["v6e"]
    data = [0, 4, 8, 12]
    assert network.crosses(data)
    assert network.bandwidth(data) == pytest.approx(min(chip.link, 2 * chip.network))
    assert not network.crosses(range(4))


def test_nodes_of_gpus():
    network, chip = network_of("h100:64"), CHIPS["h100"]
    assert network.bandwidth(range(8)) == chip.link
    assert network.bandwidth(range(0, 64, 8)) == chip.network
    assert network.bandwidth(range(64)) == 8 * chip.network
    assert network.bandwidth([3]) == np.inf


def test_a_cpu_has_no_known_wires():
    assert Network.of(parse_target("cpu:8"), ()).bandwidth(range(8)) == np.inf
