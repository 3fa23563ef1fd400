"""The published settings of FreeNoise, and its toy claim's measures."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.adapters.splice import find
from vdm_jax.adapters.windows import WindowBlock, window_attention
from vdm_jax.cli.config_file import load_config
from vdm_jax.diffusion.windows import Windows
from vdm_jax.evaluation.claims.methods import CLAIM, load
from vdm_jax.models.unet import UNet
from vdm_jax.sampling.noise import Rescheduled, noise_from
from vdm_jax.training.run_config import complete, run_config_from
from vdm_jax.training.state import define

FOLDER = Path(__file__).parents[2] / "experiments" / "freenoise"


def test_the_published_settings_are_a_run_that_samples_four_times_as_many_frames():
    config = load_config(str(FOLDER / "config.py"))
    run = run_config_from(config)
    assert run_config_from(complete(config)) == run
    assert (run.clip_shape, run.sample.frames, run.sample.windows) == ((16, 40, 64, 4), 64, Windows(16, 4))
    assert noise_from(run.sample.noise, "noise") == Rescheduled(16, 4)
    frames, *size = run.sample.frames, *run.clip_shape[1:]
    networks = define(lambda rngs: {"backbone": UNet(run.networks.model, rngs)})
    cond = {"tokens": jnp.zeros((1, 77, 1024)), "vector": {"fps": jnp.ones(1)}}

    def sampled(params, x):
        network = window_attention(networks.merge(params)["backbone"], run.sample.windows, frames)
        assert len(find(network, WindowBlock)) == 17
        return network(x, jnp.zeros((1, frames)), cond)

    x = jax.ShapeDtypeStruct((1, frames, *size), jnp.bfloat16)
    assert jax.eval_shape(sampled, networks.abstract, x).shape == x.shape


@pytest.fixture(scope="module")
def claim():
    return load(FOLDER / CLAIM)


def test_real_clips_agree_with_themselves_and_shuffled_ones_do_not(claim):
    real, _ = claim.wandering.clips(24, claim.FRAMES, 5)
    assert claim.agreement(real) == 1.0
    mixed = np.concatenate([real[:, : claim.APART], np.roll(real, 1, axis=0)[:, claim.APART :]], axis=1)
    assert claim.agreement(mixed) < 0.3
    assert claim.agreement(np.random.default_rng(0).integers(0, 256, real.shape, np.uint8)) < 0.1
    assert 0.3 < claim.motion(real) < 0.7
    assert claim.motion(np.repeat(real[:, :1], claim.FRAMES, axis=1)) == 0.0


def test_the_distance_of_slices_sees_blur_and_stillness(claim):
    real, other = (claim.slices(claim.wandering.clips(64, claim.FRAMES, seed)[0]) for seed in (5, 6))
    wanted = claim.looks(real)
    still = np.repeat(other[:, :1], claim.TRAINED, axis=1)
    blurred = ((other.astype(int) + np.roll(other, 1, axis=2) + np.roll(other, 1, axis=3)) // 3).astype(np.uint8)
    near, *far = (claim.frechet_distance(claim.looks(clips), wanted) for clips in (other, still, blurred))
    assert min(far) > 10 * near
