"""A world as a shard set: what it says is what it shows, and validation captions are new."""

import dataclasses
import json
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.shards import reader
from data_pipelines.shards.reader import ClipSource
from data_pipelines.worlds.sprites import oracle as sprites_oracle
from data_pipelines.worlds.sprites import world as sprites
from data_pipelines.worlds.sprites.world import SpritesConfig
from data_pipelines.worlds.write import write_world
from vdm_jax.errors import RunError

CONFIG = SpritesConfig()


def test_clips_show_their_captions(shards, world):
    for split in ("train", "val"):
        source = ClipSource(shards, split)
        clips = [source[i] for i in range(len(source))]
        videos, captions = np.stack([c["video"] for c in clips]), [c["caption"] for c in clips]
        assert sprites_oracle.agreement(videos, captions, world)["overall"] >= 0.99
        for clip in clips:
            labels = json.loads(clip["labels"])
            assert {"objects": [s.words() for s in sprites.parse_captions(clip["caption"])]} == labels


def test_fields_are_stored_exactly_and_a_stock_tfds_reads_them(shards, world):
    made = sprites.hold_out(world, 0.25, 0)[0](5, 0)
    stored = ClipSource(shards, "train", fields=tuple(made.fields))[5]["fields"]
    stock = tfds.builder_from_directory(str(shards)).as_data_source("train")[5]
    assert stored.keys() == made.fields.keys() > {"flow", "masks", "tracks"}
    for name, value in made.fields.items():
        np.testing.assert_array_equal(stored[name], value)
        np.testing.assert_array_equal(stock[name], value)
        assert stored[name].dtype == value.dtype


def test_fields_are_read_and_stored_as_asked_for(shards, tmp_path):
    assert "fields" not in ClipSource(shards, "val")[0]
    assert list(ClipSource(shards, "val", fields=("masks",))[0]["fields"]) == ["masks"]
    write_world(tmp_path / "some", CONFIG, 2, fields=("masks", "flow"), codec="h264")
    assert set(reader.manifests.load(tmp_path / "some").clip.fields) == {"masks", "flow"}
    write_world(tmp_path / "none", dataclasses.replace(CONFIG, frames=1), 2, fields=())
    assert "fields" not in json.loads((tmp_path / "none" / "manifest.json").read_text())["clip"]
    write_world(tmp_path / "still", dataclasses.replace(CONFIG, frames=1), 2)
    assert ClipSource(tmp_path / "still", "train", fields=("flow",))[1]["fields"]["flow"].shape == (0, 16, 16, 2)


@pytest.mark.parametrize(
    ("stored", "asked", "message"),
    [
        (("masks",), ("mask",), "fields: unknown 'mask'; did you mean 'masks'?"),
        ((), ("masks",), "fields: no 'masks'; this set stores none"),
    ],
)
def test_fields_that_a_set_does_not_have_are_named(tmp_path, stored, asked, message):
    write_world(tmp_path / "set", CONFIG, 1, val_clips=0, fields=stored)
    with pytest.raises(ValueError, match=re.escape(message)):
        ClipSource(tmp_path / "set", "train", fields=asked)


def test_validation_captions_never_occur_in_training(tmp_path):
    write_world(tmp_path / "set", CONFIG, 192, val_clips=64)
    train, val = (set(reader.captions(tmp_path / "set", split)) for split in ("train", "val"))
    assert (len(train), len(val)) == (192, 64)
    assert not train & val


def test_without_held_out_captions_the_clips_still_differ(tmp_path):
    manifest = write_world(tmp_path / "set", CONFIG, 6, val_clips=6, held_out=0)
    train, val = (ClipSource(tmp_path / "set", split) for split in ("train", "val"))
    assert [train[i]["caption"] for i in range(6)] == [val[i]["caption"] for i in range(6)]
    assert not any(np.array_equal(train[i]["video"], val[i]["video"]) for i in range(6))
    assert manifest.settings["held_out"] == 0


def test_same_seed_same_set(tmp_path):
    digests = [write_world(tmp_path / str(k), CONFIG, 4, val_clips=2, seed=s).digest() for k, s in enumerate((0, 0, 1))]
    assert digests[0] == digests[1] != digests[2]


def test_splits_without_clips_are_absent(tmp_path):
    seen = []
    manifest = write_world(tmp_path / "set", CONFIG, 3, val_clips=0, progress=lambda *done: seen.append(done))
    assert list(manifest.splits) == ["train"]
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(("changes", "name"), [({"clips": 0}, "clips"), ({"val_clips": -1}, "val_clips")])
def test_wrong_counts_are_named(tmp_path, changes, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        write_world(tmp_path / "set", CONFIG, **{"clips": 1, **changes})


def test_interrupted_rendering_leaves_nothing(tmp_path):
    def interrupt(done, _):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path / "set", CONFIG, 8, progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_world(tmp_path / "file" / "set", CONFIG, 1)
