import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.training.tiny_run import (
    DIM,
    OPTIMIZER,
    Backbone,
    Noisy,
    batch_of,
    bits,
    make_networks,
    make_run,
    param,
    plain_run,
)
from vdm_jax.sharding import MeshConfig, make_mesh
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import Stage, Update
from vdm_jax.training.state import TrainState, define, plan_state, split_params, weights

MESH = MeshConfig(data=1, fsdp=4, tensor=2)


@pytest.fixture(scope="module")
def sharded():
    return make_run(MESH)


def test_the_plan_is_the_state(sharded):
    state, abstract = sharded.start(), sharded.plan.abstract
    assert jax.tree.structure(state) == jax.tree.structure(abstract)
    for leaf, plan in zip(jax.tree.leaves(state), jax.tree.leaves(abstract)):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (plan.shape, plan.dtype, plan.sharding)


def test_moments_and_averages_live_with_their_parameters(sharded):
    state = sharded.start()
    spec = state.params["backbone"]["blocks"]["spatial"]["kernel"].sharding.spec
    assert spec == jax.P(None, "fsdp", "tensor")
    adam = state.opt_state["train"][0]
    for tree in (adam.mu, adam.nu, state.ema["0.9"], state.ema["0.99"]):
        assert tree["backbone"]["blocks"]["spatial"]["kernel"].sharding.spec == spec


def test_shardings_survive_a_step(sharded):
    state, _ = sharded.step(sharded.start(), sharded.place(batch_of(0)))
    for leaf, plan in zip(jax.tree.leaves(state), jax.tree.leaves(sharded.plan.abstract)):
        assert leaf.sharding == plan.sharding


def test_start_is_the_same_on_every_mesh(sharded):
    for a, b in zip(jax.tree.leaves(sharded.start()), jax.tree.leaves(plain_run().start())):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_no_device_ever_holds_a_full_copy():
    """Not even on the way: what the compiled start makes and what it needs meanwhile are parts of the arrays."""

    class Wide(nnx.Module):
        def __init__(self, rngs):
            self.kernel = param(rngs, (512, 256), ("embed", "mlp"))

    stage = Stage("train", (Update("train", Noisy(), OPTIMIZER),), 10)
    plan = plan_state(lambda rngs: {"backbone": Wide(rngs)}, stage, make_mesh(MeshConfig(data=1, fsdp=8)))
    start = jax.jit(plan._fresh, out_shardings=plan.shardings).lower(jax.random.key(0)).compile()
    memory = start.memory_analysis()
    kernel = 4 * 512 * 256
    assert memory.output_size_in_bytes < 1.1 * 4 * kernel / 8  # the weights, two moments, one average
    assert memory.temp_size_in_bytes < kernel


def test_keys_are_strings_and_merge_gives_the_network_back():
    networks = {"backbone": Backbone(nnx.Rngs(0))}
    params = split_params(networks)
    assert params["backbone"]["head"]["0"]["bias"].shape == (3,)
    merged = define(make_networks).merge(params)["backbone"]
    x = jnp.ones((1, 4, DIM))
    np.testing.assert_array_equal(merged(x), networks["backbone"](x))


def test_start_from_given_weights(sharded):
    params = jax.tree.map(lambda p: p + 1, plain_run().start().params)
    state = sharded.plan.start_from(params, step=5)
    assert int(state.step) == 5
    assert bits(state.params) == bits(params)
    assert bits(state.ema["0.9"]) == bits(params)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(state.opt_state))
    del params["backbone"]["blocks"]["scale"]
    with pytest.raises(ValueError, match="backbone/blocks/scale is missing"):
        sharded.plan.start_from(params)


def test_wrong_weights_are_named(sharded):
    params = plain_run().start().params
    bad = jax.tree.map(lambda p: p, params)
    bad["backbone"]["blocks"]["scale"] = jnp.ones((2, 9))
    with pytest.raises(ValueError, match=r"backbone/blocks/scale has shape \(2, 9\)"):
        sharded.plan.start_from(bad)
    bad = jax.tree.map(lambda p: p, params)
    bad["backbone"]["blocks"]["scales"] = jnp.ones((2, 8))
    with pytest.raises(ValueError, match="did you mean 'backbone/blocks/scale'"):
        sharded.plan.start_from(bad)


def test_weights_by_name():
    state = plain_run().start()
    assert weights(state) is state.params
    with pytest.raises(ValueError, match=r"did you mean '0.99'"):
        weights(state, "0.999")


def test_state_is_a_pytree_of_named_fields():
    paths = {str(path[0]) for path, _ in jax.tree_util.tree_leaves_with_path(plain_run().start())}
    assert paths == {".step", ".params", ".opt_state", ".ema", ".guard"}
    assert isinstance(jax.tree.map(lambda x: x, plain_run().start()), TrainState)


def test_random_state_inside_a_network_is_refused():
    def make(rngs):
        return {"backbone": nnx.Dropout(0.1, rngs=rngs)}

    with pytest.raises(ValueError, match="networks hold no random state"):
        define(make)


def test_fixed_tables_are_held_and_not_trained():
    class WithTable(Backbone):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.table = nnx.Variable(jnp.ones((4,)))

    stage = Stage("train", (Update("train", Noisy(), OPTIMIZER),), 10)
    plan = plan_state(lambda rngs: {"backbone": WithTable(rngs)}, stage, make_mesh(MeshConfig(), jax.devices()[:1]))
    assert ("backbone", "table") not in plan.trained
    assert plan.abstract.params["backbone"]["table"].shape == (4,)


def test_muon_state_is_sharded_and_trains():
    muon = OptimizerConfig(kind="muon", learning_rate=0.02, warmup=2)
    updates = (Update("train", Noisy(), muon),)
    run, alone = make_run(MESH, updates=updates), make_run(updates=updates)
    losses, state = run.curve(10)
    np.testing.assert_allclose(losses, alone.curve(10)[0], atol=1e-5)
    assert losses[-3:].mean() < 0.8 * losses[:3].mean()
    specs = {leaf.sharding.spec for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim == 3}
    assert specs == {jax.P(None, "fsdp", "tensor"), jax.P(None, "tensor", "fsdp")}
