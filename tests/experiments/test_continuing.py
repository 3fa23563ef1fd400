"""The published settings of the methods that continue videos: they are whole, and the network and its task fit."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from vdm_jax.cli.config_file import load_config
from vdm_jax.training.run_config import complete, run_config_from

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.parametrize(("slug", "prefixes"), [("ca2-vdm", (1, 9, 17, 25)), ("vid-gpt", tuple(range(1, 26)))])
def test_a_published_config_trains_its_method(slug, prefixes):
    config = load_config(str(EXPERIMENTS / slug / "config.py"))
    run = run_config_from(config)
    assert run_config_from(complete(config)) == run
    objective = run.objective.make(run.process)
    (task,) = objective.masks.parts
    assert task.prefixes(run.clip_shape[0]) == prefixes
    video = jax.ShapeDtypeStruct((2, *run.clip_shape), jnp.float32)

    def loss(video):
        backbone = run.networks.make(0, nnx.Rngs(0))["backbone"]
        value, _ = objective({"backbone": backbone}, {"video": video}, jax.random.key(0))
        return value, backbone.memory(2, *run.clip_shape[1:3], frames=25)

    value, memory = jax.eval_shape(loss, video)
    assert value.shape == ()
    assert memory.time.k.shape == (28, 2, 16, 25, 256, 72)
    assert memory.space.k.shape == (28, 2, 16, 3, 256, 72)
