import dataclasses

import pytest

from tests.planning.hlo_texts import SCHEDULE, SLICES
from vdm_jax.planning.chips import CHIPS
from vdm_jax.planning.collectives import collectives
from vdm_jax.planning.hlo import parse
from vdm_jax.planning.network import Network
from vdm_jax.planning.targets import parse_target, target_devices
from vdm_jax.planning.traffic import exposed_seconds, hbm_bytes, products, sequence_seconds


def test_a_layer_of_a_stack_costs_a_layer():
    layer = 8 * 128 * 4
    assert hbm_bytes(parse(SLICES)) == 2 * layer + 4  # read one, write one, and the index


def test_fast_memory_is_no_traffic():
    slow = hbm_bytes(parse(SCHEDULE))
    fast = hbm_bytes(parse(SCHEDULE.replace("%busy.2 = bf16[256,512]{1,0}", "%busy.2 = bf16[256,512]{1,0:S(1)}")))
    assert slow - fast == 2 * 256 * 512 * 2  # written by the product, read by the sum


def test_products_of_a_fusion():
    module = parse(SCHEDULE)
    assert products(module, module.computations["main"].by_name["busy"]) == 2 * 256 * 512 * 1024
    assert products(module, module.computations["main"].by_name["scattered"]) == 0


@pytest.mark.parametrize(
    ("left", "right", "out", "how", "terms"),
    [
        ("[256,1024]", "[1024,512]", "[256,512]", "dim_labels=bf_io->bf", 256 * 512 * 1024),
        # heads of an output as a window that hangs over an image of size one; and summed, as a plain one
        ("[2,64,32,1]", "[32,4,16,1]", "[2,64,4,16]", "window={size=1x4 pad=0_0x3_3 rhs_reversal=0x1}, "
         "dim_labels=0bf1_i1o0->0b1f", 2 * 64 * 4 * 16 * 32),
        ("[2,64,4,16]", "[32,4,16,1]", "[2,64,32,1]", "window={size=1x4}, dim_labels=0b1f_o1i0->0bf1",
         2 * 64 * 32 * 4 * 16),
        ("[3,8,16]", "[3,16,4]", "[3,8,4]", "window={size=3 stride=2 pad=2_2 lhs_dilate=3 rhs_reversal=1}, "
         "dim_labels=0bf_0io->0bf", None),
    ],
)  # fmt: skip
def test_convolutions_are_products(left, right, out, how, terms):
    text = f"""HloModule product, num_partitions=1

ENTRY %main (l: f32{left}, r: f32{right}) -> f32{out} {{
  %l = f32{left} parameter(0)
  %r = f32{right} parameter(1)
  ROOT %c = f32{out} convolution(%l, %r), {how}
}}
"""
    module = parse(text)
    found = products(module, module.computations["main"].root)
    assert found == 2 * terms if terms else 0 < found < 2 * 3 * 8 * 4 * 16 * 3


@pytest.fixture(scope="module")
def network():
    target = parse_target("v5p:2x2x1")
    return Network.of(target, target_devices(target))


def test_work_hides_what_was_started_before_it(network):
    module, chip = parse(SCHEDULE), CHIPS["v5p"]
    found = collectives(module, {"fsdp": 4})
    total, exposed = exposed_seconds(module, found, chip, network)
    by_name = {c.name: c.wire_bytes / network.bandwidth(c.members) for c in found}
    assert total == pytest.approx(sum(by_name.values()))
    hidden = {"ag-done", "carry-done"}
    busy = max(2 * 256 * 512 * 1024 / chip.flops, (256 * 1024 + 1024 * 512 + 256 * 512) * 2 / chip.hbm_bandwidth)
    left = sum(max(0.0, by_name[name] - busy) for name in hidden)
    blocking = sum(time for name, time in by_name.items() if name not in hidden)
    assert exposed == pytest.approx(left + blocking)


def test_work_hides_one_transfer_at_a_time(network):
    module, chip = parse(SCHEDULE), dataclasses.replace(CHIPS["v5p"], hbm_bandwidth=1e30)
    gather = next(c for c in collectives(module, {"fsdp": 4}) if c.name == "ag-done")
    slow = dataclasses.replace(gather, wire_bytes=1e9)
    once, twice = (exposed_seconds(module, [slow] * n, chip, network)[1] for n in (1, 2))
    assert twice - once == pytest.approx(1e9 / network.bandwidth(slow.members))


def test_instructions_in_turn_take_the_larger_of_their_times():
    module, chip = parse(SCHEDULE), CHIPS["v5p"]
    quick = dataclasses.replace(chip, hbm_bandwidth=1e30)
    two_products = 2 * 2 * 256 * 512 * 1024 / chip.flops
    assert sequence_seconds(module, quick, kernels=0.0) == pytest.approx(two_products)
    assert sequence_seconds(module, quick, kernels=1.0) == pytest.approx(1.0 + two_products)
    kernel = 2 * 64 * 64 * 2 / chip.hbm_bandwidth  # reads and writes one array
    whole, without = (sequence_seconds(module, chip, kernels=k) for k in (kernel, 2 * kernel))
    assert without - whole == pytest.approx(kernel)
    assert whole >= hbm_bytes(module) / chip.hbm_bandwidth
