from types import SimpleNamespace

import jax
import pytest

from tests.planning.small_run import small_config
from vdm_jax.planning.chips import GIB
from vdm_jax.planning.compile import batch_shapes, planned_run
from vdm_jax.planning.memory import Memory, breakdown, compiled_memory, does_not_fit, state_memory
from vdm_jax.planning.targets import parse_target
from vdm_jax.training.step import abstract_batch

FULL = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 77.05G of 15.75G hbm. Exceeded hbm capacity by 61.30G.

Total hbm usage >= 77.30G:
    reserved        258.00M
    program          72.82G
    arguments         4.23G

Output size 4.20G; shares 4.20G with arguments.

Program hbm requirement 72.82G:
    reserved          4.0K
    HLO temp         72.82G (98.2% utilization: Unpadded (70.00G) Padded (71.30G), 2.1% fragmentation (1.52G))

  Largest program allocations in hbm:

  1. Size: 36.00G
     Operator: op_name="jit(train_step)/while/body/dot_general" source_file="x.py"
     Shape: bf16[40,8,4096,13824]{3,2,1,0:T(8,128)(2,1)}
     Unpadded size: 36.00G
     XLA label: fusion.1 = fusion(...)
     Allocation type: HLO temp
     ==========================

  2. Size: 12.50G
     Shape: f32[40,8,4096,2560]{3,2,1,0:T(8,128)}
     Allocation type: HLO temp
"""  # noqa: E501
EARLY = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (512.00G) exceeds available HBM (95.74G)."  # noqa: E501
KNOWN = Memory(2 * GIB, 4 * GIB, 2 * GIB, 0, usable=15.75 * GIB)


def test_the_compilers_own_list_is_in_the_error():
    error = does_not_fit(parse_target("v5e:16x16"), RuntimeError(FULL), KNOWN)
    assert (error.needed, error.usable) == (77.05 * GIB, 15.75 * GIB)
    assert error.breakdown == [
        "reserved 258.00M",
        "program 72.82G",
        "arguments 4.23G",
        "36.00G bf16[40,8,4096,13824]{3,2,1,0:T(8,128)(2,1)} jit(train_step)/while/body/dot_general",
        "12.50G f32[40,8,4096,2560]{3,2,1,0:T(8,128)}",
    ]
    assert str(error).startswith("target: v5e:16x16 has 15.75 GiB a device, the step needs 77.05 GiB; reserved 258.00M")
    assert "\n" not in str(error)


def test_a_program_given_up_early_has_no_list():
    error = does_not_fit(parse_target("v5p:2x2x1"), RuntimeError(EARLY), KNOWN)
    assert (error.needed, error.usable) == (512 * GIB, 95.74 * GIB)
    assert breakdown(EARLY) == []
    assert error.breakdown == ["arguments 8.00G", "all else 504.00G"]


def test_other_errors_are_not_about_memory():
    assert does_not_fit(parse_target("v5p:2x2x1"), RuntimeError("INTERNAL: bug"), KNOWN) is None


def test_state_is_split_as_its_shardings_say():
    def state(**mesh):
        config, target = small_config(mesh=mesh), parse_target("h100:8")
        run = planned_run(config, target)
        return run, state_memory(run.plan, abstract_batch(run.plan, batch_shapes(config)), target)

    run, whole = state(data=8, fsdp=1)
    _, split = state(data=1, fsdp=8)
    count = sum(leaf.size for leaf in jax.tree.leaves(run.plan.abstract.params))
    assert whole.parameters == 4 * count
    assert whole.optimizer == pytest.approx(2 * whole.parameters, rel=1e-3)
    assert whole.averages == whole.parameters
    assert whole.parameters / 8 <= split.parameters < whole.parameters / 7
    clip = 2 * 16 * 16 * 4 * 2 + 8 * 4 + 8 + 4 + 4  # float16
    assert whole.batch == split.batch == clip


def test_the_larger_account_counts():
    memory = Memory(1, 2, 1, 0, temporaries=10, peak=9, usable=16)
    assert (memory.state, memory.needed, memory.headroom, memory.fits) == (4, 14, 2, True)
    assert not Memory(1, 2, 1, 0, temporaries=13, usable=16).fits
    assert Memory(1, 2, 1, 0).fits is None


def test_what_was_compiled_for_a_chip_fits_it():
    memory = Memory(1, 2, 1, 0, temporaries=20, peak=15, usable=16)
    assert (memory.needed, memory.headroom, memory.fits) == (16, 0, True)


@pytest.mark.parametrize(("host", "usable", "peak"), [(0, 100, 70), (50, 100, 34), (50, 30, 30), (50, None, 34)])
def test_what_lies_on_the_host_is_no_part_of_the_peak(host, usable, peak):
    found = SimpleNamespace(
        temp_size_in_bytes=30, output_size_in_bytes=4, alias_size_in_bytes=4, peak_memory_in_bytes=70,
        host_temp_size_in_bytes=host,
    )  # fmt: skip
    program = SimpleNamespace(memory_analysis=lambda: found)
    memory = compiled_memory(Memory(1, 2, 1, 0, usable=usable), program)
    assert (memory.peak, memory.host, memory.temporaries) == (peak, host, 30)
