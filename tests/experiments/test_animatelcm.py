"""AnimateLCM: its published settings load, and train what they say; its toy is pictures where nothing moves."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vdm_jax.adapters.lora import beside, merged
from vdm_jax.cli.config_file import load_config
from vdm_jax.evaluation.claims.methods import load
from vdm_jax.objectives.consistency import GuidanceRamp
from vdm_jax.training.run import assemble
from vdm_jax.training.run_config import complete, run_config_from
from vdm_jax.training.state import define

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CONFIG = EXPERIMENTS / "animatelcm" / "config.py"
SMALL = [("model.widths", "(32,)"), ("model.layers", "(1,)"), ("model.heads", "(2,)"), ("model.depth", "(1,)"),
         ("mesh.fsdp", "1"), ("mesh.data", "1"), ("train.batch_size", "2"), ("data.height", "8"),
         ("data.width", "8")]  # fmt: skip
MOTION = [("model.motion_heads", "(2,)"), ("model.motion_depth", "(1,)"), ("data.frames", "2")]


@pytest.mark.parametrize("name", ["images", "clips", "svd"])
def test_the_published_settings_load(name):
    run = run_config_from(load_config(f"{CONFIG}:{name}"))
    assert run_config_from(complete(load_config(f"{CONFIG}:{name}"))) == run
    assert run.objective.copies == {"target": 0.95, "teacher": None}
    assert len(run.objective.distilled.levels(run.process)) == 101


def trained(name, *more):
    run = run_config_from(load_config(f"{CONFIG}:{name}", [*SMALL, *more]))
    plan = assemble(run, devices=jax.devices()[:1]).plan
    return plan.trained, {network: set(flatten_dict(params)) for network, params in plan.abstract.params.items()}


def test_pictures_train_pairs_of_the_student_alone():
    paths, networks = trained("images")
    assert {path[0] for path in paths} == {"backbone"}
    assert all("lora" in path for path in paths)
    assert networks["backbone"] == networks["target"]
    assert networks["teacher"] == {path for path in networks["backbone"] if "lora" not in path}


def test_clips_train_motion_modules_of_the_student_alone():
    paths, networks = trained("clips", *MOTION)
    assert {path[0] for path in paths} == {"backbone"}
    assert paths
    assert all("attention_time" in path for path in paths)
    assert networks["backbone"] == networks["target"] == networks["teacher"]


def test_the_svd_variant_guides_along_the_clip_and_worsens_the_picture():
    run = run_config_from(load_config(f"{CONFIG}:svd"))
    made = run.objective.make(run.process, vector=("augmentation",))
    assert (made.guidance, made.power, made.grid.scaling) == (GuidanceRamp(), -0.1, None)
    assert (made.data.corruption.mean, made.data.corruption.std) == (-3.0, 0.5)


def test_without_motion_and_pairs_a_clip_is_its_pictures_bit_for_bit():
    marked = load(EXPERIMENTS / "bases" / "marked.py")
    rng = np.random.default_rng(0)
    plain, paired = (define(lambda rngs, p=p: {"backbone": marked.network(rngs, p)}) for p in (None, marked.PAIRS))

    def drawn(shapes):
        return jax.tree.map(lambda leaf: 0.05 * rng.normal(size=leaf.shape).astype(np.float32), shapes["backbone"])

    moving = drawn(plain.abstract)
    params = merged(beside(marked.still(moving), drawn(paired.abstract)), 0.0)

    @jax.jit
    def network(params, x, t, label, heading):
        return plain.merge({"backbone": params})["backbone"](x, t, {"vector": {"label": label, "heading": heading}})

    def said(params, x):  # one program, so that equal is equal to the last bit
        return np.asarray(network(params, x[None], t[None], np.array([1]), np.array([-1]))[0])

    x = rng.normal(size=marked.SHAPE).astype(np.float32)
    frames, t = len(x), np.full(8, 300.0, np.float32)
    clip = said(params, x)
    assert np.isfinite(clip).all()
    assert np.abs(clip - said(moving, x)).max() > 1e-3
    other = {
        **params,
        "units": {**params["units"], "temporal": marked.still(drawn(plain.abstract))["units"]["temporal"]},
    }
    np.testing.assert_array_equal(said(other, x), clip)
    changed = said(params, np.where(np.arange(frames)[:, None, None, None] == 5, -x, x))
    np.testing.assert_array_equal(np.delete(changed, 5, axis=0), np.delete(clip, 5, axis=0))
    assert np.abs(changed[5] - clip[5]).max() > 1e-3
    pictures = network(params, x[:, None], t[:, None], np.full(frames, 1), np.full(frames, -1))[:, 0]
    np.testing.assert_allclose(pictures, clip, atol=1e-6)
