"""FVDM: the published settings, invariants of a time per frame, and the measures of the claim.

That equal times are one time a clip is in `tests/models/test_dit.py`, frames that stay and that come back bit for bit
in `tests/sampling/test_sampler.py`.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.tiny_dit import T, awake, call, clip, make, times
from vdm_jax.cli import sample_given
from vdm_jax.cli.config_file import load_config
from vdm_jax.evaluation.claims.methods import CLAIM, load
from vdm_jax.models.dit import DiT
from vdm_jax.training.run_config import complete, run_config_from

FOLDER = Path(__file__).parents[2] / "experiments" / "fvdm"


def test_the_published_settings_are_a_run_with_a_time_per_frame():
    config = load_config(str(FOLDER / "config.py"))
    run = run_config_from(config)
    assert run_config_from(complete(config)) == run
    assert (run.process.times.independent, run.clip_shape) == (0.2, (16, 32, 32, 4))
    model = jax.eval_shape(lambda: DiT(run.networks.model, nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert 660e6 < count < 690e6  # Latte-XL/2: 674 M


def test_a_run_of_latents_takes_no_picture_that_nobody_scaled():
    run = run_config_from(load_config(str(FOLDER / "config.py")))
    asked = argparse.Namespace(run="runs/fvdm", image="a.png", video=None, given=None, frames=None, overlap=None)
    with pytest.raises(ValueError, match="--image: runs/fvdm makes clips of 4 channels, no pixels that a picture"):
        sample_given.check(asked, run)


def test_frames_that_change_places_with_their_times_change_places_in_the_output():
    model = awake(make(attention="factorised"))
    model.units.temporal.attention.out.kernel[...] *= 0.0
    order = jnp.array([2, 0, 1])
    a = call(model, clip(), times())
    b = call(model, clip()[:, order], times()[:, order])
    np.testing.assert_allclose(b, a[:, order], rtol=1e-5, atol=1e-6)
    assert len(order) == T


@pytest.fixture(scope="module")
def claim():
    return load(FOLDER / CLAIM)


def test_the_place_of_a_digit_is_measured(claim):
    video = np.full((1, 2, 8, 8, 1), -1.0, np.float32)
    video[0, 0, 2:4, 1:3] = 1.0  # of a latent whose elements are two pixels wide
    video[0, 1, 3:5, 2:5] = 1.0
    np.testing.assert_allclose(claim.toy.places(video)[0], [[4, 6], [7, 8]], atol=1e-5)
    moved = np.roll(video, 2, axis=3)
    np.testing.assert_allclose(claim._error(video, moved), 4.0, atol=1e-5)


def test_real_clips_are_near_to_each_other_and_still_ones_are_not(claim):
    real, other = claim.toy.clips(64, 1), claim.toy.clips(64, 2)
    near = claim.frechet_distance(claim._features(real), claim._features(other))
    still = np.repeat(other[:, :1], claim.toy.FRAMES, axis=1)
    assert near * 3 < claim.frechet_distance(claim._features(real), claim._features(still))


def test_the_claim_judges_by_the_better_baseline(claim):
    measured = {"p0/neighbour": 3.0, "inpainting/neighbour": 2.0, "p02/neighbour": 1.0}
    check = next(check for check in claim.CLAIM.checks if check.name == "zero_shot")
    assert check.value(measured) == 0.5
    assert check.every_seed
