import jax
import pytest

from tests.planning.small_run import small_trace
from vdm_jax.planning.collectives import totals, wire_bytes
from vdm_jax.planning.estimate import estimated_collectives, estimated_hbm_bytes, members


def estimate(target="h100:8", **sections):
    traced = small_trace(target, **sections)
    return traced, {key: wire for key, (_, _, wire) in totals(estimated_collectives(traced)).items()}


def split_bytes(traced, axes):
    """Bytes in bfloat16 of the parameters split over exactly these axes."""

    def over(leaf):
        return {a for entry in leaf.sharding.spec if entry for a in ((entry,) if isinstance(entry, str) else entry)}

    return sum(2 * leaf.size for leaf in jax.tree.leaves(traced.run.plan.abstract.params) if over(leaf) == set(axes))


@pytest.mark.parametrize(("remat", "gathers"), [("none", 2), ("full", 3)])
def test_weights_are_gathered_for_each_pass(remat, gathers):
    traced, found = estimate(mesh={"data": 2, "fsdp": 4}, model={"remat": remat})
    weights = split_bytes(traced, {"fsdp"})
    assert found["all-gather", ("fsdp",)] == pytest.approx(gathers * weights * 3 / 4)
    assert found["reduce-scatter", ("fsdp",)] == pytest.approx(weights * 3 / 4)
    assert found["all-reduce", ("data",)] == pytest.approx(2 * weights / 4 / 2)


def test_microbatches_gather_again():
    _, once = estimate(mesh={"data": 2, "fsdp": 4}, model={"remat": "full"})
    _, twice = estimate(mesh={"data": 1, "fsdp": 4}, train={"accumulate": 2}, target="h100:4")
    assert twice["all-gather", ("fsdp",)] == 2 * once["all-gather", ("fsdp",)]


def test_data_alone_sums_gradients_and_nothing_else():
    traced, found = estimate(mesh={"data": 8, "fsdp": 1}, model={"remat": "none"})
    weights = sum(2 * p.size for p in jax.tree.leaves(traced.run.plan.abstract.params))
    assert found == {("all-reduce", ("data",)): pytest.approx(2 * weights * 7 / 8)}


def test_tensor_pays_with_activations():
    _, found = estimate(mesh={"data": 4, "fsdp": 1, "tensor": 2}, model={"remat": "none"})
    tokens = 2 * 8 * 8 * 8 / 4
    sums = 2 * 4 + 2 * 2
    assert found["all-reduce", ("tensor",)] == pytest.approx(sums * tokens * 64 * 2 * 2 * 1 / 2)


def test_one_device_sends_nothing():
    _, found = estimate("h100:1", mesh={"data": 1, "fsdp": 1})
    assert wire_bytes([]) == sum(found.values()) == 0


def test_groups_are_numbered_along_the_mesh():
    traced, _ = estimate(mesh={"data": 4, "fsdp": 1, "tensor": 2}, model={"remat": "none"})
    assert members(traced.run.mesh, ("tensor",)) == (0, 1)
    assert members(traced.run.mesh, ("data",)) == (0, 2, 4, 6)
    assert members(traced.run.mesh, ("data", "tensor")) == tuple(range(8))


def test_scores_are_traffic_only_where_no_kernel_keeps_them():
    traced, _ = estimate(mesh={"data": 2, "fsdp": 4}, model={"remat": "full"})
    without = estimated_hbm_bytes(traced)
    assert without >= 2 * traced.memory.state
    assert traced.program.score_bytes > 0
