import copy
import dataclasses
import json

import pytest
from ml_collections import ConfigDict

from vdm_jax.config import to_dict
from vdm_jax.diffusion import EDM, RectifiedFlow
from vdm_jax.training.run_config import complete, run_config_from
from vdm_jax.types import Bucket

CONFIG = {
    "seed": 1,
    "process": {"kind": "rectified_flow", "shift": 3.0},
    "model": {"kind": "dit", "patch": (2, 4, 4), "dim": 16, "depth": 1, "heads": 2},
    "text": {"dim": 8, "heads": 2, "length": 4},
    "data": {"shards": "somewhere", "frames": 8, "height": 16, "width": 24},
    "train": {"steps": 5, "batch_size": 12, "accumulate": 3, "dropout": {"tokens": 0.1}},
    "ema": {"decays": (0.9, 0.99)},
    "sample": {"ema": 0.99},
}


def changed(*edits):
    """CONFIG with `("a.b", value)` set, or taken out where the value is None."""
    config = copy.deepcopy(CONFIG)
    for path, value in edits:
        *sections, last = path.split(".")
        node = config
        for section in sections:
            node = node.setdefault(section, {})
        if value is None:
            del node[last]
        else:
            node[last] = value
    return config


@pytest.mark.parametrize(
    "form", [dict, ConfigDict, lambda c: json.loads(json.dumps(c))], ids=["dict", "ConfigDict", "json"]
)
def test_a_config_is_read_in_every_form_it_is_kept_in(form):
    run = run_config_from(form(CONFIG))
    assert run.process == RectifiedFlow(shift=3.0)
    assert run.clip_shape == (8, 16, 24, 3)
    assert (run.seed, run.train.accumulate, run.train.dropout) == (1, 3, {"tokens": 0.1})
    assert (run.networks.model.patch, run.networks.model.text_dim) == ((2, 4, 4), 8)
    assert run.sampled_weights == "0.99"
    assert run.mesh.data == -1


def test_sections_that_are_left_out_have_defaults():
    run = run_config_from({key: CONFIG[key] for key in ("process", "model", "data")})
    assert run.networks.text is None
    assert run.sampled_weights is None
    assert run.seed == 0


def test_the_complete_config_says_the_same_with_nothing_left_out():
    whole = complete(CONFIG)
    assert run_config_from(json.loads(json.dumps(whole))) == run_config_from(CONFIG)
    assert whole["optimizer"].keys() == to_dict(run_config_from(CONFIG).optimizer).keys()
    assert whole["data"] == CONFIG["data"]
    assert complete(whole) == whole


def test_the_width_of_the_text_can_still_be_changed_in_a_complete_config():
    whole = complete(CONFIG)
    whole["text"]["dim"] = 12
    assert run_config_from(whole).networks.model.text_dim == 12


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([("modle", {})], "config.modle: unknown 'modle'; did you mean 'model'"),
        ([("train.stepps", 3)], "config.train.stepps: unknown 'stepps'; did you mean 'steps'"),
        ([("optimizer.learning_rat", 3)], "did you mean 'learning_rate'"),
        ([("process.kind", "rectified_flo")], "config.process.kind: unknown 'rectified_flo'; did you mean"),
        ([("process.times", {"kind": "logit_norml"})], "did you mean 'logit_normal'"),
        ([("mesh", {"dta": 2})], "config.mesh.dta: unknown 'dta'; did you mean 'data'"),
        ([("log.evry", 2)], "config.log.evry: unknown 'evry'; did you mean 'every'"),
        ([("process", None)], "config.process: missing"),
        ([("data", None)], "config.data: missing"),
        ([("data.frames", None)], "config.data.frames: missing; there are shards, height, width"),
        ([("data.width", "24")], "config.data.width: '24' must be a whole number of 1 or more"),
        ([("seed", -1)], "config.seed: -1 must be a whole number of 0 or more"),
        ([("seed", "one")], "config.seed: 'one' must be a whole number"),
        ([("train.steps", 1.5)], "config.train.steps: expected int, got 1.5"),
        ([("train.steps", 0)], "config.train.steps: 0 must be 1 or more"),
        ([("train.precision", "bf16")], "config.train.precision: unknown 'bf16'; did you mean 'bfloat16'"),
        ([("sample.solver", "unipcc")], "config.sample.solver: unknown 'unipcc'; did you mean 'unipc'"),
        ([("sample.guidance", True)], "config.sample.guidance: expected float, got True"),
    ],
)
def test_a_wrong_key_or_value_is_named(edits, message):
    with pytest.raises(ValueError, match=message) as caught:
        run_config_from(changed(*edits))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([("data.frames", 7)], "config.data.frames: 7 is not divisible by the patch 2; the nearest that is: 8"),
        ([("data.height", 18)], "config.data.height: 18 is not divisible by the patch 4; the nearest that is: 16"),
        (
            [("model.positions", "learned"), ("model.grid", (2, 4, 4))],
            r"config.model.grid: the learned positions end at \(2, 4, 4\) tokens, the clip has \(4, 4, 6\)",
        ),
        ([("text", None)], "config.train.dropout: 'tokens' is dropped, but config.text is None"),
        ([("sample.ema", 0.999)], r"config.sample.ema: 0.999 is not one of config.ema.decays \(0.9, 0.99\)"),
        ([("train.accumulate", 5)], "config.train.accumulate: 5 does not divide config.train.batch_size=12"),
        ([("model.scalars", ("fps",))], "config.model.scalars: 'fps' must also be in config.train.vector"),
        ([("model.classes", 4)], "config.model.classes: 'label' must also be in config.train.vector"),
        ([("train.vector", ("fps",))], "config.train.vector: 'fps' is not in config.model.scalars, nothing reads it"),
        ([("model.text_dim", 16)], "config.model.text_dim: 16 must be the text encoder's dim, 8"),
    ],
)
def test_sections_that_contradict_each_other_are_refused(edits, message):
    with pytest.raises(ValueError, match=message):
        run_config_from(changed(*edits))


def test_text_features_may_come_with_the_data():
    edits = [("text", None), ("model.text_dim", 8), ("train.tokens", 6), ("train.tokens_mask", True)]
    run = run_config_from(changed(*edits))
    assert run.networks.text_length == 6
    assert complete(complete(changed(*edits)))["train"]["tokens"] == 6
    with pytest.raises(ValueError, match="config.train.tokens_mask: True, but no text features come with the data"):
        run_config_from(changed(("train.tokens_mask", True)))
    with pytest.raises(ValueError, match=r"config.init: 3 must be a run directory, RUN or RUN:PART, or None"):
        run_config_from(changed(("init", 3)))


def test_a_scalar_may_be_the_same_for_all_clips():
    run = run_config_from(changed(("model.scalars", ("fps",)), ("train.constants", {"fps": 8.0})))
    assert run.train.constants == {"fps": 8.0}
    for edits, message in (
        ([("train.constants", {"fps": 8.0})], "config.train.constants: 'fps' is not in config.model.scalars"),
        ([("train.constants", {"fps": 8.0}), ("train.vector", ("fps",))], "constants: 'fps' is in vector too"),
    ):
        with pytest.raises(ValueError, match=message):
            run_config_from(changed(*edits))


def test_sections_that_agree_are_taken():
    edits = [("model.scalars", ("fps",)), ("model.classes", 4), ("train.vector", ("label", "fps"))]
    run = run_config_from(changed(*edits, ("process", {"kind": "edm"})))
    assert run.networks.model.reads == {"tokens", "vector"}
    assert run.process == EDM()
    assert dataclasses.replace(run, seed=2).seed == 2


OWN = {"frames": 8, "height": 16, "width": 24, "batch": 12}
IMAGES = {"frames": 2, "height": 16, "width": 24, "batch": 48}


def test_without_buckets_there_is_the_run_s_own_shape():
    assert run_config_from(CONFIG).buckets == (Bucket(8, 16, 24, 12),)


@pytest.mark.parametrize("form", [list, lambda b: json.loads(json.dumps(b))], ids=["list", "json"])
def test_buckets_are_read(form):
    packed = {**OWN, "pack": [4, 2, 2], "weight": 3, "shards": "elsewhere"}
    run = run_config_from(changed(("data.buckets", form([OWN, IMAGES, packed]))))
    assert run.buckets == (
        Bucket(8, 16, 24, 12),
        Bucket(2, 16, 24, 48),
        Bucket(8, 16, 24, 12, (4, 2, 2), 3, "elsewhere"),
    )
    assert run.buckets[2].name == "4+2+2x16x24 x 12"


@pytest.mark.parametrize(
    ("bucket", "message"),
    [
        ({**OWN, "frames": 7}, r"config.data.buckets\[1\].frames: 7 is not divisible by the patch 2; the nearest"),
        ({**OWN, "pack": (5, 3)}, r"config.data.buckets\[1\].frames: 5 is not divisible by the patch 2"),
        ({**OWN, "batch": 13}, r"config.data.buckets\[1\].batch: 13 does not divide into train.accumulate=3 parts"),
        (
            {**IMAGES, "batch": 24},
            r"config.data.buckets\[1\].batch: 2x16x24 x 24 is 576 tokens, 8x16x24 x 12 is 1152; "
            r"an equal budget \(within 10%\) takes 48",
        ),
        ({**OWN, "bach": 3}, r"config.data.buckets\[1\].bach: unknown 'bach'; did you mean 'batch'"),
        ({**OWN, "batch": 0}, r"config.data.buckets\[1\].batch: 0 must be 1 or more"),
    ],
)
def test_a_bucket_that_does_not_fit_is_named(bucket, message):
    with pytest.raises(ValueError, match=message):
        run_config_from(changed(("data.buckets", [OWN, bucket])))


def test_the_run_s_own_shape_must_be_among_the_buckets():
    with pytest.raises(ValueError, match=r"config.data.buckets: none is 8x16x24 x 12, the run's own shape"):
        run_config_from(changed(("data.buckets", [{**OWN, "batch": 24}, {**IMAGES, "batch": 96}])))
