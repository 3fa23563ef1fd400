"""`vdm encode`: a set that training loads, the same bytes however often it was stopped, one line for what is wrong."""

import functools
import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from data_pipelines.loading.loader import DataConfig, make_loader
from data_pipelines.loading.stored import stored_in
from data_pipelines.shards import manifest as manifests
from data_pipelines.shards.reader import ClipSource, captions, verify
from data_pipelines.worlds.sprites.world import SpritesConfig
from data_pipelines.worlds.write import write_world
from tests.interop.pipelines.oracle import imported, network, scheduler
from tests.interop.pipelines.unets import latent_diffusion
from vdm_jax.cli import encode, sample_published
from vdm_jax.cli.main import main
from vdm_jax.geometry import resize_flow
from vdm_jax.interop.families.unet import UNET_3D
from vdm_jax.interop.finetuning.encoding import ClipEncoder, Encoded
from vdm_jax.interop.imported import import_folder
from vdm_jax.interop.pipelines.opened import open_parts
from vdm_jax.interop.pipelines.pipeline import generate
from vdm_jax.media.video import decode
from vdm_jax.perception.flow import LucasKanade

diffusers = pytest.importorskip("diffusers", reason="makes the tiny pipeline that is imported")

_UNET = {
    "block_out_channels": [32], "layers_per_block": 1, "cross_attention_dim": 16, "sample_size": 8,
    "down_block_types": ["DownBlock3D"], "up_block_types": ["UpBlock3D"],
    "norm_num_groups": 8, "attention_head_dim": 8,
}  # fmt: skip
TRAIN, VAL = 10, 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A pipeline, and its autoencoder alone."""
    folder = tmp_path_factory.mktemp("runs")
    parts = latent_diffusion()
    pipeline = diffusers.TextToVideoSDPipeline(
        **parts, unet=network(UNET_3D, _UNET, 3), scheduler=scheduler("modelscope_ddim")
    )
    whole = imported(pipeline, folder / "whole")
    parts["vae"].save_pretrained(folder / "vae")
    import_folder(folder / "vae", folder / "alone")
    return {"whole": whole, "alone": folder / "alone"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """10 + 3 clips of 3x16x16, whose captions are longer than nine tokens; not to be changed."""
    out = tmp_path_factory.mktemp("clips") / "set"
    write_world(out, SpritesConfig(frames=3, objects=2), TRAIN, val_clips=VAL)
    return out


@pytest.fixture(scope="module")
def latents(runs, clips, tmp_path_factory):
    """The whole encoded; not to be changed."""
    out = tmp_path_factory.mktemp("latents") / "set"
    assert vdm(runs["whole"], clips, out, "--batch", 4, "--json", out.parent / "figures.json") == 0
    return out


@pytest.fixture
def small_shards(monkeypatch):
    """Four clips a shard."""
    monkeypatch.setattr(encode, "plan_for", functools.partial(encode.plan_for, shard_bytes=4 * 2 * 4 * 4 * 4 * 2))


def vdm(run, data, out, *words):
    return main(["encode", str(run), str(data), "--out", str(out), *map(str, words)])


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_stored_is_what_training_loads(runs, clips, latents):
    verify(latents)
    config = DataConfig(str(latents), 3, 8, 8)
    with make_loader(config, "train", [config.bucket(TRAIN)], 0, shuffle=False) as loader:
        batch, stored = next(loader), loader.stored
    assert {name: x.shape for name, x in batch.items() if name != "caption"} == {
        "video": (TRAIN, 3, 8, 8, 4), "fps": (TRAIN,), "index": (TRAIN,), "tokens": (TRAIN, 9, 16),
        "tokens_mask": (TRAIN, 9),
    }  # fmt: skip
    source = ClipSource(clips, "train")
    assert batch["caption"].tolist() == [source[i]["caption"] for i in range(TRAIN)]
    encoder = encode.open_encoder(runs["whole"], (3, 16, 16), 4)
    encoder.load()
    expected = encoder.encode(np.stack([source[i]["video"] for i in (8, 9)]), batch["caption"][8:].tolist(), [8.0] * 2)
    np.testing.assert_allclose(batch["video"][8:], expected.latents, atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(batch["tokens"][8:], expected.conditions["tokens"], atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(stored.null["tokens"][0], encoder.null()["tokens"], atol=1e-3, rtol=1e-3)
    assert stored.encoders == encoder.described()
    assert np.ptp(batch["tokens"][:, 1:], axis=0).max() > 0.1, "prompts say nothing"


def test_flow_is_stored_where_it_is_asked_for(runs, clips, tmp_path):
    assert vdm(runs["alone"], clips, tmp_path / "set", "--batch", 5, "--flow") == 0
    config = DataConfig(str(tmp_path / "set"), 3, 8, 8)
    with make_loader(config, "train", [config.bucket(4)], 0, shuffle=False) as loader:
        batch = next(loader)
    assert batch["flow"].shape == (4, 2, 8, 8, 2)
    video = np.stack([ClipSource(clips, "train")[i]["video"] for i in range(4)]).astype(np.float32) / 127.5 - 1
    expected = resize_flow(jax.jit(LucasKanade())(video), 8, 8)  # of 16x16 pixels
    np.testing.assert_allclose(batch["flow"], expected, atol=1e-2)
    assert np.abs(batch["flow"]).max() > 0.1


def test_the_manifest_says_where_it_comes_from(clips, latents):
    source, manifest = manifests.load(clips), manifests.load(latents)
    assert manifest.provenance["clips"] == source.digest()
    assert manifest.provenance["made_by"] == source.provenance
    assert manifest.settings["batch"] == 4
    assert manifest.clip.pixels == (3, 16, 16)
    assert {split: manifest.records(split) for split in manifest.splits} == {"train": TRAIN, "val": VAL}
    figures = {each["name"]: each["value"] for each in json.loads((latents.parent / "figures.json").read_text())}
    assert (figures["codec"], figures["train_clips"]) == ("latents float16", TRAIN)


def test_captions_over_the_limit_are_counted(latents):
    """All of them: seven words, a start and an end are nine tokens."""
    different = {caption for split in ("train", "val") for caption in captions(latents, split)}
    assert min(len(caption.split()) for caption in different) > 7
    figures = {each["name"]: each["value"] for each in json.loads((latents.parent / "figures.json").read_text())}
    assert figures["captions_cut"] == len(different)


def test_a_set_that_is_there_is_not_made_again(runs, clips, latents, monkeypatch, capsys):
    before = files(latents)
    monkeypatch.setattr(ClipEncoder, "load", None)
    assert vdm(runs["whole"], clips, latents, "--batch", 4) == 0
    assert "already there" in capsys.readouterr().out
    assert files(latents) == before
    assert vdm(runs["whole"], clips, latents, "--batch", 2) == 2
    assert "exists already" in capsys.readouterr().err


def test_stopped_and_started_again_is_the_same_set(runs, clips, tmp_path, monkeypatch, capsys, small_shards):
    words = ["--frames", 2, "--height", 8, "--width", 8, "--batch", 3]  # the means of what is stored
    assert vdm(runs["alone"], clips, tmp_path / "once", *words) == 0
    real, calls = ClipEncoder.encode, []

    def stopped(self, *args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(ClipEncoder, "encode", stopped)
    assert vdm(runs["alone"], clips, tmp_path / "twice", *words) == 130
    assert "1 of 4 shards are finished" in capsys.readouterr().err
    assert vdm(runs["alone"], clips, tmp_path / "twice", *words) == 0
    assert files(tmp_path / "twice") == files(tmp_path / "once")
    assert {path.name for path in tmp_path.iterdir()} == {"once", "twice"}


def test_over_devices(runs, clips, latents, tmp_path):
    """The same as on one, by the autoencoder alone."""
    words = ["--dtype", "float32", "--mesh", "data=4,fsdp=2"]
    assert vdm(runs["alone"], clips, tmp_path / "eight", *words) == 0
    one, eight = (ClipSource(shards, "val") for shards in (latents, tmp_path / "eight"))
    assert eight.manifest.settings["batch"] == 8
    assert stored_in([tmp_path / "eight"]).conditions == {}
    for i in range(VAL):
        np.testing.assert_allclose(one[i]["video"], eight[i]["video"], atol=1e-3, rtol=1e-3)


def test_numbers_that_cannot_be_stored(runs, clips, tmp_path, monkeypatch, capsys):
    for value, message in ((np.nan, "its latents are not finite"), (1e5, "its latents do not fit float16; --dtype bf")):

        def broken(self, pixels, captions, fps, value=value):
            return Encoded(np.full((len(pixels), *self.latent_shape), value, np.float32), {}, {})

        monkeypatch.setattr(ClipEncoder, "encode", broken)
        assert vdm(runs["alone"], clips, tmp_path / "set", "--overwrite") == 1
        said = capsys.readouterr().err
        assert "clip 0 (sprites at 0 s): " + message in said
        assert "0 of 2 shards are finished" in said
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dtype", "float8"], "--dtype: unknown 'float8'"),
        (["--height", "10"], "encode.height: 10, but the clips of"),
        (["--frames", "4"], "encode.frames: 4, but the clips of"),
        (["--height", "4", "--width", "4", "--batch", "0"], "batch: 0 must be 1 or more"),
        (["--mesh", "date=2"], "--mesh: unknown 'date'"),
        (["--mesh", "data=8", "--batch", "3"], "batch_size: 3 does not divide"),
    ],
)
def test_wrong_requests_are_one_line(runs, clips, tmp_path, capsys, words, message):
    assert vdm(runs["alone"], clips, tmp_path / "set", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_wrong_places_are_one_line(runs, clips, latents, tmp_path, capsys):
    for run, data, message in (
        (runs["alone"], latents, "holds latents already"),
        (runs["alone"], tmp_path, "is no shard set"),
        (clips, clips, "holds no imported weights"),
    ):
        assert vdm(run, data, tmp_path / "set") == 2
        assert message in capsys.readouterr().err


LORA = """
import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {{
            "init": {run!r},
            "lora": {{"targets": ("attn1",), "rank": 2, "alpha": 2.0}},
            "data": {{"shards": {shards!r}, "frames": 3, "height": 8, "width": 8}},
            "train": {{"steps": 1, "batch_size": 8, "tokens": 9}},
            "optimizer": {{"learning_rate": 0.3, "warmup": 0, "schedule": "constant"}},
            "log": {{"every": 1, "eval_every": None, "sample_every": None}},
        }}
    )
"""


def test_what_was_encoded_is_trained_on_and_sampled(runs, latents, tmp_path, monkeypatch):
    """Pairs beside the weights of an import, which its pipeline then samples with them."""
    (tmp_path / "config.py").write_text(LORA.format(run=str(runs["whole"]), shards=str(latents)))
    assert main(["train", "--config", str(tmp_path / "config.py"), "--workdir", str(tmp_path / "run")]) == 0
    opened = []
    monkeypatch.setattr(
        sample_published,
        "generate",
        lambda pipeline, *given, **named: opened.append(pipeline) or generate(pipeline, *given, **named),
    )
    size = ["--frames", "1", "--height", "16", "--width", "16", "--steps", "1", "--guidance", "1"]
    out = tmp_path / "x.mp4"
    assert main(["sample", str(tmp_path / "run"), "--prompt", "a red square", *size, "--out", str(out)]) == 0
    assert np.asarray(decode(out)).shape == (1, 16, 16, 3)
    tuned, plain = (
        flatten_dict(found("unet")) for found in (opened[0].opened.weights, open_parts(runs["whole"]).weights)
    )
    assert tuned.keys() == plain.keys()
    moved = {path[-3] for path in tuned if np.abs(np.asarray(tuned[path]) - np.asarray(plain[path])).max() > 1e-3}
    assert moved == {"attention"}, "the pairs say nothing, or more than they were asked to"
