"""The pieces of tools/bench_data: all sides are given the same clips, and rates are of what was handed out."""

import dataclasses
import importlib
import itertools
import tarfile

import bench_data
import numpy as np
import pytest
from bench import data_loader, data_material, data_memory, data_peers, data_reading, data_sets
from bench.options import Options

from data_pipelines.loading.loader import make_loader


@pytest.fixture(scope="module", params=["mp4_256", "raw", "latents"])
def material(request):
    return next(m for m in data_material.materials(quick=True) if m.name == request.param)


@pytest.fixture(scope="module")
def folder(material, tmp_path_factory):
    path = tmp_path_factory.mktemp(material.name)
    data_sets.write(material, path)
    return path


def test_all_sides_give_the_same_clips(material, folder):
    config = dataclasses.replace(data_sets.config_of(material, folder / "shards"), shuffle=False)
    with make_loader(config, "train", [config.bucket(8)], seed=0) as loader:
        ours = next(loader)["video"]
    files = data_peers.Files(material, folder / "files")
    tars = next(data_peers.of_tars(material, folder / "tars", 8, 0))
    assert len(files) == material.clips
    for k in range(8):
        np.testing.assert_array_equal(ours[k], files[k].numpy())
        np.testing.assert_array_equal(ours[k], tars[k].numpy())
    assert len(np.unique(ours.reshape(8, -1), axis=0)) == min(8, material.distinct)


def test_tars_are_in_the_order_of_the_set(material, folder):
    (first, *_) = sorted((folder / "tars").iterdir())
    with tarfile.open(first) as tar:
        assert tar.getnames()[:3] == [f"000000.{material.suffix}", "000000.json", f"000001.{material.suffix}"]


def test_windows_are_cut_alike():
    wide = next(m for m in data_material.materials(quick=True) if m.name == "mp4_720")
    (payload,) = itertools.islice(data_sets._payloads(wide), 1)
    clip = data_peers.cut(wide, payload, np.random.default_rng(0))
    assert clip.shape == (*wide.taken, 3)


def test_every_section_can_be_measured():
    for module, _ in bench_data.SECTIONS.values():
        assert callable(importlib.import_module(module).measure)


def test_clips_a_second_leaves_out_what_was_read_ahead(material):
    given = []

    def opened():
        for number in itertools.count():
            given.append(number)
            yield np.zeros((8, 1))

    assert data_loader.clips_a_second(opened, material) > 0
    assert len(given) == data_loader.READ_AHEAD + material.batches


def test_reading_and_memory_are_measured(monkeypatch):
    monkeypatch.setattr(data_reading.os, "sched_setaffinity", lambda *_: None)
    (figure,) = data_reading.measure(Options(quick=True))
    assert figure.ratio > 0
    assert figure.unit == "MB/s"
    (figure,) = data_memory.measure(Options(quick=True, case="latents"))
    assert figure.value >= 0
    assert data_memory.resident() > 50
