import pytest

from tests.planning.hlo_texts import SCHEDULE
from vdm_jax.planning.chips import CHIPS
from vdm_jax.planning.collectives import Collective, collectives
from vdm_jax.planning.hlo import parse
from vdm_jax.planning.network import Network
from vdm_jax.planning.roofline import collective_seconds, cost, roofline
from vdm_jax.planning.targets import parse_target
from vdm_jax.planning.traffic import exposed_seconds
from vdm_jax.training.flops import peak_flops

H200 = parse_target("h200:8")


def sent(wire, hidden):
    return Collective("all-gather", "", "", 2, 0, wire, 8, ("fsdp",), tuple(range(8)), (), "", hidden)


@pytest.mark.parametrize("name", CHIPS)
def test_predicted_and_measured_mfu_have_one_denominator(name):
    assert CHIPS[name].flops == peak_flops(CHIPS[name].kind)
    assert CHIPS[name].hbm_bandwidth > CHIPS[name].link > CHIPS[name].network


def test_a_step_is_the_larger_of_two_and_what_is_exposed():
    chip = H200.chip
    times = roofline(H200, 6 * chip.flops, 8 * chip.flops, 0.5 * chip.hbm_bandwidth, (3.0, 0.25))
    assert (times.compute, times.hbm, times.step, times.bound) == (1.0, 0.5, 1.25, 3.0)
    assert times.mfu == pytest.approx(6 / 8 / 1.25)
    assert times.limit == "compute"
    assert roofline(H200, 1.0, 1.0, 4 * chip.hbm_bandwidth, (0.0, 9.0)).limit == "collectives"


def test_a_cpu_has_no_roofline():
    assert roofline(parse_target("cpu:8"), 1.0, 1.0, 1.0, (0.0, 0.0)) is None


def test_calculated_collectives_hide_behind_work_if_they_can():
    network = Network.of(H200, ())
    one = 450e9
    found = [sent(one, hidden=True), sent(one / 2, hidden=False)]
    assert collective_seconds(H200, network, found, None, work=5.0) == (3.0, 1.0)
    assert collective_seconds(H200, network, found, None, work=0.5) == (3.0, 1.0 + 1.5)


def test_compiled_collectives_hide_behind_what_the_schedule_says():
    module = parse(SCHEDULE)
    found = collectives(module, {"fsdp": 4})
    network = Network.of(H200, ())
    seconds = collective_seconds(H200, network, found, module, work=1e9)
    assert seconds == exposed_seconds(module, found, H200.chip, network)
    assert 0 < seconds[1] < seconds[0]


def test_cost_counts_devices_and_days():
    bill = cost(step_seconds=2.0, samples=86_400, batch_size=4, tokens=1000, devices=8)
    assert bill.tokens_per_second == 500
    assert bill.days == pytest.approx(0.5)
    assert bill.device_hours == pytest.approx(0.5 * 24 * 8)
