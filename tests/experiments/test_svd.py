"""SVD: its stages as configs, and the invariants that are not in the tests of its pieces.

Pictures among videos are in `tests/models/test_unet.py`, rising guidance in `tests/sampling`, the noise on the picture
in `tests/objectives/test_corruption.py`.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.interop.parity import published
from vdm_jax.adapters.lora import add_lora
from vdm_jax.adapters.wider_input import WIDER, check_wider
from vdm_jax.cli.config_file import load_config
from vdm_jax.evaluation.claims import Lab
from vdm_jax.evaluation.claims.methods import CLAIM, load
from vdm_jax.interop.families.unet import UNET_SPATIO_TEMPORAL
from vdm_jax.models.unet import UNet, UNetConfig
from vdm_jax.nn.path_filter import select
from vdm_jax.training.run_config import complete, run_config_from

FOLDER = Path(__file__).parents[2] / "experiments" / "svd"
CONFIG = FOLDER / "config.py"
CHAIN = ("images", "video", "video_wide", "high_quality")
TINY = UNetConfig(widths=(8,), layers=(0,), heads=(2,), depth=(1,), groups=4, text_dim=8, temporal="mixed")


@pytest.fixture(scope="module")
def stages():
    return {
        name: run_config_from(load_config(f"{CONFIG}:{name}")) for name in (*CHAIN, "image_to_video", "camera_lora")
    }


def test_each_stage_can_start_from_the_one_before(stages):
    runs = [stages[name] for name in CHAIN]
    assert len({run.networks.model for run in runs}) == 1
    assert all(run_config_from(complete(load_config(f"{CONFIG}:{name}"))) == stages[name] for name in CHAIN)
    processes = [run.process for run in runs]
    assert [(p.times.mean, p.times.std) for p in processes] == [(-1.2, 1.0), (-1.2, 1.0), (0.0, 1.0), (0.5, 1.4)]
    assert len({(p.prediction, p.sigma_data, p.sigma_max, p.told) for p in processes}) == 1
    assert runs[0].clip_shape == (1, 32, 48, 4)


def test_image_to_video_can_start_from_the_last_of_them(stages):
    have, want = (stages[name].networks.model for name in ("high_quality", "image_to_video"))
    check_wider(have, want, WIDER)
    assert dataclasses.replace(have, concat_channels=want.concat_channels, scalars=want.scalars) == want


def test_the_network_is_the_published_one(stages):
    model = stages["image_to_video"].networks.model
    wanted = UNET_SPATIO_TEMPORAL.config(published("stable-video-diffusion-img2vid-xt"))
    free = {"remat": "none", "eps_down": (), "eps_up": ()}  # in diffusers some norms have another epsilon
    assert dataclasses.replace(model, **free) == dataclasses.replace(wanted, **free)


def test_pictures_train_what_is_not_over_time(stages):
    net = jax.eval_shape(lambda: UNet(TINY, nnx.Rngs(0)))
    paths = [("backbone", *map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(net))]
    trained = {path[1:] for path in select(paths, stages["images"].trains)}
    spatial = jax.eval_shape(lambda: UNet(dataclasses.replace(TINY, temporal="none"), nnx.Rngs(0)))
    assert trained == {tuple(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(spatial))}


def test_the_camera_is_learned_in_attention_over_time(stages):
    run = stages["camera_lora"]

    def adapted():
        net = UNet(TINY, nnx.Rngs(0))
        chosen.extend(add_lora(net, run.lora, nnx.Rngs(1)))
        return net

    chosen = []
    jax.eval_shape(adapted)
    kinds = {site.name.partition("frames.block.")[2] for site in chosen}
    assert kinds == {f"attention.{name}" for name in ("out", "qkv.q", "qkv.k", "qkv.v")} | {
        f"second.{name}" for name in ("out", "q", "kv.k", "kv.v")
    }
    assert run.trains == ("lora",)


def test_the_picture_is_noisy_in_training_and_guidance_rises(stages):
    run = stages["image_to_video"]
    assert run.objective.corruption.told == "augmentation"
    assert run.train.constants["augmentation"] == 0.02
    scale = run.sample.scale(14)
    assert (scale[0], scale[-1], run.sample.guidance_also) == (1.0, 2.5, ("concat",))
    sigmas = run.process.levels(run.sample.steps)
    assert (sigmas[0], len(sigmas)) == (700.0, 26)
    np.testing.assert_allclose(sigmas[-2], 0.002, rtol=1e-3)


def test_belief_is_that_of_v_prediction_at_the_same_noise(stages):
    """D(x; sigma) = c_skip x + c_out F is alpha (alpha x) - s v where F predicts v, to 1e-6."""
    process, rng = stages["video"].process, np.random.default_rng(0)
    x0, eps, v = np.float32(rng.standard_normal((3, 4, 2, 6)))
    sigma = np.float32([[0.01, 0.5], [1.0, 3.0], [20.0, 100.0], [0.1, 700.0]])
    x_t = process.q_sample(x0, eps, sigma)
    alpha = 1 / np.sqrt(1 + np.float64(sigma)[..., None] ** 2)
    s = np.float64(sigma)[..., None] * alpha
    wanted = alpha * (alpha * np.float64(x_t)) - s * v
    np.testing.assert_allclose(process.belief(jnp.asarray(v), x_t, sigma), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(process.target(x0, eps, sigma), alpha * eps - s * x0, rtol=1e-5, atol=1e-6)


def test_an_unknown_stage_is_named():
    with pytest.raises(ValueError, match="stage: unknown 'vidoe'; did you mean 'video'"):
        load_config(f"{CONFIG}:vidoe")


def test_the_claim_tells_good_data_from_all_of_it(tmp_path, monkeypatch):
    """Whoever repeats a clip with the caption asked for, of those that it was shown, meets every bar."""
    claim = load(FOLDER / CLAIM)
    for name, value in {"CLIPS": 320, "RANKED": 160, "PROMPTS": 96}.items():
        monkeypatch.setattr(claim, name, value)

    def learner(steps, seed):
        def made(video, said, prompts):
            rng = np.random.default_rng(seed)
            places = [[i for i, known in enumerate(said) if known == p] or range(len(said)) for p in prompts]
            return video[[rng.choice(own) for own in places]]

        return made

    monkeypatch.setattr(claim.toy, "learner", learner)
    measured = claim.CLAIM.measure(Lab(0, "fast", tmp_path, tmp_path, lambda line: None))
    assert measured["keeps/share"] == pytest.approx(0.55, abs=0.06)
    assert measured["keeps/defective"] < 0.05
    for check in claim.CLAIM.checks:
        assert check.holds(check.value(measured)), (check.name, check.value(measured))
    assert {file.name for file in tmp_path.glob("*.png")} == {"corpus.png", "samples.png"}
