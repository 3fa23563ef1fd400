"""VDT: the published settings, sampling with masks, and the measures of the claim.

Invariants of the loss are in `tests/objectives/test_masks.py`, that of the new network in `tests/models/test_dit.py`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.cli.config_file import load_config
from vdm_jax.diffusion import VP
from vdm_jax.evaluation.claims.methods import CLAIM, load
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


@pytest.fixture(scope="module")
def claim():
    return load(FOLDER / CLAIM)


def test_real_motion_is_valid_and_shuffled_frames_are_not(claim):
    real = claim.toy.clips(24, 3)
    assert claim.toy.valid(real) > 0.8
    assert claim.toy.valid(real[:, np.random.default_rng(0).permutation(claim.toy.FRAMES)]) < 0.2


def test_tokens_are_the_patches_of_the_given_frames(claim):
    toy = claim.toy
    video = np.random.default_rng(0).normal(size=(2, toy.FRAMES, 16, 16, 2)).astype(np.float32)
    tokens = toy.tokens(video)
    assert tokens.shape == (2, toy.GIVEN * 4, 8 * 8 * 2 + 96)
    np.testing.assert_array_equal(tokens[1, 4 * 3 + 1, :128].reshape(8, 8, 2), video[1, 3, :8, 8:])


def test_ways_to_show_the_frames_before(claim):
    """Pooled into adaLN there is no cross-attention left; all have about as many parameters."""
    toy = claim.toy
    sizes = {}
    for name, make in {"concat": lambda rngs: DiT(toy.MODEL, rngs), **toy.INJECTIONS}.items():
        model = jax.eval_shape(lambda make=make: make(nnx.Rngs(0)))
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert 1.0 <= sizes["adaln"] / sizes["concat"] < 1.15
    assert sizes["cross"] > sizes["concat"]
