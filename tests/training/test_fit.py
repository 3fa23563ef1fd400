import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.training.tiny_run import OPTIMIZER, Backbone, Noisy, batch_of, bits, make_networks
from vdm_jax.training.ema import EMAConfig
from vdm_jax.training.fit import Trainer, batches
from vdm_jax.training.recipe import Recipe, Stage, Target, Update


def data(stage, step):
    return batch_of(step)


@pytest.fixture(scope="module")
def two_stages():
    """Spatial parameters first, then temporal ones."""
    first = Stage("space", (Update("train", Noisy(), OPTIMIZER, trains=("spatial",)),), 4)
    second = Stage("time", (Update("train", Noisy(), OPTIMIZER, trains=("temporal",)),), 4)
    return Trainer(make_networks, Recipe((first, second)), ema=EMAConfig((0.5,)))


def test_each_stage_goes_on_from_the_one_before_and_changes_what_it_trains(two_stages):
    start = two_stages.init(0)
    fitted = two_stages.run(data, 0)
    assert {name: curve.shape for name, curve in fitted.losses.items()} == {"space": (4,), "time": (4,)}
    before, after = flatten_dict(start), flatten_dict(fitted.raw)
    changed = {path for path in before if bits(before[path]) != bits(after[path])}
    assert changed == {path for path in before if "spatial" in path or "temporal" in path}
    assert bits(fitted.params) != bits(fitted.raw)
    y = fitted.merged()["backbone"](batch_of(0)["x"])
    assert y.shape == batch_of(0)["y"].shape


def test_a_seed_gives_the_same_bits_and_given_weights_are_where_it_starts(two_stages):
    once = two_stages.run(data, 3)
    again = two_stages.run(data, 3, params=two_stages.init(3))
    assert bits(once.params) == bits(again.params)
    other = two_stages.run(data, 3, params=two_stages.init(4))
    assert bits(once.params) != bits(other.params)


class Student:
    """The student learns; the target is read, and follows."""

    def __call__(self, networks, batch, rng):
        return Noisy()({"backbone": networks["student"]}, batch, rng)


def student_and_target(rngs):
    return {"student": Backbone(rngs), "target": Backbone(rngs)}


def test_a_target_goes_a_part_of_the_way_after_each_step_from_where_it_began():
    stage = Stage("s", (Update("u", Student(), OPTIMIZER),), 1, targets=(Target("target", "student", decay=0.75),))
    trainer = Trainer(student_and_target, Recipe((stage,)))
    start = trainer.init(0)
    assert bits(start["student"]) != bits(start["target"])
    after = trainer.run(data, 0).raw
    wanted = jax.tree.map(lambda mine, theirs: 0.75 * mine + 0.25 * theirs, start["target"], after["student"])
    for a, b in zip(jax.tree.leaves(after["target"]), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("target", "message"), [
    (Target("targt", "student"), "targets.network: unknown 'targt'.*target"),
    (Target("target", "teacher"), "targets.of: unknown 'teacher'"),
])  # fmt: skip
def test_a_target_must_be_there_and_alike(target, message):
    stage = Stage("s", (Update("u", Student(), OPTIMIZER),), 1, targets=(target,))
    with pytest.raises(ValueError, match=message):
        Trainer(student_and_target, Recipe((stage,))).init(0)


def test_a_target_is_not_trained_itself():
    update = Update("u", Student(), OPTIMIZER, trains=("target",))
    with pytest.raises(ValueError, match="no parameter matches 'target'"):
        Trainer(student_and_target, Recipe((Stage("s", (update,), 1, (Target("target", "student"),)),))).init(0)


def test_batches_show_every_example_once_an_epoch_in_an_order_of_the_seed():
    arrays = {"x": np.arange(10), "y": {"z": np.arange(10) * 2}}
    draw = batches(arrays, 5, seed=1, constant=7)
    first = np.concatenate([draw("a", step)["x"] for step in (0, 1)])
    second = np.concatenate([draw("a", step)["x"] for step in (2, 3)])
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)
    batch = draw("a", 0)
    assert (batch["y"]["z"] == 2 * batch["x"]).all()
    assert batch["constant"] == 7
    assert (batch["x"] == batches(arrays, 5, seed=1)("a", 0)["x"]).all()
    assert any((batches(arrays, 5, seed=s)("a", 0)["x"] != batch["x"]).any() for s in (2, 3))
    with pytest.raises(ValueError, match="size: 11"):
        batches(arrays, 11, seed=0)


def test_a_target_cannot_follow_itself_or_twice():
    with pytest.raises(ValueError, match="follow itself"):
        Target("a", "a")
    with pytest.raises(ValueError, match="decay: 1"):
        Target("a", "b", decay=1.0)
    update = Update("u", Student(), dataclasses.replace(OPTIMIZER))
    with pytest.raises(ValueError, match="targets: "):
        Stage("s", (update,), 1, (Target("a", "b"), Target("a", "c")))
