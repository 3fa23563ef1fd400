import jax
import numpy as np
import pytest

from tests.training.dit_runs import NETWORKS, STEPS, compiled, curve_of, weights_of

# Every axis by itself and every pair of axes.
MESHES = {
    "data": {"data": 8},
    "fsdp": {"data": 1, "fsdp": 8},
    "tensor": {"data": 1, "tensor": 8},
    "context": {"data": 1, "context": 8},
    "data_context": {"data": 2, "context": 4},
    "fsdp_context": {"data": 1, "fsdp": 2, "context": 4},
    "data_fsdp_tensor": {"data": 2, "fsdp": 2, "tensor": 2},
    "fsdp_context_tensor": {"data": 1, "fsdp": 2, "context": 2, "tensor": 2},
}


FORMS = ("dit_full", "dit_factorised")
MIXTURES = ("data_context", "fsdp_context_tensor")
# Every mesh for the forms of the DiT; for other networks those in which all axes occur.
PAIRS = [(network, mesh) for network in NETWORKS for mesh in (MESHES if network in FORMS else MIXTURES)]


@pytest.mark.parametrize(("network", "mesh"), PAIRS)
def test_the_loss_curve_is_that_of_one_device(network, mesh):
    got, state = compiled(network, MESHES[mesh]).curve(STEPS, weights_of(network))
    np.testing.assert_allclose(got[:, 0], curve_of(network)[:, 0], rtol=0, atol=1e-5)
    kernel = state.params["backbone"]["patch_in"]["kernel"]
    parts = MESHES[mesh].get("fsdp", 1) * MESHES[mesh].get("context", 1)
    assert kernel.addressable_shards[0].data.size * parts == kernel.size


@pytest.mark.parametrize("network", FORMS)
def test_microbatches_equal_the_big_batch(network):
    got, _ = compiled(network, {"data": 1}, accumulate=2).curve(1, weights_of(network))
    np.testing.assert_allclose(got, curve_of(network)[:1], rtol=1e-6, atol=1e-6)


def test_the_curve_is_one_of_learning():
    for network in NETWORKS:
        losses = curve_of(network)[:, 0]
        assert len(np.unique(losses)) == STEPS
        assert losses[-2:].mean() < losses[:2].mean()


def test_heads_that_the_partition_cannot_cut_are_refused_before_anything_is_made():
    message = "partition: 'ulysses' cannot cut 2 heads .of one tensor shard. over context 4; the nearest"
    with pytest.raises(ValueError, match=message):
        compiled("dit_full", {"data": 1, "context": 4, "tensor": 2}, model={"heads": 4, "partition": "ulysses"})


def test_a_mesh_starts_from_the_weights_of_one_device():
    params = compiled("dit_full", MESHES["data_fsdp_tensor"]).run.plan.init(3).params
    for got, want in zip(jax.tree.leaves(params), jax.tree.leaves(weights_of("dit_full")), strict=True):
        np.testing.assert_allclose(np.asarray(got), want, rtol=1e-6, atol=1e-7)
