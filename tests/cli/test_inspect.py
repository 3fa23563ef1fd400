import base64
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from data_pipelines.shards.manifest import ClipSpec, Dropped
from data_pipelines.shards.schema import ClipRecord, pack_pixels
from data_pipelines.shards.writer import open_writer
from data_pipelines.worlds.sprites.world import SpritesConfig
from data_pipelines.worlds.write import write_world
from tests.data_pipelines import latent_sets
from vdm_jax.cli.inspect_run import last_metrics, parameter_rows
from vdm_jax.cli.main import main
from vdm_jax.errors import RunError
from vdm_jax.media.video import decode, write_mp4
from vdm_jax.training.checkpoint import CheckpointConfig, Checkpointer, StepMeta


@pytest.fixture
def shards(tmp_path):
    write_world(tmp_path / "set", SpritesConfig(frames=3), 5, val_clips=2)
    return tmp_path / "set"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory as training leaves it: two checkpoints, metrics, one sample."""
    path = tmp_path_factory.mktemp("run")
    (path / "config.json").write_text(json.dumps({"seed": 3}))
    params = {"backbone": {"blocks": {"kernel": jnp.ones((2, 4, 3))}, "head": {"bias": jnp.ones(5)}}}
    state = {"step": jnp.int32(7), "params": params, "ema": {"0.99": params}}
    meta = StepMeta(process={"kind": "rectified_flow", "shift": 1.0}, data={}, config={"seed": 3})
    with Checkpointer(path / "checkpoints", CheckpointConfig()) as checkpointer:
        checkpointer.save(5, state, meta)
        checkpointer.save(7, state, meta)
    (path / "metrics.jsonl").write_text(
        '{"step": 5, "loss": 2.0}\n{"step": 6, "eval/loss": 3.0}\n{"step": 7, "loss": 1.5}\n{"st'
    )
    (path / "samples").mkdir()
    write_mp4(path / "samples" / "a_red_square.mp4", np.full((3, 16, 16, 3), 99, np.uint8), 8.0)
    return path


def figures_of(path, *words):
    file = path.parent / "figures.json"
    status = main(["inspect", str(path), "--json", str(file), *words])
    return status, {f["name"]: f["value"] for f in json.loads(file.read_text())}


def test_a_shard_set_is_counted_and_drawn(shards, capsys):
    status, figures = figures_of(shards, "--verify")
    assert status == 0
    assert (figures["train_clips"], figures["val_clips"], figures["shape"]) == (5, 2, "3x16x16x3")
    assert figures["intact"] is True
    shown = capsys.readouterr().out
    assert "train[0]: sprites" in shown
    assert "moves" in shown
    assert Image.open(shards / "contact_sheet.png").size[0] > 100


def test_the_sheet_goes_where_one_says_or_nowhere(shards, tmp_path):
    assert main(["inspect", str(shards), "--no-sheet"]) == 0
    assert main(["inspect", str(shards), "--sheet", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png").exists()
    assert not (shards / "contact_sheet.png").exists()


def test_a_page_with_playable_clips(tmp_path, capsys):
    with open_writer(tmp_path / "set", ClipSpec(2, 16, 24, "h264")) as writer:
        for k in range(3):
            labels = {
                "captions": [[f"clip {k}", 0.75], ["ein <Würfel>", 0.25]],
                "scores": {"motion": k / 4, "mode": "x"},
            }
            pixels = np.full((2, 16, 24, 3), 50 * k, np.uint8)
            data = pack_pixels(pixels, "h264", 8.0)
            split = "val" if k == 2 else "train"
            clip = ClipRecord(data, "h264", f"clip {k}", 8.0, 2, 16, 24, "a.mp4", 0.5, split, 0, json.dumps(labels))
            writer.add(clip)
        dropped = [Dropped("bad.mp4", "empty", "bad.mp4: the file is empty")]
        writer.finish({"pipeline": "test", "sources": [{"name": "a.mp4", "clips": {"train": 2}}]}, {"fps": 8}, dropped)
    assert main(["inspect", str(tmp_path / "set"), "--no-sheet"]) == 0
    assert f"page: {tmp_path / 'set' / 'inspect.html'}" in capsys.readouterr().out
    text = (tmp_path / "set" / "inspect.html").read_text()
    videos = re.findall(r'src="data:video/mp4;base64,([^"]+)"', text)
    assert [decode(base64.b64decode(video)).shape for video in videos] == [(2, 16, 24, 3)] * 3
    for words in ("25 %  ein &lt;Würfel&gt;", "train[1]  a.mp4 at 0.5 s", "motion 0.25", "mode x", "1 dropped sources"):
        assert words in text
    assert "<Würfel>" not in text
    assert "3 of 3 clips have a caption, 3 have several" in text
    main(["inspect", str(tmp_path / "set"), "--no-sheet", "--page", str(tmp_path / "again.html")])
    assert (tmp_path / "again.html").read_text() == text


def test_the_page_of_latents_and_of_captions_nobody_wrote(tmp_path):
    latent_sets.write(tmp_path / "set", latent_sets.spec(dtype="bfloat16"))
    assert main(["inspect", str(tmp_path / "set"), "--no-sheet"]) == 0
    text = (tmp_path / "set" / "inspect.html").read_text()
    assert text.count("<video") == 20  # twelve of each split, of eight all
    assert "three channels of the latents" in text


def test_a_page_that_cannot_be_written_is_a_failure(shards, tmp_path, capsys):
    assert main(["inspect", str(shards), "--no-sheet", "--page", str(tmp_path / "absent" / "x.html")]) == 1
    assert "page: cannot write" in capsys.readouterr().err
    assert main(["inspect", str(shards), "--no-sheet", "--no-page"]) == 0
    assert not list(shards.glob("*.html"))


def test_a_sheet_that_cannot_be_written_is_a_failure(shards, tmp_path, capsys):
    assert main(["inspect", str(shards), "--sheet", str(tmp_path / "absent" / "x.png")]) == 1
    assert "contact sheet: cannot write" in capsys.readouterr().err


def test_a_flipped_byte_is_found(shards, capsys):
    victim = next(shards.glob("*train*"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 1
    victim.write_bytes(content)
    status, figures = figures_of(shards, "--verify")
    assert status == 1
    assert figures["intact"] is False
    assert f"damaged: {victim}" in capsys.readouterr().out


def test_a_latent_set_says_what_is_stored_and_how_it_looks(tmp_path, capsys):
    latent_sets.write(tmp_path / "set", latent_sets.spec(first_frame=True))
    status, figures = figures_of(tmp_path / "set", "--verify")
    assert status == 0
    assert (figures["shape"], figures["codec"], figures["pixels"]) == ("3x4x4x4", "latents float16", "9x32x32")
    assert (figures["vae/class"], figures["vae/digest"]) == ("AutoencoderKLWan", "a" * 64)
    assert figures["latents/finite"] is True
    assert abs(figures["latents/std"] - 1) < 0.1
    assert figures["concat/stored"] == "3x4x4x4 float16, 1.0 rows a clip"
    assert "train[0]: 0.mp4" in capsys.readouterr().out
    assert (tmp_path / "set" / "contact_sheet.png").exists()
    (tmp_path / "set" / "null.safetensors").unlink()
    assert main(["inspect", str(tmp_path / "set"), "--verify"]) == 1


def test_a_run_is_described(run, capsys):
    status, figures = figures_of(run, "--verify")
    assert status == 0
    assert (figures["step"], figures["checkpoints"], figures["process"]) == (7, 2, "rectified_flow")
    assert (figures["parameters"], figures["parameters_backbone"], figures["ema_decays"]) == (29, 29, "0.99")
    assert (figures["metric/loss"], figures["metric/eval/loss"], figures["last_logged_step"]) == (1.5, 3.0, 7)
    assert figures["intact_5"] is True
    assert figures["intact_7"] is True
    shown = capsys.readouterr().out
    assert "backbone/blocks" in shown
    assert "steps saved: 5 7" in shown
    assert (run / "contact_sheet.png").exists()


def test_every_parameter_is_listed_when_asked(run, capsys):
    assert main(["inspect", str(run), "--parameters", "--no-sheet"]) == 0
    assert "backbone/blocks/kernel  float32[2, 4, 3]" in capsys.readouterr().out


def test_a_run_that_has_not_saved_yet(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert main(["inspect", str(tmp_path)]) == 0
    assert "none yet" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "message"), [("absent", "is not a directory"), ("", "neither a shard set")])
def test_a_wrong_path_is_a_usage_error(tmp_path, capsys, name, message):
    assert main(["inspect", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


def test_damaged_metrics_are_named(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\nxx\n{"step": 2}\n')
    with pytest.raises(RunError, match="line 2"):
        last_metrics(file)
    assert last_metrics(tmp_path / "absent") == {}


def test_parameter_rows_add_up():
    tree = {"a": {"b": np.zeros((2, 3)), "c": {"d": np.zeros(4)}}, "e": np.zeros(())}
    for depth in (1, 2, None):
        assert sum(size for _, _, size in parameter_rows(tree, depth)) == 11
    assert [row[0] for row in parameter_rows(tree, None)] == ["a/b", "a/c/d", "e"]
