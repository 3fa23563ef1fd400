"""Go-with-the-Flow's published settings, and the noise of its claim."""

from pathlib import Path

import jax
import pytest

from vdm_jax.adapters.lora import TAG
from vdm_jax.cli.config_file import load_config
from vdm_jax.evaluation.claims.methods import load
from vdm_jax.planning.compile import batch_shapes
from vdm_jax.sampling.noise import Warped, draw, noise_from
from vdm_jax.training.run_config import run_config_from

FOLDER = Path(__file__).parents[2] / "experiments/go-with-the-flow"
CONFIG = str(FOLDER / "config.py")


def test_the_published_settings_train_the_pairs_on_warped_noise():
    config = run_config_from(load_config(CONFIG))
    source = noise_from(config.objective.noise, "noise")
    assert source == Warped(scale=32, stride=4, space="plain")
    assert config.objective.make(config.process).noise == source
    assert config.trains == (TAG,)
    shapes = batch_shapes(config)
    assert shapes["flow"][0] == (8, 48, 60, 90, 2)
    like = jax.ShapeDtypeStruct((8, *config.clip_shape), "float32")
    flow = jax.ShapeDtypeStruct(*shapes["flow"])
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 8))
    noise = jax.eval_shape(lambda keys, like, flow: draw(source, keys, like, {"flow": flow}), keys, like, flow)
    assert noise.shape == (8, 13, 60, 90, 16)


def test_samples_made_in_training_have_no_flow_to_follow():
    with pytest.raises(
        ValueError, match="config.sample.noise: reads flow, which samples made in training have none of"
    ):
        run_config_from(load_config(CONFIG, [("sample.noise", "{'kind': 'warped'}")]))


def test_the_toy_follows_its_own_flow():
    """What is measured of real clips: they go the way that their flow asks for; the base is known by its settings."""
    claim = load(FOLDER / "claim.py")
    held = claim.toy.clips(8, 1000)
    assert held["video"].shape == (8, 8, 8, 8, 1)
    assert claim.end_point_error(held["video"], held["track"]) < 0.2
    assert claim.end_point_error(held["video"], held["track"][::-1]) > 1.0
    assert claim.likeness(held["video"], held["video"]) == pytest.approx(1, abs=1e-5)
    assert claim.toy.base().key == claim.toy.base().key
    assert {check.name for check in claim.CLAIM.checks} >= {"variance", "speed", "control", "looser", "quality"}
