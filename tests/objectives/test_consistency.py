import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.diffusion import EDM, VP, ConsistencyGrid
from vdm_jax.objectives import Drawn
from vdm_jax.objectives.configuration import objective_from, objective_to_dict
from vdm_jax.objectives.consistency import ConsistencyObjective, GuidanceRamp, GuidanceRange, pseudo_huber
from vdm_jax.objectives.corruption import NoisyCondition
from vdm_jax.objectives.denoising import DenoisingObjective, as_float
from vdm_jax.training.fit import Trainer
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import Recipe, Stage, Target, Update

B, T, H, W, C, N = 4, 3, 2, 2, 2, 10
KEY = jax.random.key(3)
PROCESS = VP(prediction="x0")
SVD = EDM(sigma_data=1.0, prediction="v", told="quarter_log", sigma_min=0.002, sigma_max=700.0)
GRID, FIXED = ConsistencyGrid(N), GuidanceRange()


class Says(nnx.Module):
    """A network of one number: its output, plus as much as the condition `fps` says."""

    reads = may_read = frozenset({"vector"})

    def __init__(self, value):
        self.value = nnx.Param(jnp.asarray(value))

    def __call__(self, x, t, cond):
        fps = cond["vector"]["fps"].astype(x.dtype)
        return jnp.broadcast_to(self.value[...] + fps.reshape(-1, 1, 1, 1, 1), x.shape)


def networks(student=0.3, target=-0.2, teacher=0.5):
    return {"backbone": Says(student), "target": Says(target), "teacher": Says(teacher)}


def objective(process=PROCESS, grid=GRID, guidance=FIXED, guides=("vector.fps",), **more):
    data = DenoisingObjective(process, vector=("fps",))
    return ConsistencyObjective(data, grid, guidance, guides, **more)


def batch(**more):
    video = np.random.default_rng(0).integers(0, 256, (B, T, H, W, C), dtype=np.uint8)
    return {"video": jnp.asarray(video), "fps": jnp.array([0.0, 0.1, 0.2, 0.3]), **more}


def draws_at(given, step):
    return {**given.draw(batch(), KEY), "step": jnp.full(B, step)}


@pytest.mark.parametrize("process", [VP(prediction="x0"), VP(prediction="eps", schedule="scaled_linear"), SVD], ids=str)
def test_a_step_of_a_teacher_that_knows_the_point_is_the_pair_without_a_teacher(process):
    """Data that are one point: whatever the guidance, one step from `a mu + s e` lands on `a' mu + s' e`."""
    mu, noise = jnp.full((B, T, H, W, C), 0.7), jax.random.normal(KEY, (B, T, H, W, C))

    class Knows(Says):
        def __call__(self, x, t, cond):
            return jnp.concatenate([output] * (len(x) // B))

    grid = ConsistencyGrid(N, 10.0 if isinstance(process, VP) else None)
    levels = grid.levels(process)
    for upper, lower in ((0, 1), (4, 5), (N - 1, N)):
        t, s = jnp.full((B, T), levels[upper]), jnp.full((B, T), levels[lower])
        output = process.target(mu, noise, t)
        made = {}
        for guidance in (GuidanceRange(1.0, 7.5), None):
            given, cond = objective(process, grid, guidance), {"vector": {"fps": batch()["fps"]}}
            null, keys = {"vector.fps": -1}, jax.random.split(KEY, B)
            made[guidance is None] = given.pair({"teacher": Knows(0.0)}, mu, noise, t, s, cond, null, keys)
        for with_teacher, without in zip(made[False], made[True]):
            scale = float(jnp.abs(without).max())
            np.testing.assert_allclose(with_teacher, without, atol=2e-6 * max(scale, 1.0) * max(1.0, float(t[0, 0])))


def test_the_loss_is_the_formula():
    given, step = objective(guidance=GuidanceRange(2.0, 2.0), huber=0.01, power=-0.1), 4
    data, draws = batch(), draws_at(given, step)
    loss, metrics = given.loss(networks(), data, draws)
    levels = GRID.levels(PROCESS)[::-1]
    t, s = levels[step + 1], levels[step]
    x0 = as_float(data["video"])
    noise = jax.vmap(lambda key: jax.random.normal(key, (T, H, W, C)))(draws["noise"])
    (a, sigma), (b, tau) = PROCESS.alpha_sigma(t), PROCESS.alpha_sigma(s)
    fps = data["fps"].reshape(-1, 1, 1, 1, 1)
    x_t = a * x0 + sigma * noise
    guided = (0.5 - 1.0) + 2.0 * (fps + 1.0)  # unconditional: -1
    x_s = b * guided + tau * (x_t - a * guided) / sigma

    def f(x, belief, told):
        return 0.25 / (told**2 + 0.25) * x + told / np.sqrt(told**2 + 0.25) * belief

    difference = f(x_t, 0.3 + fps, 10 * (1000 * t - 1)) - f(x_s, -0.2 + fps, 10 * (1000 * s - 1))
    wanted = (t - s) ** -0.1 * (np.sqrt(difference**2 + 0.01**2) - 0.01).mean()
    np.testing.assert_allclose(loss, wanted, rtol=1e-4)
    np.testing.assert_allclose(metrics["mse"], (difference**2).mean(), rtol=1e-4)


def test_nothing_but_the_student_has_a_gradient():
    given = objective()

    def loss(values):
        return given(networks(*values), batch(), KEY)[0]

    student, target, teacher = jax.grad(loss)((0.3, -0.2, 0.5))
    assert student != 0.0
    assert (target, teacher) == (0.0, 0.0)


def test_without_a_teacher_none_is_asked_for_and_nothing_guides():
    given = objective(guidance=None)
    loss, _ = given({"backbone": Says(0.3), "target": Says(0.3)}, batch(), KEY)
    assert np.isfinite(loss)
    with pytest.raises(ValueError, match="networks: 'target' is missing; there are backbone"):
        given({"backbone": Says(0.3)}, batch(), KEY)
    with pytest.raises(ValueError, match="networks: 'teacher' is missing"):
        objective()({"backbone": Says(0.3), "target": Says(0.3)}, batch(), KEY)


def test_conditions_are_made_worse_for_all_networks_alike():
    class Reads(Says):
        reads = may_read = frozenset({"vector", "concat"})

        def __call__(self, x, t, cond):
            return super().__call__(x, t, cond) + cond["concat"].astype(x.dtype)

    worse = NoisyCondition("concat", told="fps")
    given = objective()
    noisy = dataclasses.replace(given, data=dataclasses.replace(given.data, corruption=worse))
    three = {name: Reads(number) for name, number in (("backbone", 0.3), ("target", -0.2), ("teacher", 0.5))}
    data = batch(concat=jnp.ones((B, T, H, W, C)))
    draws = noisy.draw(data, KEY)
    found, _ = noisy.loss(three, data, draws)
    value, level = worse(data, draws.pop("worse"))
    wanted, _ = given.loss(three, {**data, "concat": value, "fps": level}, draws)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert abs(float(found) - float(given.loss(three, data, draws)[0])) > 1e-4
    section = objective_from({"kind": "consistency", "corruption": {"told": "fps"}})
    assert section.make(PROCESS, vector=("fps",)).data.corruption == worse
    keys = jax.random.split(KEY, B)
    assert float(noisy.evaluate(three, data, keys)["loss"]) != float(given.evaluate(three, data, keys)["loss"])


def test_draws_are_of_the_batch_and_cover_the_grid():
    given = objective()
    assert isinstance(given, Drawn)
    many = {"video": jnp.zeros((400, 1, 1, 1, 1))}
    draws = given.draw(many, KEY)
    assert set(np.asarray(draws["step"]).tolist()) == set(range(N))
    assert {len(leaf) for leaf in draws.values()} == {400}


def test_evaluation_is_of_each_example_by_its_key():
    keys = jax.random.split(KEY, B)
    found = objective().evaluate(networks(), batch(), keys)
    assert set(found) == {"loss", "mse"}
    moved = jax.tree.map(lambda x: x[::-1], (batch(), keys))
    np.testing.assert_allclose(found["loss"], objective().evaluate(networks(), *moved)["loss"], rtol=1e-6)


def test_guidance_is_one_number_or_a_ramp():
    keys = jax.random.split(KEY, 200)
    scales = np.asarray(jax.vmap(lambda key: GuidanceRange(2.0, 4.0)(key, 5))(keys))
    assert (scales == scales[:, :1]).all()
    assert 2.0 <= scales.min() < 2.1
    assert 3.9 < scales.max() <= 4.0
    ramps = np.asarray(jax.vmap(lambda key: GuidanceRamp()(key, 5))(keys))
    assert {tuple(sorted(set(ramps[:, at].tolist()))) for at in (0, -1)} == {(1.0, 1.25, 1.5), (2.0, 2.25, 2.5)}
    np.testing.assert_allclose(ramps[:, 2], (ramps[:, 0] + ramps[:, -1]) / 2, rtol=1e-6)


def test_pseudo_huber_is_square_near_zero_and_straight_far_away():
    np.testing.assert_allclose(pseudo_huber(jnp.array([0.0, 1e-4, 5.0]), 0.1), [0.0, 5e-8, 4.901], rtol=1e-2)
    np.testing.assert_array_equal(pseudo_huber(jnp.array([-2.0, 0.0]), 0.0), [2.0, 0.0])


def test_a_target_starts_elsewhere_and_the_student_learns():
    given = objective(guidance=None)
    stage = Stage("s", (Update("u", given, OptimizerConfig(learning_rate=1e-2, warmup=0), trains=("backbone",)),), 30,
                  targets=(Target("target", "backbone"),))  # fmt: skip
    trainer = Trainer(lambda rngs: {"backbone": Says(0.3), "target": Says(-0.2)}, Recipe((stage,)))
    start = trainer.init(0)
    after = trainer.run(lambda stage, step: batch(), 0).raw
    assert float(start["target"]["value"]) == np.float32(-0.2)
    assert -0.2 < float(after["target"]["value"]) < float(after["backbone"]["value"])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"huber": -1.0}, "huber: -1.0"),
        ({"steps": 0}, "steps: 0"),
        ({"decay": 1.0}, "decay: 1.0"),
        ({"guidance": {"kind": "rang"}}, "did you mean 'range'"),
        ({"guidance": {"kind": "range", "low": 3.0, "high": 2.0}}, "low: 3.0 must be at most"),
        ({"guidance": {"kind": "ramp", "starts": ()}}, "starts: "),
        ({"teacher": False, "guidance": {"kind": "range"}}, "guidance: is the teacher's"),
        ({"scaling": 0.0}, "scaling: 0.0"),
    ],
)
def test_a_wrong_section_is_refused(section, message):
    with pytest.raises(ValueError, match=message):
        objective_from({"kind": "consistency", **section}).make(PROCESS)


def test_the_section_is_written_and_read():
    section = {"kind": "consistency", "steps": 100, "guidance": {"kind": "ramp"}, "scaling": None, "power": -0.1}
    kind = objective_from(section)
    assert objective_from(objective_to_dict(kind)) == kind
    assert kind.copies == {"target": 0.95, "teacher": None}
    assert objective_from({"kind": "consistency", "teacher": False}).copies == {"target": 0.95}
    made = kind.make(SVD)
    assert (made.guidance, made.grid, made.power) == (GuidanceRamp(), ConsistencyGrid(100, None), -0.1)
    with pytest.raises(ValueError, match="scaling: 10.0 needs"):
        objective_from({"kind": "consistency"}).make(SVD)


@pytest.mark.parametrize("key", ["known", "segments", "length"])
def test_what_has_no_meaning_is_refused(key):
    with pytest.raises(ValueError, match=f"batch: '{key}' has no meaning"):
        objective()(networks(), batch(**{key: jnp.zeros((B, T))}), KEY)


def test_what_guides_must_have_an_unconditional_value():
    with pytest.raises(ValueError, match="guides: 'tokens' has no unconditional value"):
        objective(guides=("tokens",))(networks(), batch(), KEY)
