"""What holds for every adapter: at its start the network is as it was, and training it changes nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.adapters.every import EVERY, QUICK, awake, definitions, inputs, maker, started
from vdm_jax.nn.path_filter import select
from vdm_jax.sharding import MeshConfig, make_mesh, place_batch
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import Stage, Update
from vdm_jax.training.state import plan_state
from vdm_jax.training.step import StepConfig, make_train_step


@functools.cache
def runner(config, adapt=None):
    """`params -> output`, for a base and for each of its adapted networks."""
    of = definitions(config, adapt)
    given = inputs(of.merge(of.abstract)["backbone"])
    run = jax.jit(lambda params, *given: of.merge(params)["backbone"](*given), compiler_options=QUICK)
    return lambda params: np.asarray(run(params, *given))


@pytest.mark.parametrize("name", EVERY)
def test_a_network_starts_as_it_was(name):
    config, adapt, tag, _ = EVERY[name]
    params, base = started(name)
    assert {path for path in flatten_dict(params) if tag not in path} == flatten_dict(base).keys()
    wanted = runner(config)(base)
    np.testing.assert_array_equal(runner(config, adapt)(params), wanted)
    assert np.abs(runner(config, adapt)(awake(params)) - wanted).max() > 1e-3


@pytest.mark.parametrize("name", EVERY)
def test_its_tag_chooses_its_own_parameters(name):
    config, adapt, tag, _ = EVERY[name]
    of = definitions(config, adapt)
    assert select(of.trainable, (tag,)) == of.trainable - definitions(config).trainable


def test_training_changes_nothing_else_and_wakes_the_last_layer_first():
    def loss(networks, batch, rng):
        return jnp.mean((networks["backbone"](batch["x"], batch["t"]) - jnp.sin(batch["x"])) ** 2), {}

    config, adapt, tag, _ = EVERY["first_frame_dit"]
    optimizer = OptimizerConfig(learning_rate=0.01, warmup=0, schedule="constant", weight_decay=0.1)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    plan = plan_state(maker(config, adapt), Stage("train", (Update("train", loss, optimizer, (tag,)),), 9), mesh)
    params, _ = started("first_frame_dit")
    step, state = make_train_step(plan, StepConfig(), 0), plan.start_from(params)
    before = flatten_dict(params)
    x, t, _ = inputs(plan.networks.merge(plan.networks.abstract)["backbone"])
    for asleep in ("q", None, None):
        state, _ = step(state, place_batch({"x": x, "t": t}, plan.mesh))
        for path, leaf in flatten_dict(jax.device_get(state.params)).items():
            if tag not in path:
                assert leaf.tobytes() == before[path].tobytes(), "/".join(path)
            elif path[-1] == "kernel" and path[-2] != asleep:
                assert (leaf != before[path]).any(), "/".join(path)
