import pytest

from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import Recipe, Stage, Update, plain


def objective(networks, batch, rng):
    return 0.0, {}


def test_plain_training_is_one_update_of_everything():
    recipe = plain(objective, OptimizerConfig(), steps=10)
    (stage,) = recipe.stages
    (update,) = stage.updates
    assert (stage.steps, update.trains, update.every) == (10, ("*",), 1)


def test_stages_follow_one_another():
    update = Update("u", objective)
    first, second = Stage("a", (update,), 3), Stage("b", (update,), 2)
    recipe = Recipe((first, second))
    assert [recipe.at(step) for step in (0, 2, 3, 4, 99)] == [
        (first, 0),
        (first, 0),
        (second, 3),
        (second, 3),
        (second, 3),
    ]


@pytest.mark.parametrize(("build", "message"), [
    (lambda: Update("u", objective, every=0), "every: 0"),
    (lambda: Update("u", objective, trains=()), "trains: "),
    (lambda: Stage("s", (), 1), "updates: "),
    (lambda: Stage("s", (Update("u", objective), Update("u", objective)), 1), "updates: "),
    (lambda: Stage("s", (Update("u", objective),), 0), "steps: 0"),
    (lambda: Recipe(()), "stages: "),
])  # fmt: skip
def test_wrong_recipes_name_the_field(build, message):
    with pytest.raises(ValueError, match=message):
        build()
