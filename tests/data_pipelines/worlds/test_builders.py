"""The worlds as a TFDS builder, without TensorFlow."""

import json
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines.worlds.bounce import world as bounce
from data_pipelines.worlds.bounce.world import BounceConfig
from data_pipelines.worlds.builders import WorldClips, builder_of
from data_pipelines.worlds.sprites.world import SpritesConfig

CONFIG = BounceConfig(height=16, width=16, frames=3)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    builder = builder_of(WorldClips(CONFIG, clips=5, val_clips=2), tmp_path_factory.mktemp("tfds"))
    builder.download_and_prepare()
    return builder


def test_every_clip_is_there_with_everything_that_is_known(built):
    source = built.as_data_source()
    assert {split: len(part) for split, part in source.items()} == {"train": 5, "val": 2}
    for seed, part in ((0, source["train"]), (1, source["val"])):
        for element in part:
            made = bounce.clip(CONFIG, int(element["index"]), seed)
            np.testing.assert_array_equal(element["video"], made.video)
            assert element["caption"].decode() == made.caption
            assert json.loads(element["labels"])["meetings"] == made.attributes["meetings"]
            for name, value in made.fields.items():
                np.testing.assert_array_equal(element[name], value)


def test_a_fresh_process_reads_it_without_this_code_and_without_tensorflow(built):
    code = f"""
import sys, tensorflow_datasets as tfds
source = tfds.builder_from_directory({str(built.data_path)!r}).as_data_source("train")
print(len(source), source[1]["flow"].shape, "tensorflow" in sys.modules, "data_pipelines" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "5 (2, 16, 16, 2) False False", done.stderr


def test_held_out_captions(tmp_path):
    builder = builder_of(WorldClips(SpritesConfig(frames=2), clips=8, val_clips=8, held_out=0.25), tmp_path)
    builder.download_and_prepare()
    train, val = ({e["caption"] for e in builder.as_data_source(split)} for split in ("train", "val"))
    assert not train & val


def test_other_settings_are_other_sets(tmp_path):
    names = {WorldClips(CONFIG, clips=5).name, WorldClips(CONFIG, clips=6).name, WorldClips(SpritesConfig()).name}
    assert len(names) == 3
    assert builder_of("bounce", tmp_path).builder_config.name == WorldClips(BounceConfig()).name


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(ValueError, match="world: unknown 'planets'; did you mean 'planes'"):
        builder_of("planets", tmp_path)
    with pytest.raises(ValueError, match="clips: 0"):
        WorldClips(CONFIG, clips=0)
    with pytest.raises(ValueError, match="held_out: 0.5; this world cannot hold captions back"):
        WorldClips(CONFIG, held_out=0.5)
