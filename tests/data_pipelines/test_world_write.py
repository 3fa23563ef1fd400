"""A world as a shard set: what it says is what it shows, and validation captions are new."""

import dataclasses
import json

import numpy as np
import pytest

from data_pipelines.shards import reader
from data_pipelines.shards.reader import ClipSource
from data_pipelines.worlds import sprites, sprites_oracle
from data_pipelines.worlds.sprites import SpritesConfig
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
            assert [dataclasses.asdict(s) for s in sprites.parse_captions(clip["caption"])] == labels


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
