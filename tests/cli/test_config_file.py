from pathlib import Path

import pytest

from vdm_jax.cli.config_file import load_config
from vdm_jax.training.run_config import run_config_from

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = str(CONFIGS / "dit_tiny.py")
MINIMAL = """
import ml_collections

def get_config({parameters}):
    return ml_collections.ConfigDict({{
        "seed": {seed},
        "process": {{"kind": "rectified_flow"}},
        "model": {{"kind": "dit", "dim": 16, "heads": 2}},
        "data": {{"shards": "s", "frames": 2, "height": 4, "width": 4}},
    }})
"""


def write(tmp_path, parameters="", seed=0):
    file = tmp_path / "mine.py"
    file.write_text(MINIMAL.format(parameters=parameters, seed=seed))
    return str(file)


def field(config, path):
    for part in path.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda p: p.stem)
def test_every_config_of_the_house_builds(path):
    config = load_config(str(path))
    run = run_config_from(config)
    assert run.networks.model.token_grid(*run.clip_shape[:3])
    assert run.networks.model.forward_flops(*run.clip_shape[:3]) > 1e6


@pytest.mark.parametrize("variant", ["sprites", "footage", "captioned_footage"])
def test_the_argument_reaches_get_config(variant):
    config = load_config(f"{TINY}:{variant}")
    assert (config.text is None) == (variant == "footage")
    run_config_from(config)
    with pytest.raises(ValueError, match="variant: unknown 'sprite'; did you mean 'sprites'"):
        load_config(f"{TINY}:sprite")


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("train.steps", "7", 7),
        ("optimizer.learning_rate", "1e-3", 1e-3),
        ("optimizer.learning_rate", "1", 1.0),
        ("model.patch", "(4, 4, 4)", (4, 4, 4)),
        ("model.patch", "[2, 4, 8]", (2, 4, 8)),
        ("ema.decays", "(0.995,)", (0.995,)),
        ("model.rope", "False", False),
        ("model.rope", "false", False),
        ("model.causal", "TRUE", True),
        ("data.shards", "some/where", "some/where"),
        ("data.shards", "2024", "2024"),
        ("log.sample_every", "none", None),
        ("sample.ema", "None", None),
        ("process.times.mean", "0.5", 0.5),
        ("train.dropout.tokens", "0.3", 0.3),
        ("train.precision", "bfloat16", "bfloat16"),
        ("data.cache_megabytes", "64", 64),
        ("checkpoint.keep_every", "100", 100),
    ],
)
def test_an_override_has_the_type_of_what_it_replaces(path, text, value):
    config = load_config(TINY, [(path, text)])
    got = field(config, path)
    got = tuple(got) if isinstance(got, (list, tuple)) else got
    assert (got, type(got)) == (value, type(value))
    run_config_from(config)


def test_the_last_override_counts():
    assert load_config(TINY, [("seed", "3"), ("seed", "4")]).seed == 4


def test_an_empty_mapping_can_be_filled(tmp_path):
    file = write(tmp_path)
    assert load_config(file, [("train.dropout", "{'tokens': 0.2}")]).train.dropout.to_dict() == {"tokens": 0.2}
    with pytest.raises(ValueError, match="train.dropout: '3' is not a dict like {}"):
        load_config(file, [("train.dropout", "3")])


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("train.stepps", "7", "--config.train.stepps: unknown 'train.stepps'; did you mean 'train.steps'"),
        ("trian.steps", "7", "did you mean 'train.steps'"),
        ("steps", "7", "--config.steps: unknown 'steps'"),
        ("train.steps.more", "7", "--config.train.steps.more: unknown"),
        ("train", "7", "--config.train: is a section"),
        ("process.times", "7", "--config.process.times: is a section"),
        ("train.steps", "many", "--config.train.steps: 'many' is not a int like"),
        ("train.steps", "1.5", "--config.train.steps: '1.5' is not a int like"),
        ("train.steps", "true", "--config.train.steps: 'true' is not a int like"),
        ("model.rope", "1", "--config.model.rope: '1' is not a bool like"),
        ("model.patch", "2", "--config.model.patch: '2' is not a"),
        ("optimizer.learning_rate", "fast", "'fast' is not a float like"),
    ],
)
def test_a_wrong_override_is_named(path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_config(TINY, [(path, text)])
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"--config: unknown '.*dit_tny.py'; did you mean '.*dit_tiny.py'"):
        load_config(str(CONFIGS / "dit_tny.py"))
    with pytest.raises(ValueError, match="--config: no file"):
        load_config(str(tmp_path / "x.py"))


def test_arguments_are_asked_for_and_refused_by_the_signature(tmp_path):
    plain = write(tmp_path)
    assert load_config(plain).seed == 0
    with pytest.raises(ValueError, match="takes no argument, so not '3'"):
        load_config(f"{plain}:3")
    needs = write(tmp_path, "number", "int(number)")
    assert load_config(f"{needs}:3").seed == 3
    with pytest.raises(ValueError, match=r"needs an argument, as in .*mine.py:ARGUMENT"):
        load_config(needs)
    may = write(tmp_path, "number='5'", "int(number)")
    assert (load_config(may).seed, load_config(f"{may}:6").seed) == (5, 6)


def test_a_file_without_get_config_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"empty.py defines no get_config\(\)"):
        load_config(str(tmp_path / "empty.py"))
