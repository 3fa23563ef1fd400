"""`vdm train --config.init=RUN` on latents and text features that were made beforehand."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.cli.micro_run import refused
from tests.data_pipelines import latent_sets
from vdm_jax.cli.main import main
from vdm_jax.interop.component import Component, nested, write
from vdm_jax.interop.families.autoencoders_wan import AUTOENCODER_WAN
from vdm_jax.interop.families.wan import WAN
from vdm_jax.interop.finetuning.origin import digest_of, read_origin
from vdm_jax.interop.imported import import_folder
from vdm_jax.interop.parity import open_published, torch_module
from vdm_jax.training.checkpoint import restore_weights

TINY = {
    "patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
    "text_dim": latent_sets.WIDTH, "freq_dim": 8, "ffn_dim": 16, "num_layers": 1,
}  # fmt: skip
VAE = {
    "base_dim": 4, "z_dim": 4, "dim_mult": [1, 1], "num_res_blocks": 1, "temperal_downsample": [True],
    "latents_mean": [0.5, -0.5, 0.0, 0.1], "latents_std": [2.0, 1.5, 2.5, 1.0],
    "scale_factor_temporal": 2, "scale_factor_spatial": 2,
}  # fmt: skip
SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True,
    "flow_shift": 3.0,
}  # fmt: skip
CONFIG = """
import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {{
            "init": None,
            "model": {{"kind": "wan", "remat": "attention"}},
            "data": {{"shards": {shards!r}, "frames": 3, "height": 4, "width": 4}},
            "train": {{"steps": 3, "batch_size": 8, "tokens": 6, "dropout": {{"tokens": 0.2}}}},
            "ema": {{"decays": (0.9,)}},
            "optimizer": {{"learning_rate": 1e-3, "warmup": 2, "schedule": "constant"}},
            "checkpoint": {{"every": 2, "keep": 2}},
            "log": {{"every": 1, "eval_every": None, "sample_every": 3}},
            "sample": {{"steps": 2, "guidance": 2.0, "ema": 0.9, "clip_x0": False}},
        }}
    )
"""


def drawn(family, published, seed):
    config, rng = family.config(published), np.random.default_rng(seed)
    params = {path: 0.05 * rng.standard_normal(shape) for path, shape in family.shapes(config).items()}
    return Component(family, config, nested({path: value.astype(np.float32) for path, value in params.items()}))


def write_pipeline(folder, *names):
    """A folder of a tiny text-to-video pipeline with these networks."""
    for seed, name in enumerate(names):
        family, published = (AUTOENCODER_WAN, VAE) if name == "vae" else (WAN, TINY)
        write(drawn(family, published, seed), folder / name)
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER))
    classes = {name: AUTOENCODER_WAN.published if name == "vae" else WAN.published for name in names}
    classes["scheduler"] = SCHEDULER["_class_name"]
    index = {name: ["diffusers", published] for name, published in classes.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline", **index}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An import, a latent set made by its autoencoder, a config, and a run of three steps from them."""
    folder = tmp_path_factory.mktemp("finetune")
    write_pipeline(folder / "published", "transformer", "vae")
    import_folder(folder / "published", folder / "wan")
    encoders = {"vae": {"class": AUTOENCODER_WAN.published, "digest": digest_of(folder / "wan", "vae")}}
    latent_sets.write(folder / "set", latent_sets.spec(encoders=encoders))
    (folder / "config.py").write_text(CONFIG.format(shards=str(folder / "set")))
    assert main(words(folder, "run")) == 0
    return folder


def words(folder, run, *more, init="wan"):
    config = ["--config", str(folder / "config.py"), f"--config.init={folder / init}"]
    return ["train", *config, "--workdir", str(folder / run), *more]


def test_training_starts_from_the_weights_and_moves_them(folder):
    first = drawn(WAN, TINY, 0).params
    last = restore_weights(folder / "run/checkpoints").state
    moved = {path: np.abs(np.asarray(leaf) - flatten_dict(first)[path]).max()
             for path, leaf in flatten_dict(last["backbone"]).items()}  # fmt: skip
    assert 0 < max(moved.values()) < 0.02  # three steps of 1e-3; drawn weights would be elsewhere
    rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert len([row for row in rows if np.isfinite(row.get("loss", np.nan))]) == 3
    assert np.asarray(last["null"]["tokens"]).min() == 0.5  # that of the set


def test_the_run_says_where_it_came_from_and_what_it_is(folder):
    config = json.loads((folder / "run/config.json").read_text())
    assert (config["init"], config["model"]["dim"], config["process"]["shift"]) == (str(folder / "wan"), 24, 3.0)
    origin = read_origin(folder / "run")
    assert (origin.part, origin.source) == ("transformer", str(folder / "published/transformer"))
    assert origin.digest == digest_of(folder / "wan", "transformer")


def test_samples_are_decoded_by_the_autoencoder_of_the_import(folder):
    found = folder / "run/samples/step_00000003"
    assert len(list(found.glob("*.mp4"))) == 8
    assert (found / "contact_sheet.png").stat().st_size > 0


def test_a_run_goes_on_without_what_it_started_from(folder, capsys):
    shutil.copytree(folder / "run", folder / "copy")
    (folder / "wan").rename(folder / "elsewhere")
    try:
        more = ("--config.train.steps=4", "--config.log.sample_every=none")
        assert main(words(folder, "copy", *more)) == 0
    finally:
        (folder / "elsewhere").rename(folder / "wan")
    assert "going on from step 3" in capsys.readouterr().err


def test_a_trained_run_is_started_from_like_an_import(folder, capsys):
    more = ("--config.train.steps=1", "--config.log.sample_every=none")
    assert main(words(folder, "second", *more, "--config.optimizer.learning_rate=1e-12", init="run")) == 0
    assert "starting from ema:0.9 of" in capsys.readouterr().err
    ours, theirs = (restore_weights(folder / name / "checkpoints", "ema:0.9").state for name in ("second", "run"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert read_origin(folder / "second").published["class"] == "WanTransformer3DModel"


def test_what_was_trained_goes_back_as_the_published_class(folder, tmp_path):
    pytest.importorskip("diffusers", reason="the published class is what it is exported as")
    assert main(["export", str(folder / "run"), "--out", str(tmp_path / "out"), "--weights", "params"]) == 0
    module = open_published(WAN, tmp_path / "out/transformer")  # loads strictly
    params = restore_weights(folder / "run/checkpoints").state["backbone"]
    rng = np.random.default_rng(0)
    x, tokens = (rng.standard_normal(shape, np.float32) for shape in ((1, 3, 4, 4, 4), (1, 6, latent_sets.WIDTH)))
    ours = Component(WAN, WAN.config(TINY), params).network()(x, np.float32([500.0]), {"tokens": tokens})
    torch = torch_module("torch")
    inputs = (torch.from_numpy(x.transpose(0, 4, 1, 2, 3).copy()), torch.tensor([500.0]), torch.from_numpy(tokens))
    with torch.no_grad():
        theirs = module(*inputs, return_dict=False)[0].numpy().transpose(0, 2, 3, 4, 1)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config.init=nowhere"], "config.init: no such run"),
        (["--config.model.dim=48"], "config.model.dim: 48, but the weights of"),
        (["--config.model.kind=latte"], "config.model.kind: 'latte', but the weights of"),
        (["--config.train.tokens=5"], "train.tokens: 5, but"),
        (["--config.data.height=8"], "data.height: 8, but the latents of"),
        (["--config.data.flip=true"], "data.flip: True, but"),
        (["--config.train.vector=('fps',)"], "config.train.vector: 'fps' is not in config.model.scalars"),
    ],
)
def test_what_does_not_go_together_is_refused_and_leaves_nothing(folder, capsys, more, message):
    assert message in refused(capsys, words(folder, "refused", *more))
    assert not (folder / "refused").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 8}, "holds latents of 8 channels, the model has 4"),
        ({"text": False}, "conditions of .*: unknown 'tokens'"),
        ({"encoders": {"vae": {"class": "x", "digest": "f" * 64}}}, "was made by another vae than that of"),
    ],
)
def test_a_set_that_other_encoders_made_is_refused(folder, tmp_path, capsys, options, message):
    latent_sets.write(tmp_path / "set", latent_sets.spec(**options), train=8, val=0)
    line = refused(capsys, words(folder, "refused", f"--config.data.shards={tmp_path / 'set'}"))
    assert re.search(message, line), line


def test_pixels_are_refused(folder, workshop, capsys):
    line = refused(capsys, words(folder, "refused", f"--config.data.shards={workshop / 'set'}"))
    assert "holds pixels without tokens, the model reads latents of 4 channels; `vdm encode` makes them" in line
