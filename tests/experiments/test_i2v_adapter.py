"""I2V-Adapter: the published settings, and the claim's measures.

The adapter is in `tests/adapters`, the prior in `tests/sampling/noise`, runs of it in `tests/cli/test_adapter.py`.
"""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vdm_jax.cli.config_file import load_config
from vdm_jax.diffusion.masks import Ends
from vdm_jax.evaluation.claims.methods import CLAIM, load
from vdm_jax.nn.path_filter import select
from vdm_jax.training.run_config import complete, run_config_from
from vdm_jax.training.state import define

FOLDER = Path(__file__).parents[2] / "experiments" / "i2v-adapter"


@pytest.mark.parametrize("stage", ["low", "high"])
def test_a_stage_is_a_run(stage):
    config = load_config(f"{FOLDER / 'config.py'}:{stage}")
    run = run_config_from(config)
    assert run_config_from(complete(config)) == run
    assert run.clip_shape[0] == 16
    assert run.trains == ("first_frame",)
    with pytest.raises(ValueError, match="stage: unknown 'hihg'; did you mean 'high'"):
        load_config(f"{FOLDER / 'config.py'}:hihg")


def test_the_published_adapter_alone_trains():
    run = run_config_from(load_config(str(FOLDER / "config.py")))

    def make(rngs):
        return {"backbone": run.adapter.put_into(run.networks.make(0, rngs)["backbone"], rngs)}

    networks = define(make)
    own = select(networks.trainable, run.trains)
    leaves = flatten_dict(networks.abstract)
    assert len({path[: path.index("first_frame")] for path in own}) == 16
    assert round(sum(leaves[path].size for path in own) / 1e6, 1) == 24.8
    objective = run.objective.make(run.process)
    assert (objective.known_way, objective.masks.parts) == ("shared", (Ends(first=1),))


@pytest.fixture(scope="module")
def claim():
    return load(FOLDER / CLAIM)


def test_likeness_and_motion_are_those_of_the_sprite(claim):
    held = claim.toy.clips(16, 5)
    real = held["video"]
    still, blank = np.repeat(real[:, :1], 8, axis=1), np.zeros_like(real)
    blank[:, 0] = real[:, 0]
    recoloured = np.roll(real, 1, axis=-1)
    recoloured[:, 0] = real[:, 0]
    assert claim.likeness(real) > 15
    assert claim.likeness(still) == 60
    assert max(claim.likeness(blank), claim.likeness(recoloured)) < claim.likeness(real) - 4
    assert claim.motion(still) == 0
    assert 3 < claim.motion(real) < 7
    found = claim.judged(real, held)
    assert (found["agreement"], found["way"]) == (1.0, 1.0)


def test_concatenation_starts_as_the_base(claim):
    toy = claim.toy
    wide = define(toy.network("concat"))
    weights = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), define(toy.network()).abstract)
    kernel = toy.start("concat", weights)["backbone"]["patch_in"]["kernel"]
    assert kernel.shape == wide.abstract["backbone"]["patch_in"]["kernel"].shape
    np.testing.assert_array_equal(kernel.reshape(8, 8, 6, -1).mean((0, 1, 3)), [1, 1, 1, 0, 0, 0])
