"""One small shard set for the tests that only read; those that damage files take a copy."""

import shutil

import pytest

from data_pipelines.worlds.sprites.world import SpritesConfig
from data_pipelines.worlds.write import write_world

TRAIN, VAL = 24, 8


@pytest.fixture(scope="session")
def world():
    return SpritesConfig()


@pytest.fixture(scope="session")
def shards(tmp_path_factory, world):
    """24 training and 8 validation clips of 8x16x16, raw; not to be changed."""
    out = tmp_path_factory.mktemp("data") / "sprites"
    write_world(out, world, TRAIN, val_clips=VAL)
    return out


@pytest.fixture
def own_shards(shards, tmp_path):
    """A copy of `shards` that a test may damage."""
    return shutil.copytree(shards, tmp_path / "own")
