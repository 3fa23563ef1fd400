import jax
import numpy as np
import pytest

from tests.training.dit_runs import NETWORKS, compiled, curve_of, weights_of

MESHES = {
    "data": {"data": 8},
    "fsdp": {"data": 1, "fsdp": 8},
    "tensor": {"data": 1, "tensor": 8},
    "context": {"data": 1, "fsdp": 2, "context": 4},
    "data_fsdp_tensor": {"data": 2, "fsdp": 2, "tensor": 2},
    "fsdp_context_tensor": {"data": 1, "fsdp": 2, "context": 2, "tensor": 2},
}


MIXTURES = ("data_fsdp_tensor", "fsdp_context_tensor")
FIRST, *OTHERS = NETWORKS
# Each axis alone for one network; for every further one the mixtures, in which all of them occur.
PAIRS = [(FIRST, mesh) for mesh in MESHES] + [(network, mesh) for network in OTHERS for mesh in MIXTURES]


@pytest.mark.parametrize(("network", "mesh"), PAIRS)
def test_the_loss_curve_is_that_of_one_device(network, mesh):
    got, state = compiled(network, MESHES[mesh]).curve(10, weights_of(network))
    np.testing.assert_allclose(got[:, 0], curve_of(network)[:, 0], rtol=0, atol=1e-5)
    kernel = state.params["backbone"]["patch_in"]["kernel"]
    parts = MESHES[mesh].get("fsdp", 1) * MESHES[mesh].get("context", 1)
    assert kernel.addressable_shards[0].data.size * parts == kernel.size


@pytest.mark.parametrize("network", NETWORKS)
def test_microbatches_equal_the_big_batch(network):
    got, _ = compiled(network, {"data": 1}, accumulate=2).curve(1, weights_of(network))
    np.testing.assert_allclose(got, curve_of(network)[:1], rtol=1e-6, atol=1e-6)


def test_the_curve_is_one_of_learning():
    for network in NETWORKS:
        losses = curve_of(network)[:, 0]
        assert len(np.unique(losses)) == 10
        assert losses[-2:].mean() < losses[:2].mean()


def test_a_mesh_starts_from_the_weights_of_one_device():
    params = compiled(FIRST, MESHES["data_fsdp_tensor"]).run.plan.init(3).params
    for got, want in zip(jax.tree.leaves(params), jax.tree.leaves(weights_of(FIRST)), strict=True):
        np.testing.assert_allclose(np.asarray(got), want, rtol=1e-6, atol=1e-7)
