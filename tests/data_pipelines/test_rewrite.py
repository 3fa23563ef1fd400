"""Sets made of sets: every clip with its bytes and its split, all or nothing, and what must not be mixed is named."""

import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from data_pipelines.shards import manifest as manifests
from data_pipelines.shards import rewrite
from data_pipelines.shards.files import appearing
from data_pipelines.shards.manifest import ClipSpec
from data_pipelines.shards.reader import ClipSource, verify
from data_pipelines.shards.rewrite import head, merge, split, subset
from data_pipelines.shards.schema import ClipRecord, pack_pixels
from data_pipelines.shards.webdataset import export_webdataset
from data_pipelines.shards.writer import open_writer
from data_pipelines.worlds.sprites.world import SpritesConfig
from data_pipelines.worlds.write import write_world
from tests.data_pipelines import latent_sets
from vdm_jax.errors import RunError


def make(out, first=0, train=5, val=2, codec="raw", size=8, sources=None):
    """A set whose clip k is grey level k."""
    with open_writer(out, ClipSpec(2, size, size, codec)) as writer:
        for k in range(first, first + train + val):
            pixels = np.full((2, size, size, 3), k, np.uint8)
            name = "train" if k < first + train else "val"
            labels = json.dumps({"k": k, "captions": [[f"clip {k}", 0.75], ["ein Würfel", 0.25]]})
            data = pack_pixels(pixels, codec, 8.0)
            writer.add(ClipRecord(data, codec, f"clip {k}", 8.0, 2, size, size, "test", 0.5, name, 0, labels))
        writer.finish({"pipeline": "test", "sources": sources or []}, {"count": train})
    return out


def captions(out, name):
    source = ClipSource(out, name)
    found = [source[i] for i in range(len(source))]
    assert [clip["index"] for clip in found] == list(range(len(found)))
    return [clip["caption"] for clip in found]


def clips(first, count):
    return [f"clip {k}" for k in range(first, first + count)]


def everything_in(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def two(tmp_path):
    return make(tmp_path / "a"), make(tmp_path / "b", 100, 3, 1)


def test_merging_keeps_order_and_splits(two, tmp_path):
    steps = []
    manifest = merge(two, tmp_path / "both", lambda *step: steps.append(step), shard_bytes=1500)
    assert captions(tmp_path / "both", "train") == clips(0, 5) + clips(100, 3)
    assert captions(tmp_path / "both", "val") == clips(5, 2) + clips(103, 1)
    assert len(manifest.splits["train"]) > 1
    assert [origin["digest"] for origin in manifest.provenance["sets"]] == [manifests.load(d).digest() for d in two]
    assert manifest.provenance["sets"][1]["settings"] == {"count": 3}
    assert steps == [(k, 11) for k in range(1, 12)]
    verify(tmp_path / "both")
    assert everything_in(tmp_path) == ["a", "b", "both"]


def test_stock_tfds_opens_what_is_made(two, tmp_path):
    merge(two, tmp_path / "both")
    latent_sets.write(tmp_path / "l", train=6, val=2)
    head(tmp_path / "l", tmp_path / "few", 3)
    script = (
        "import sys, tensorflow_datasets as tfds\n"
        f"for name in ({str(tmp_path / 'both')!r}, {str(tmp_path / 'few')!r}):\n"
        "  found = tfds.builder_from_directory(name).as_data_source('train')\n"
        "  print(len(found), found[1]['caption'].decode(), 'tensorflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["8 clip 1 False", "3 clip 1 False"]


def test_the_head_is_the_first_clips_of_each_split(two, tmp_path):
    manifest = head(two[0], tmp_path / "few", 3)
    assert (captions(tmp_path / "few", "train"), captions(tmp_path / "few", "val")) == (clips(0, 3), clips(5, 2))
    assert manifest.provenance["sets"][0]["clips"] == {"train": [0, 3], "val": [0, 2]}
    with pytest.raises(ValueError, match="exists already"):
        head(two[0], tmp_path / "few", 1)
    head(two[0], tmp_path / "few", 1, overwrite=True)
    assert captions(tmp_path / "few", "train") == clips(0, 1)


def test_a_subset_holds_what_was_chosen(two, tmp_path):
    manifest = subset(two[0], tmp_path / "some", {"train": [0, 3, 4]}, {"filter": "motion>=0.5"})
    assert captions(tmp_path / "some", "train") == ["clip 0", "clip 3", "clip 4"]
    assert (list(manifest.splits), manifest.settings) == (["train"], {"filter": "motion>=0.5"})
    for numbers in ([3, 0], [1, 1], [5]):
        with pytest.raises(ValueError, match="chosen.train: not ascending numbers below 5"):
            subset(two[0], tmp_path / "more", {"train": numbers}, {})
    with pytest.raises(RunError, match="no clip was written"):
        subset(two[0], tmp_path / "more", {"train": []}, {})


def test_parts_put_together_are_the_whole(two, tmp_path):
    parts = split(two[0], tmp_path / "parts", 3)
    folders = sorted((tmp_path / "parts").iterdir())
    assert [f.name for f in folders] == [f"{k:05d}-of-00003" for k in range(3)]
    assert [manifests.load(f) for f in folders] == parts
    assert [c for f in folders for c in captions(f, "train")] == clips(0, 5)
    assert [c for f, m in zip(folders, parts) if "val" in m.splits for c in captions(f, "val")] == clips(5, 2)
    for parts in (0, 6):
        with pytest.raises(ValueError, match=r"parts: \d is not within 1..5"):
            split(two[0], tmp_path / "more", parts)
    with pytest.raises(ValueError, match="exists already"):
        split(two[0], tmp_path / "parts", 2)


def test_latents_keep_conditions_and_the_empty_prompt(tmp_path):
    made = latent_sets.spec(dtype="bfloat16", first_frame=True)
    whole = latent_sets.write(tmp_path / "whole", made, 6, 2, shard_bytes=3000)
    split(tmp_path / "whole", tmp_path / "parts", 2)
    merged = merge(sorted((tmp_path / "parts").iterdir()), tmp_path / "again", shard_bytes=3000)
    assert merged.clip == whole.clip
    assert [s.sha256 for s in merged.splits["train"]] == [s.sha256 for s in whole.splits["train"]]
    assert (tmp_path / "again/null.safetensors").read_bytes() == (tmp_path / "whole/null.safetensors").read_bytes()
    assert everything_in(tmp_path) == ["again", "parts", "whole"]


def damaged(folder):
    victim = next(folder.glob("*train*"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 1
    victim.write_bytes(content)
    return victim


@pytest.mark.parametrize("action", ["merge", "head", "split", "export"])
def test_damage_is_named_and_nothing_made(two, tmp_path, action):
    victim = damaged(two[1])
    work = {
        "merge": lambda: merge(two, tmp_path / "out"),
        "head": lambda: head(two[1], tmp_path / "out", 1),
        "split": lambda: split(two[1], tmp_path / "out", 2),
        "export": lambda: export_webdataset(two[1], tmp_path / "out"),
    }
    with pytest.raises(RunError, match=f"{victim.name}: differs from its digest"):
        work[action]()
    assert everything_in(tmp_path) == ["a", "b"]


def test_a_failure_midway_leaves_nothing(two, tmp_path, monkeypatch):
    def stop(done, total):
        if done == 4:
            raise OSError(28, "No space left on device")

    for work in (lambda: merge(two, tmp_path / "out", stop), lambda: split(two[0], tmp_path / "out", 5, stop)):
        with pytest.raises((OSError, RunError)):
            work()
        assert everything_in(tmp_path) == ["a", "b"]


def test_what_a_killed_process_left_is_cleared(two, tmp_path):
    left = tmp_path / ".out.part"
    (left / "00000-of-00002").mkdir(parents=True)
    (left / "old.tar").write_text("x")
    export_webdataset(two[0], tmp_path / "out")
    assert everything_in(tmp_path / "out") == ["dataset.json", "train-000000.tar", "val-000000.tar"]
    with appearing(tmp_path / "more"), pytest.raises(RunError, match="another process is writing"):
        split(two[0], tmp_path / "more", 2)
    assert everything_in(tmp_path) == ["a", "b", "more", "out"]


SOURCE = {"name": "walk.mp4", "sha256": "f" * 64}


def test_what_must_not_be_mixed_is_named(tmp_path):
    a = make(tmp_path / "a", sources=[{**SOURCE, "clips": {"train": 5, "val": 0}}])
    b = make(tmp_path / "b", 50, sources=[{**SOURCE, "clips": {"train": 0, "val": 2}}])
    with pytest.raises(ValueError, match=r"walk.mp4 is in split 'val' of .*b and in 'train' of .*a"):
        merge([a, b], tmp_path / "out")
    head(a, tmp_path / "h", 2)
    with pytest.raises(ValueError, match="what is held out must not be trained on"):
        merge([tmp_path / "h", b], tmp_path / "out")
    with pytest.raises(ValueError, match="holds the same clips as"):
        merge([a, a], tmp_path / "out")
    with pytest.raises(ValueError, match=r"c differs from .*a in height: 8 -> 16"):
        merge([a, make(tmp_path / "c", size=16)], tmp_path / "out")
    with pytest.raises(ValueError, match="needs two at least"):
        merge([a], tmp_path / "out")
    with pytest.raises(ValueError, match="clips: 0"):
        head(a, tmp_path / "out", 0)


def test_latents_of_another_encoder_are_not_merged(tmp_path):
    other = {**latent_sets.ENCODERS, "vae": {**latent_sets.ENCODERS["vae"], "digest": "c" * 64}}
    latent_sets.write(tmp_path / "a", train=2, val=1)
    latent_sets.write(tmp_path / "b", latent_sets.spec(encoders=other), train=2, val=1)
    with pytest.raises(ValueError, match=r"differs from .* in encoders.vae.digest: a+ -> c+"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_tars_hold_every_clip(tmp_path):
    make(tmp_path / "a", codec="h264", size=16)
    index = export_webdataset(tmp_path / "a", tmp_path / "tars", shard_bytes=12_000)
    assert index["clips"] == 7
    names = [tar["file"] for tar in index["tars"]]
    assert names[:2] == ["train-000000.tar", "train-000001.tar"]
    source, seen = ClipSource(tmp_path / "a", "train"), 0
    for name in (name for name in names if name.startswith("train")):
        assert (tmp_path / "tars" / name).stat().st_size <= 24_000
        with tarfile.open(tmp_path / "tars" / name) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        for key in sorted({name.partition(".")[0] for name in files}):
            record = source.record(seen)
            assert key == f"train-{seen:08d}"
            assert files[f"{key}.mp4"] == record.video
            assert files[f"{key}.txt"].decode() == record.caption
            about = json.loads(files[f"{key}.json"])
            assert about["captions"] == [[record.caption, 0.75], ["ein Würfel", 0.25]]
            assert (about["labels"], about["start"], about["fps"]) == ({"k": seen}, 0.5, 8.0)
            seen += 1
    assert seen == 5
    export_webdataset(tmp_path / "a", tmp_path / "again", shard_bytes=12_000)
    for name in everything_in(tmp_path / "tars"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "tars" / name).read_bytes()


def test_tars_of_latents_and_of_raw_pixels(two, tmp_path):
    latent_sets.write(tmp_path / "l", latent_sets.spec(dtype="bfloat16"), 2, 1)
    export_webdataset(tmp_path / "l", tmp_path / "tars")
    with tarfile.open(tmp_path / "tars" / "train-000000.tar") as tar:
        words = np.load(io.BytesIO(tar.extractfile("train-00000001.latents.npy").read()))
        about = json.load(tar.extractfile("train-00000001.json"))
    record = ClipSource(tmp_path / "l", "train").record(1)
    assert about["stored_as_words"] == {"latents": "bfloat16", "tokens": "bfloat16"}
    np.testing.assert_array_equal(words, record.latents.view(np.uint16))
    assert (tmp_path / "tars" / "null.safetensors").exists()
    export_webdataset(two[0], tmp_path / "raw")
    with tarfile.open(tmp_path / "raw" / "val-000000.tar") as tar:
        pixels = np.load(io.BytesIO(tar.extractfile("val-00000001.video.npy").read()))
    assert (pixels.shape, pixels.max()) == ((2, 8, 8, 3), 6)


def test_every_clip_is_read_as_it_is_stored(two, tmp_path):
    whole = rewrite.whole_set(two[0])
    assert [r.caption for r in whole.records("val")] == clips(5, 2)
    assert list(whole.records("test")) == []


def test_arrays_beside_the_pixels_stay(tmp_path):
    whole = write_world(tmp_path / "w", SpritesConfig(frames=2), 3, val_clips=1)
    assert whole.clip.fields
    made = head(tmp_path / "w", tmp_path / "few", 2)
    assert made.clip == whole.clip
    before, after = (ClipSource(tmp_path / name, "train", fields=tuple(whole.clip.fields)) for name in ("w", "few"))
    for name, value in before[1]["fields"].items():
        np.testing.assert_array_equal(after[1]["fields"][name], value)
    export_webdataset(tmp_path / "w", tmp_path / "tars")
    with tarfile.open(tmp_path / "tars" / "train-000000.tar") as tar:
        assert {f"train-00000000.{name}.npy" for name in whole.clip.fields} <= set(tar.getnames())
