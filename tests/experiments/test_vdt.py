"""VDT: the published settings, sampling with masks, and the measures of the claim.

Invariants of the loss are in `tests/objectives/test_masks.py`, that of the new network in `tests/models/test_dit.py`.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.cli import sample_given
from vdm_jax.cli.config_file import load_config
from vdm_jax.diffusion import VP
from vdm_jax.evaluation.claims.methods import CLAIM, load
from vdm_jax.media.video import write_mp4
from vdm_jax.models.dit import DiT
from vdm_jax.sampling import Known, replace_known, sample
from vdm_jax.training.run_config import complete, run_config_from

FOLDER = Path(__file__).parents[2] / "experiments" / "vdt"
PROCESS = VP(prediction="eps")


def test_the_published_settings_are_a_run_on_seven_tasks():
    config = load_config(str(FOLDER / "config.py"))
    run = run_config_from(config)
    assert run_config_from(complete(config)) == run
    objective = run.objective.make(run.process)
    shares = np.asarray(objective.masks.shares)
    assert (len(shares), shares[0] / shares.sum()) == (7, 0.2)
    assert (objective.known_way, objective.mean_over) == ("shared", "all")
    x = jax.ShapeDtypeStruct((2, *run.clip_shape), jnp.float32)
    known = jax.eval_shape(lambda x: objective._with_tasks({"video": x}, jax.random.split(jax.random.key(0), 2)), x)
    assert known["known"].shape == (2, 16, 32, 32, 1)
    output = jax.eval_shape(lambda x: DiT(run.networks.model, nnx.Rngs(0))(x, jnp.zeros((2, 16))), x)
    assert output.shape == x.shape


def denoiser(x, t, cond):
    return jnp.tanh(x) * (1 - t[..., None, None, None])


def drawn(mask, value, x_T):
    tau = PROCESS.levels(4)
    if mask is None:
        return sample(denoiser, PROCESS, x_T, tau, {})
    return sample(replace_known(denoiser, PROCESS, Known(mask, value), way="shared"), PROCESS, x_T, tau, {})


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 4, 1)])
def test_masks_of_nothing_everything_and_something(shape):
    x_T, other, value = (jax.random.normal(jax.random.key(i), (2, 3, 4, 4, 1)) for i in range(3))
    run = jax.jit(drawn)
    plain = jax.jit(lambda x: drawn(None, None, x))(x_T)
    np.testing.assert_array_equal(run(jnp.zeros(shape, bool), value, x_T), plain)
    np.testing.assert_array_equal(run(jnp.ones(shape, bool), value, x_T), value)
    some = jax.random.bernoulli(jax.random.key(9), 0.5, shape)
    mask = some.reshape(*shape, *(1,) * (5 - len(shape)))
    a, b = run(some, value, x_T), run(some, value, jnp.where(mask, other, x_T))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(jnp.where(mask, a, 0), jnp.where(mask, value, 0))


def test_fewer_frames_than_are_to_be_given_are_refused(tmp_path):
    write_mp4(tmp_path / "short.mp4", np.zeros((3, 16, 16, 3), np.uint8), fps=8)
    asked = argparse.Namespace(image=None, video=tmp_path / "short.mp4", given="0,1,2,3")
    with pytest.raises(ValueError, match="short.mp4 has 3 frames, there is no frame 3"):
        sample_given.read(asked, (8, 16, 16, 3))


@pytest.fixture(scope="module")
def claim():
    return load(FOLDER / CLAIM)


def test_real_motion_is_valid_and_shuffled_or_still_frames_are_not(claim):
    real = claim.toy.clips(24, 3)
    assert claim.toy.valid(real) > 0.7
    assert claim.toy.valid(real[:, np.random.default_rng(0).permutation(claim.toy.FRAMES)]) < 0.2
    assert claim.toy.valid(np.repeat(real[:, :1], claim.toy.FRAMES, axis=1)) == 0.0


def test_tokens_are_the_given_frames(claim):
    toy = claim.toy
    video = np.random.default_rng(0).normal(size=(2, toy.FRAMES, 8, 8, 2)).astype(np.float32)
    tokens = toy.tokens(video)
    assert tokens.shape == (2, toy.GIVEN, 8 * 8 * 2 + toy.MODEL.dim)
    np.testing.assert_array_equal(tokens[1, 3, :128].reshape(8, 8, 2), video[1, 3])


def test_batches_come_with_their_tasks(claim):
    toy = claim.toy
    video = np.zeros((40, toy.FRAMES, 8, 8, 2), np.float32)
    given = {name: np.asarray(toy.tasks(video, masks, 3, 0)("train", 2)["known"]) for name, masks in toy.TASKS.items()}
    assert given["prediction"].shape == (toy.BATCH, toy.FRAMES)
    assert {name: int(known.sum()) // toy.BATCH for name, known in given.items()} == {
        "prediction": 8, "interpolation": 4, "generation": 0
    }  # fmt: skip
    mixed = np.asarray(toy.tasks(video, toy.UNIFIED, 3, 0)("train", 2)["known"]).sum(1)
    assert set(mixed) == {0, 4, 8}


def test_the_pooled_frames_are_all_that_the_other_way_hears(claim):
    """There is no cross-attention left, and it has about as many parameters."""
    toy = claim.toy
    sizes = {}
    for name, make in {"concat": lambda rngs: DiT(toy.MODEL, rngs), "adaln": toy.pooled}.items():
        model = jax.eval_shape(lambda make=make: make(nnx.Rngs(0)))
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert model.units.spatial.cross is None
    assert 1.0 <= sizes["adaln"] / sizes["concat"] < 1.15
