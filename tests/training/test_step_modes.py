"""The same step in other modes of the libraries, tree-mode nnx and meshes of Explicit axes; where its state lives."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from jax.sharding import AxisType, Mesh

from tests.training.dit_runs import NETWORKS, alone, batch_of, compiled, config_of, curve_of, tokenizer, weights_of
from tests.training.tiny_run import OPTIMIZER, Noisy, make_run, plain_curve
from vdm_jax.sharding import AXES, MeshConfig, make_mesh, place_batch
from vdm_jax.training.recipe import Update
from vdm_jax.training.run import assemble
from vdm_jax.training.run_config import run_config_from
from vdm_jax.training.step import make_train_step

MIXED = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.fixture
def tree_mode():
    """The default of a coming flax: modules are trees, nothing is shared."""
    with nnx.set_graph_mode(False), nnx.set_graph_updates(False):
        yield


@pytest.mark.parametrize("network", NETWORKS)
def test_tree_mode_nnx_trains_alike(tree_mode, network):
    got, _ = compiled(network, {"data": 1}).curve(3, weights_of(network))
    np.testing.assert_allclose(got, curve_of(network)[:3], rtol=1e-6)


def explicit(mesh: Mesh) -> Mesh:
    """The same mesh with all axes Explicit, as `jax.make_mesh` makes them unless told."""
    return Mesh(mesh.devices, AXES, axis_types=(AxisType.Explicit,) * len(AXES))


@pytest.mark.parametrize("mesh", [MIXED, {"data": 1, "fsdp": 2, "context": 4}], ids=["mixed", "context"])
def test_a_mesh_of_explicit_axes_trains_alike(mesh):
    network = next(iter(NETWORKS))
    config = run_config_from(config_of(network, mesh))
    whole = explicit(make_mesh(config.mesh, jax.devices()))
    run = assemble(config, tokenizer().vocab_size, tokenizer().encode([""]), mesh=whole)
    step = make_train_step(run.plan, run.step_config(), config.seed)
    state, losses = run.plan.start_from(weights_of(network)), []
    for index in range(3):
        batch = place_batch(batch_of(index), run.mesh)
        assert jax.typeof(batch["video"]).sharding.mesh.explicit_axes == AXES
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, curve_of(network)[:3, 0], rtol=0, atol=1e-5)
    want = jax.tree.map(lambda leaf: leaf.sharding, run.plan.abstract.params)
    assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state.params, want))
    with jax.set_mesh(whole):  # as a caller may who works in that mode
        state, metrics = step(state, place_batch(batch_of(3), run.mesh))
    np.testing.assert_allclose(float(metrics["loss"]), curve_of(network)[3, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("mesh", [{"fsdp": 8}, {"fsdp": 2, "context": 4}, {"fsdp": 2, "tensor": 2, "context": 2}])
def test_moments_and_averages_are_split_as_far_as_the_weights(kind, mesh):
    update = Update("train", Noisy(), dataclasses.replace(OPTIMIZER, kind=kind))
    plan = make_run(MeshConfig(**{"data": 1, **mesh}), updates=(update,)).plan
    params = flatten_dict(plan.abstract.params)
    for average in plan.abstract.ema.values():
        assert {path: leaf.sharding for path, leaf in flatten_dict(average).items()} == {
            path: leaf.sharding for path, leaf in params.items()
        }
    seen = set()
    for keys, leaf in jax.tree_util.tree_leaves_with_path(plan.abstract.opt_state):
        names = tuple(str(getattr(key, "key", getattr(key, "name", ""))) for key in keys)
        for path, param in params.items():
            if names[-len(path) :] == path:
                assert leaf.sharding == param.sharding, names
                assert leaf.sharding.shard_shape(leaf.shape) == param.sharding.shard_shape(param.shape)
                seen.add(path)
    assert seen == set(params)
    split = [path for path, leaf in params.items() if leaf.sharding.shard_shape(leaf.shape) != leaf.shape]
    assert len(split) >= 3


def test_the_plain_run_is_what_the_others_are_held_against():
    assert len(np.unique(plain_curve()[0])) == 10
    assert alone(next(iter(NETWORKS))).run.mesh.size == 1
