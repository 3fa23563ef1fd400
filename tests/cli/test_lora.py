"""`vdm train` with `config.lora`, and what goes out of such a run and back into an import."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.cli.micro_run import refused
from tests.cli.test_finetune import CONFIG, TINY, WAN, write_pipeline
from tests.data_pipelines import latent_sets
from tests.interop.test_component import values
from tests.training.dit_runs import config_of
from vdm_jax.cli.main import main
from vdm_jax.cli.train import train
from vdm_jax.interop.imported import import_folder
from vdm_jax.interop.lora.adapters import matrix_shapes
from vdm_jax.interop.lora.files import WEIGHTS_NAME, read_lora
from vdm_jax.training.checkpoint import restore_weights

LORA = '"lora": {{"targets": ("attn1", "ffn"), "rank": 2, "alpha": 4.0}},\n            "data":'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An import, a latent set, a config with pairs, and a run of four steps."""
    folder = tmp_path_factory.mktemp("lora")
    write_pipeline(folder / "published", "transformer")
    import_folder(folder / "published", folder / "wan")
    latent_sets.write(folder / "set", latent_sets.spec(encoders={}))
    text = CONFIG.replace('"data":', LORA).replace('"sample_every": 3', '"sample_every": None')
    (folder / "config.py").write_text(text.format(shards=str(folder / "set")))
    assert main(words(folder, "run", 4)) == 0
    return folder


def words(folder, run, steps, *more):
    config = ["--config", str(folder / "config.py"), f"--config.init={folder / 'wan'}", f"--config.train.steps={steps}"]
    return ["train", *config, "--workdir", str(folder / run), *more]


def weights_of(run, which="params"):
    return flatten_dict(jax.device_get(restore_weights((run / "checkpoints").absolute(), which).state))


def test_the_base_keeps_its_bits_and_the_pairs_train(folder):
    published = values(folder / "published/transformer")
    found = weights_of(folder / "run")
    kernel = np.asarray(found["backbone", "patch_out", "kernel"])
    assert kernel.T.tobytes() == published["proj_out.weight"].tobytes()
    assert (folder / "run/frozen/0").is_dir()  # where the base is, and in no checkpoint
    assert not any("patch_out" in name for name in _saved(folder / "run/checkpoints/4"))
    ups = [leaf for path, leaf in found.items() if path[-4:-1] == ("lora", "q", "b")]
    assert len(ups) == 1
    assert 1e-4 < np.abs(ups[0]).max() < 1e-2


def _saved(step):
    """Names of what a checkpoint holds."""
    return json.loads((step / "state/_METADATA").read_text())["tree_metadata"]


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(folder):
    assert main(words(folder, "stopped", 2)) == 0
    assert main(words(folder, "stopped", 4)) == 0
    once, twice = (weights_of(folder / name) for name in ("run", "stopped"))
    assert all(once[path].tobytes() == twice[path].tobytes() for path in once)


def test_pairs_go_out_and_into_an_import(folder, tmp_path, capsys):
    """Which then has the weights that the run has when its pairs are merged."""
    assert main(["export", str(folder / "run"), "--format", "peft", "--out", str(tmp_path / "lora")]) == 0
    assert "6 low-rank pairs" in capsys.readouterr().out
    file = tmp_path / "lora" / WEIGHTS_NAME
    assert main(["import", str(file), "--base", str(folder / "wan"), "--out", str(tmp_path / "merged")]) == 0
    assert main(["export", str(tmp_path / "merged"), "--out", str(tmp_path / "a")]) == 0
    assert main(["export", str(folder / "run"), "--out", str(tmp_path / "b")]) == 0
    assert "its low-rank pairs are merged into the weights" in capsys.readouterr().out
    a, b = (values(next(tmp_path.glob(f"{name}/**/*.safetensors")).parent) for name in "ab")
    base = values(folder / "published/transformer")
    assert a.keys() == b.keys() == base.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=1e-6)
    assert sum(not np.array_equal(a[name], base[name]) for name in a) == 6


def test_which_pairs_and_which_names(folder, tmp_path):
    read = {}
    for name, more in (("params", ["--format", "peft", "--weights", "params"]), ("ema", ["--format", "comfy"])):
        assert main(["export", str(folder / "run"), "--out", str(tmp_path / name), *more, "--dtype", "bf16"]) == 0
        shapes = matrix_shapes(WAN, WAN.config(TINY))
        read[name] = read_lora(tmp_path / name / WEIGHTS_NAME, shapes, WAN.published)
    stem = "blocks.0.ffn.net.2"
    assert {pair.b.dtype.name for pairs in read.values() for pair in pairs.values()} == {"bfloat16"}
    assert read["params"][stem].scale == read["ema"][stem].scale == 2.0
    assert not np.array_equal(read["params"][stem].b, read["ema"][stem].b)


def test_what_cannot_be(folder, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert "was imported" in refused(capsys, ["export", str(folder / "wan"), "--format", "peft", *out])
    (tmp_path / "plain").mkdir()
    config = json.loads((folder / "run/config.json").read_text())
    (tmp_path / "plain/config.json").write_text(json.dumps(config | {"lora": None}))
    line = refused(capsys, ["export", str(tmp_path / "plain"), "--format", "comfy", *out])
    assert "trained no low-rank pairs" in line
    line = refused(capsys, words(folder, "second", 2, f"--config.init={folder / 'run'}"))
    assert "trained low-rank pairs beside weights of another; put them into these first: vdm export" in line
    line = refused(capsys, words(folder, "second", 2, "--config.lora.targets=('to_x',)"))
    assert "config.lora.targets: no parameter matches 'to_x'" in line
    assert not (folder / "second").exists()


def test_pairs_without_weights_are_refused(tmp_path):
    config = config_of("wan", {"data": 1}) | {"lora": {"targets": ("to_q",)}}
    with pytest.raises(ValueError, match="config.lora: is for weights that are there already; config.init must name"):
        train(config, tmp_path / "run")
