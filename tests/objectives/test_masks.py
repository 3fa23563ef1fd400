"""Training on tasks: `DenoisingObjective(masks=...)` and its ways of showing what is given."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.diffusion import VP, RectifiedFlow
from vdm_jax.diffusion.masks import Blocks, Ends, Mixture, Task
from vdm_jax.objectives.configuration import objective_from, objective_to_dict
from vdm_jax.objectives.denoising import DenoisingObjective

B, T, H, W, C = 4, 6, 4, 4, 2
KEY = jax.random.key(3)
PROCESS = VP(prediction="eps")
MIXTURE = Mixture((Ends(first=2), Ends(last=3), Ends(), Blocks(margin=1)))


class Recorder(nnx.Module):
    """A linear backbone that keeps what it was called with."""

    reads = may_read = frozenset()

    def __init__(self):
        self.gain = nnx.Param(jnp.asarray(0.5))
        self.calls = nnx.static([])

    def __call__(self, x, t, cond):
        self.calls.append((x, t, cond))
        return self.gain[...] * x


def batch_of(**more):
    return {"video": jax.random.normal(jax.random.key(1), (B, T, H, W, C)), **more}


def call(objective, batch=None):
    backbone = Recorder()
    loss, metrics = objective({"backbone": backbone}, batch or batch_of(), KEY)
    return loss, metrics, backbone.calls[0]


def everything(rng, shape):
    return Task(jnp.ones(shape[0], bool))


def test_nothing_given_is_plain_training_bit_for_bit():
    plain, told = (
        call(DenoisingObjective(PROCESS)),
        call(DenoisingObjective(PROCESS, masks=Ends(), known_way="shared", mean_over="all")),
    )
    for a, b in zip((plain[0], *plain[2][:2]), (told[0], *told[2][:2])):
        np.testing.assert_array_equal(a, b)
    assert float(told[1]["nothing_unknown"]) == 0.0


@pytest.mark.parametrize("mean_over", ["unknown", "all"])
def test_everything_given_has_no_loss_and_is_counted(mean_over):
    loss, metrics, (fed, _, _) = call(
        DenoisingObjective(PROCESS, masks=everything, known_way="shared", mean_over=mean_over)
    )
    assert float(loss) == 0.0
    assert float(metrics["nothing_unknown"]) == 1.0
    np.testing.assert_array_equal(fed, batch_of()["video"])


def test_the_network_sees_what_is_given_clean_and_is_told_everybodys_level():
    objective = DenoisingObjective(PROCESS, masks=MIXTURE, known_way="shared")
    batch = batch_of()
    _, _, (fed, told, _) = call(objective, batch)
    draws = objective.draw(batch, KEY)
    known = np.broadcast_to(objective._with_tasks(batch, draws["task"])["known"], fed.shape)
    assert 0.1 < known.mean() < 0.9
    np.testing.assert_array_equal(np.asarray(fed)[known], np.asarray(batch["video"])[known])
    assert (np.asarray(fed)[~known] != np.asarray(batch["video"])[~known]).all()
    np.testing.assert_allclose(told, PROCESS.network_time(draws["time"]))
    assert (np.ptp(np.asarray(told), axis=1) == 0).all()


def test_given_whole_frames_are_told_zero_in_the_clean_way():
    _, _, (fed, told, _) = call(DenoisingObjective(PROCESS, masks=Ends(first=2)))
    assert (np.asarray(told)[:, :2] == 0.0).all()
    assert (np.asarray(told)[:, 2:] > 0.0).all()
    np.testing.assert_array_equal(fed[:, :2], batch_of()["video"][:, :2])


def test_there_is_no_gradient_where_content_is_given():
    objective = DenoisingObjective(PROCESS, masks=MIXTURE, known_way="shared")
    batch = batch_of()
    draws = objective.draw(batch, KEY)
    known = np.broadcast_to(objective._with_tasks(batch, draws["task"])["known"], (B, T, H, W, C))

    class Constant(Recorder):
        def __init__(self, output):
            self.output = nnx.Param(output)

        def __call__(self, x, t, cond):
            return self.output[...]

    def loss(output):
        return objective.loss({"backbone": Constant(output)}, batch, draws)[0]

    slope = np.asarray(jax.grad(loss)(jnp.zeros((B, T, H, W, C))))
    assert (slope[known] == 0.0).all()
    assert (slope[~known] != 0.0).all()


def test_a_mean_over_all_weighs_examples_by_what_is_unknown():
    half = dataclasses.replace(DenoisingObjective(PROCESS, known_way="shared"), masks=Ends(first=3))
    over_unknown, over_all = (call(dataclasses.replace(half, mean_over=m))[0] for m in ("unknown", "all"))
    np.testing.assert_allclose(over_unknown / 2, over_all, rtol=1e-6)


def test_frames_that_do_not_count_have_no_loss():
    counts = jnp.arange(T)[None] < jnp.asarray([6, 5, 4, 3])[:, None]
    batch = batch_of()
    noisy = {**batch, "video": jnp.where(counts[..., None, None, None], batch["video"], 100.0)}
    a, b = (call(DenoisingObjective(PROCESS), {**some, "counts": counts})[0] for some in (batch, noisy))
    np.testing.assert_array_equal(a, b)
    assert float(a) != float(call(DenoisingObjective(PROCESS))[0])


def test_evaluation_has_tasks_that_belong_to_the_example():
    objective = DenoisingObjective(PROCESS, masks=MIXTURE, known_way="shared", bands=2)
    batch, keys = batch_of(), jax.random.split(KEY, B)
    networks = {"backbone": Recorder()}
    whole = objective.evaluate(networks, batch, keys)
    parts = [objective.evaluate(networks, {"video": batch["video"][i : i + 1]}, keys[i : i + 1]) for i in range(B)]
    np.testing.assert_allclose(np.mean([p["loss"] for p in parts]), whole["loss"], rtol=1e-5)


def test_microbatches_draw_the_tasks_of_the_whole_batch():
    objective, batch = DenoisingObjective(PROCESS, masks=MIXTURE, known_way="shared"), batch_of()
    draws, networks = objective.draw(batch, KEY), {"backbone": Recorder()}
    whole = objective.loss(networks, batch, draws)[0]
    rows = [jax.tree.map(lambda x, i=i: x[i : i + 1], (batch, draws)) for i in range(B)]
    np.testing.assert_allclose(np.mean([objective.loss(networks, *row)[0] for row in rows]), whole, rtol=1e-6)


def test_what_is_given_is_said_once():
    with pytest.raises(ValueError, match="masks: draw what is given, but the batch says it"):
        call(DenoisingObjective(PROCESS, masks=Ends()), batch_of(known=jnp.zeros((B, T), bool)))


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (jnp.ones((B, T)), "known: the mask must be bool, True where content is given; got float32"),
        (jnp.ones((B, T), jnp.int32), "known: the mask must be bool, True where content is given; got int32"),
        (jnp.ones((B, T, 8 * H, 8 * W, 1), bool), r"known: mask shape .* does not fit a clip of"),
        (jnp.ones((B, T + 1), bool), r"known: mask shape .* does not start with \[B, T\]"),
    ],
)
def test_masks_of_another_grid_or_polarity_are_refused(known, message):
    with pytest.raises(ValueError, match=message):
        call(DenoisingObjective(PROCESS), batch_of(known=known))


def test_tasks_from_a_config():
    section = {
        "kind": "denoising",
        "masks": [{"kind": "ends", "first": 2}, {"kind": "blocks", "share": 0.25, "margin": 1}],
        "known_way": "shared",
        "mean_over": "all",
    }
    objective = objective_from(section)
    assert objective_from(objective_to_dict(objective)) == objective
    made = objective.make(RectifiedFlow())
    assert made.masks == Mixture((Ends(first=2), Blocks(margin=1)), (1.0, 0.25))
    assert (made.known_way, made.mean_over) == ("shared", "all")
    assert objective_from(None).make(RectifiedFlow()).masks is None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"masks": [{"kind": "end"}]}, r"masks\[0\].kind: .*end.*did you mean 'ends'"),
        ({"masks": [{"kind": "ends", "frist": 2}]}, r"masks\[0\].frist: .*first"),
        ({"masks": [{"kind": "ends", "share": 0.0}]}, "shares: .* above 0"),
        ({"known_way": "zero"}, "known_way: "),
        ({"mean_over": "known"}, "mean_over: .*unknown"),
        ({"masks": [{"kind": "blocks"}]}, "known_way: 'clean' needs whole frames"),
    ],
)
def test_config_errors(section, message):
    with pytest.raises(ValueError, match=message):
        objective_from({"kind": "denoising", **section})
