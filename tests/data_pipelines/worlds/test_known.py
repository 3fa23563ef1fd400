"""What holds of every world in the table."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines.worlds import panels
from data_pipelines.worlds.known import WORLDS, world_of
from data_pipelines.worlds.world import FIELDS

SMALL = {"height": 16, "width": 24, "frames": 8}


def small(name):
    """The smallest config in which everything can happen."""
    return WORLDS[name].config(**SMALL)


def digest(example):
    """Of everything that a clip is."""
    total = hashlib.sha256(example.video.tobytes())
    total.update(json.dumps([example.caption, example.attributes], sort_keys=True).encode())
    for name in sorted(example.fields):
        total.update(name.encode() + example.fields[name].tobytes())
    return total.hexdigest()


def test_worlds_are_found_by_name_and_by_config():
    for name, world in WORLDS.items():
        assert (world.name, world_of(world.config()).name) == (name, name)
        assert world.summary == world.summary.strip().rstrip(".")


@pytest.mark.parametrize("name", WORLDS)
def test_size_is_that_of_the_config_and_captions_are_words(name):
    for size in ((16, 24, 8), (128, 48, 12)):
        made = WORLDS[name].clip(WORLDS[name].config(**dict(zip(("height", "width", "frames"), size))), 1, 0)
        assert made.video.shape == (size[2], *size[:2], 3)
        assert made.caption.strip() == made.caption != ""
        assert made.video.max() > made.video.min()
        assert set(made.fields) <= set(FIELDS)


@pytest.mark.parametrize("name", WORLDS)
def test_fields_are_the_same_for_every_clip(name):
    world, config = WORLDS[name], small(name)
    stored = [
        {k: FIELDS[k].stored(e.video.shape) for k in e.fields} for e in (world.clip(config, i, 0) for i in range(6))
    ]
    assert all(list(one) == list(stored[0]) and one == stored[0] for one in stored)


@pytest.mark.parametrize("name", WORLDS)
def test_seeds_and_indices_make_different_clips(name):
    world, config = WORLDS[name], small(name)
    made = [world.clip(config, index, seed).video.tobytes() for index in range(3) for seed in (0, 1)]
    assert len(set(made)) == 6


@pytest.mark.parametrize("name", WORLDS)
def test_everything_known_can_be_drawn(name):
    for label, drawn in panels.panels(WORLDS[name].clip(small(name), 2, 0)).items():
        assert drawn.dtype == np.uint8, label
        assert drawn.shape[0] == 8, label
        assert drawn.shape[-1] == 3, label


def test_a_clip_is_the_same_in_every_process():
    code = """
from tests.data_pipelines.worlds.test_known import WORLDS, digest, small
print([digest(WORLDS[n].clip(small(n), 3, 1)) for n in reversed(WORLDS)])
"""
    here = [digest(WORLDS[name].clip(small(name), 3, 1)) for name in reversed(WORLDS)]
    for seed in ("7",):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment
        )
        assert done.stdout.strip() == str(here), done.stderr
