"""Conditions with noise of a strength that the network is told; and clips of one frame, which are pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.test_denoising import KEY, B, C, H, Recorder, T, W, batch_of
from vdm_jax.diffusion import EDM
from vdm_jax.objectives.configuration import objective_from, objective_to_dict
from vdm_jax.objectives.corruption import NoisyCondition
from vdm_jax.objectives.denoising import DenoisingObjective

READS = {"concat", "vector"}
NUMBERS = {"vector": ("fps",), "constants": {"augmentation": 0.02}}
BATCH = batch_of(concat=jnp.full((B, T, H, W, C), 2.0), fps=jnp.full(B, 7.0))


def seen(batch=BATCH, run=lambda objective, net, batch: objective({"backbone": net}, batch, KEY), **fields):
    """What the backbone is told."""
    net = Recorder(READS)
    run(DenoisingObjective(EDM(), corruption=NoisyCondition(**fields), **NUMBERS), net, batch)
    return net.calls[0][2]


def test_the_picture_has_the_noise_that_the_network_is_told_of():
    cond = seen(mean=-1.0)
    noise = (cond["concat"] - 2.0) / cond["vector"]["augmentation"][:, None, None, None, None]
    np.testing.assert_allclose(noise, jnp.broadcast_to(noise[:, :1], noise.shape), atol=1e-4)  # a picture, copied
    assert noise[:, 0].std() == pytest.approx(1.0, abs=0.2)
    assert len(np.unique(cond["vector"]["augmentation"])) == B
    np.testing.assert_array_equal(cond["vector"]["fps"], BATCH["fps"])
    own = seen(shared=False)["concat"]
    assert np.abs(own - own[:, :1]).max() > 0


def test_strengths_are_log_normal():
    _, strengths = NoisyCondition(mean=-3.0, std=0.5)({"concat": jnp.zeros((4000, 1, 1))}, jax.random.split(KEY, 4000))
    logs = np.log(strengths)
    assert (logs.mean(), logs.std()) == (pytest.approx(-3.0, abs=0.04), pytest.approx(0.5, abs=0.03))


def test_an_untold_network_hears_of_what_the_constants_say():
    cond = seen(told="")
    np.testing.assert_allclose(cond["vector"]["augmentation"], 0.02)
    assert np.abs(cond["concat"] - 2.0).max() > 0


def test_microbatches_and_evaluation_draw_for_each_example():
    objective = DenoisingObjective(EDM(), corruption=NoisyCondition(), dropout={"concat": 0.5}, **NUMBERS)
    draws, nets = objective.draw(BATCH, KEY), [Recorder(READS) for _ in range(3)]
    objective.loss({"backbone": nets[0]}, BATCH, draws)
    row = jax.tree.map(lambda x: x[2:3], (BATCH, draws))
    objective.loss({"backbone": nets[1]}, *row)
    whole, part = (net.calls[0][2] for net in nets[:2])
    np.testing.assert_array_equal(part["concat"], whole["concat"][2:3])
    dropped = np.asarray((whole["concat"] == 0).all((1, 2, 3, 4)))
    assert 0 < dropped.sum() < B
    assert (whole["vector"]["augmentation"] > 0).all()  # what is dropped keeps its numbers
    objective.evaluate({"backbone": nets[2]}, BATCH, jax.random.split(KEY, B))
    assert np.shape(nets[2].calls[0][2]["concat"]) == BATCH["concat"].shape


def test_a_clip_of_one_frame_is_a_picture_to_those_that_know_pictures():
    knowing, others, flags = Recorder(), Recorder(), jnp.zeros((B, 1), bool)
    knowing.may_read = frozenset({"image_only"})
    one = {"video": BATCH["video"][:, :1]}
    objective = DenoisingObjective(EDM())
    for batch, net in ((one, knowing), (one, others), (batch_of(), knowing), (one | {"image_only": flags}, knowing)):
        objective({"backbone": net}, batch, KEY)
    first, video, said = (call[2] for call in knowing.calls)
    assert first["image_only"].shape == (B, 1)
    assert first["image_only"].all()
    assert not video
    assert not said["image_only"].any()
    assert not others.calls[0][2]


def test_the_section_is_read_and_written():
    section = {"kind": "denoising", "corruption": {"key": "hint", "mean": -2.0, "told": ""}}
    objective = objective_from(section)
    assert objective_from(objective_to_dict(objective)) == objective
    assert objective.make(EDM()).corruption == NoisyCondition("hint", -2.0, told="")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NoisyCondition(key="conact"), "key: unknown 'conact'; did you mean 'concat'"),
        (lambda: NoisyCondition(mean=float("nan")), "mean: nan must be a number"),
        (lambda: NoisyCondition(std=-0.5), "std: -0.5 must be 0 or more"),
        (lambda: DenoisingObjective(EDM(), corruption=NoisyCondition()), "corruption.told: 'augmentation' must be in"),
        (lambda: seen(batch=BATCH | {"segments": jnp.zeros((B, T), jnp.int32)}), "corruption: is not drawn clip by"),
        (lambda: seen(batch=batch_of(fps=jnp.ones(B))), "corruption.key: unknown 'concat'"),
        (
            lambda: objective_from({"kind": "denoising", "corruption": {"strength": 1.0}}),
            "config.objective.corruption.strength: unknown",
        ),
    ],
)
def test_what_cannot_be_made_worse_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
