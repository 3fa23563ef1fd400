"""The loader: each clip once per epoch, one order for any number of hosts, resume exact at every step."""

import dataclasses
import threading

import numpy as np
import pytest

from data_pipelines.loading import loader as loading
from data_pipelines.loading.loader import DataConfig, LoaderState, make_loader
from data_pipelines.shards import manifest as manifests
from data_pipelines.shards.reader import ClipSource
from vdm_jax import config as configs
from vdm_jax.errors import RunError

RECORDS = 24


@pytest.fixture
def config(shards):
    return DataConfig(shards=str(shards), frames=8, height=16, width=16)


def run(config, steps, batch_size=8, seed=0, split="train", **options):
    """The first batches, and the loader closed."""
    with opened(config, split, batch_size, seed, **options) as loader:
        return [next(loader) for _ in range(steps)]


def opened(config, split, batch_size, seed, **options):
    """The loader of batches of the config's own shape."""
    return make_loader(config, split, [config.bucket(batch_size)], seed, **options)


def rows_of(host, hosts):
    """What one of several hosts loads: neighbouring rows, as the devices of a mesh hold them."""
    return lambda size: np.arange(size).reshape(hosts, -1)[host]


def indices(batches):
    return [batch["index"].tolist() for batch in batches]


def assert_equal(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("batch_size", [8, 5, 24])
def test_each_clip_once_per_epoch(config, batch_size):
    epochs = 5
    flat = np.concatenate(indices(run(config, RECORDS * epochs // batch_size, batch_size)))
    for epoch in range(epochs - 1):
        assert sorted(flat[epoch * RECORDS : (epoch + 1) * RECORDS]) == list(range(RECORDS))


def test_order_changes_with_epoch_and_seed_and_nothing_else(config):
    first = indices(run(config, 6))
    assert first == indices(run(dataclasses.replace(config, cache_megabytes=0, read_threads=4), 6))
    assert first[:3] != first[3:]
    assert first != indices(run(config, 6, seed=1))


def test_without_shuffle_in_stored_order(config):
    expected = [list(range(8 * k, 8 * k + 8)) for k in range(3)] * 2
    assert indices(run(config, 6, shuffle=False)) == expected
    assert indices(run(dataclasses.replace(config, shuffle=False), 6)) == expected
    assert indices(run(dataclasses.replace(config, shuffle=False), 6, shuffle=True)) != expected


def test_cache_changes_nothing(config):
    options = {"random_start": True, "flip": True, "frames": 5}
    cached = run(dataclasses.replace(config, **options), 9)
    assert_equal(cached, run(dataclasses.replace(config, **options, cache_megabytes=0), 9))


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_global_batch_does_not_depend_on_the_hosts(config, hosts):
    config = dataclasses.replace(config, random_start=True, frames=3)
    alone = run(config, 7)
    parts = [run(config, 7, rows=rows_of(h, hosts)) for h in range(hosts)]
    together = [{key: np.concatenate([part[step][key] for part in parts]) for key in alone[0]} for step in range(7)]
    assert_equal(together, alone)


def test_hosts_may_load_any_rows(config):
    rows = np.array([1, 2, 6])
    for part, whole in zip(run(config, 7, rows=lambda size: rows), run(config, 7)):
        assert part["index"].tolist() == whole["index"][rows].tolist()


@pytest.mark.parametrize("cache_megabytes", [0, 512])
def test_resume_is_exact_at_every_step(config, cache_megabytes):
    config = dataclasses.replace(config, cache_megabytes=cache_megabytes, random_start=True, flip=True, frames=4)
    with opened(config, "train", 5, 3) as loader:
        states, batches = [loader.get_state()], []
        for _ in range(12):
            batches.append(next(loader))
            states.append(loader.get_state())
        for step in (11, 0, 7, 12):
            loader.set_state(states[step])
            assert_equal([next(loader) for _ in range(12 - step)], batches[step:])
    for step in range(12):
        state = LoaderState.from_json(states[step].to_json())
        assert_equal(run(config, 2, 5, 3, start=state), (batches + run(config, 1, 5, 3, start=12))[step : step + 2])


def test_state_is_one_number_for_any_number_of_hosts(config):
    with opened(config, "train", 8, 0) as alone:
        for _ in range(5):
            next(alone)
        state = alone.get_state()
        expected = next(alone)["index"].tolist()
    assert state.next_index == 5
    parts = [run(config, 1, rows=rows_of(h, 4), start=state)[0] for h in range(4)]
    assert np.concatenate([p["index"] for p in parts]).tolist() == expected


def test_far_resume_needs_no_replay(config):
    far = indices(run(config, 3, start=3 * 10**9))
    assert sorted(np.concatenate(far)) == list(range(RECORDS))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"batch_size": 4}, r"batches: \['8x16x16 x 8'\] -> \['8x16x16 x 4'\]"),
        ({"split": "val"}, "split: 'train' -> 'val'"),
        ({"shuffle": False}, "shuffle: True -> False"),
    ],
)
def test_state_of_other_settings_is_refused(config, change, named):
    with opened(config, "train", 8, 0) as loader:
        state = loader.get_state()
    options = {"split": "train", "batch_size": 8, "seed": 0, **change}
    with pytest.raises(ValueError, match=named):
        opened(config, **options, start=state)
    with opened(config, **options) as other, pytest.raises(ValueError, match=named):
        other.set_state(state)


def test_state_of_other_data_is_refused(config, own_shards):
    with opened(config, "train", 8, 0) as loader:
        state = loader.get_state()
    moved = dataclasses.replace(config, shards=str(own_shards))
    run(moved, 1, start=state)  # the same data elsewhere is the same data
    manifest = dataclasses.replace(manifests.load(own_shards), settings={"other": 1})
    (own_shards / manifests.FILE_NAME).write_text(manifests.dump(manifest), "utf-8")
    with pytest.raises(ValueError, match="data: .*manifests: "):
        opened(moved, "train", 8, 0, start=state)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"next_index": "x", "fingerprint": {}}'])
def test_damaged_state_is_refused(text):
    with pytest.raises(RunError, match="loader state: damaged"):
        LoaderState.from_json(text)


def test_starts_and_flips_cover_what_they_may(config, shards):
    config = dataclasses.replace(config, random_start=True, flip=True, frames=6, shuffle=False)
    source = ClipSource(shards, "train")
    seen = set()
    for batch in run(config, 30):
        for video, index in zip(batch["video"], batch["index"]):
            whole = source[int(index)]["video"]
            seen |= {
                (start, flip)
                for start in range(3)
                for flip in (1, -1)
                if np.array_equal(video, whole[start : start + 6, :, ::flip])
            }
    assert seen == {(start, flip) for start in range(3) for flip in (1, -1)}


def test_frames_are_cut_from_the_start_by_default(config, shards):
    batch = run(dataclasses.replace(config, frames=2), 1, shuffle=False)[0]
    source = ClipSource(shards, "train")
    np.testing.assert_array_equal(batch["video"], np.stack([source[i]["video"][:2] for i in range(8)]))


def test_tokenizer_runs_on_the_captions_of_the_batch(config, shards):
    def tokenize(captions):
        return {"text_ids": np.array([[len(c)] for c in captions], np.int32)}

    batch = run(config, 1, tokenizer_fn=tokenize)[0]
    source = ClipSource(shards, "train")
    assert batch["text_ids"][:, 0].tolist() == [len(source[int(i)]["caption"]) for i in batch["index"]]


def test_little_is_read_ahead(config, monkeypatch):
    asked = []
    original = ClipSource.__getitem__
    monkeypatch.setattr(ClipSource, "__getitem__", lambda self, i: asked.append(i) or original(self, i))
    config = dataclasses.replace(config, cache_megabytes=0, read_threads=2, prefetch_batches=3)
    with opened(config, "train", 8, 0) as loader:
        for _ in range(4):
            next(loader)
    assert len(asked) <= (4 + 3 + 2) * 8  # handed out, waiting, in the threads


def test_waiting_is_counted(config):
    with opened(config, "train", 8, 0) as loader:
        assert loader.wait_seconds == 0.0
        next(loader)
        waited = loader.wait_seconds
        assert waited > 0
        next(loader)
        assert loader.wait_seconds > waited


def test_closing_ends_the_threads(config):
    before = threading.active_count()
    run(config, 3)
    for thread in threading.enumerate()[before:]:
        thread.join(60)  # told to stop, it may still be at its last batch
    assert threading.active_count() <= before


def test_damage_is_raised_or_replaced(config, own_shards, monkeypatch):
    original = ClipSource.record

    def damaged(self, index):
        if index == 6:
            raise RunError("some shard: record 6 is damaged")
        return original(self, index)

    monkeypatch.setattr(ClipSource, "record", damaged)
    for cache_megabytes in (0, 512):
        strict = dataclasses.replace(config, cache_megabytes=cache_megabytes)
        with pytest.raises(RunError, match="record 6 is damaged"):
            run(strict, 3, shuffle=False)
        lenient = dataclasses.replace(strict, on_damage="substitute", damage_budget=1)
        with opened(lenient, "train", 8, 0, shuffle=False) as loader:
            assert next(loader)["index"].tolist() == [0, 1, 2, 3, 4, 5, 7, 7]
            assert [list(clips) for clips in loader.damaged.values()] == [[6]]


def test_examples_are_the_first_batches_and_move_nothing(config):
    expected = run(config, 3)
    with opened(config, "train", 8, 0) as loader:
        next(loader)
        assert_equal(loader.examples(), expected[:1])
        assert_equal([next(loader), next(loader)], expected[1:])


def test_missing_shard_is_found_before_anything_starts(config, own_shards):
    next(own_shards.glob("*train*")).unlink()
    with pytest.raises(RunError, match="the manifest lists this shard"):
        opened(dataclasses.replace(config, shards=str(own_shards)), "train", 8, 0)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"frames": 9}, {}, r"data\.frames: 9, but the clips of .* have 8"),
        ({"height": 32}, {}, r"data\.height: 32, but the clips of .* have 16"),
        ({}, {"batch_size": 25}, "batch_size: 25, but split 'train' has only 24"),
        ({}, {"batch_size": 0}, "batch: 0 must be 1 or more"),
        ({}, {"split": "test"}, "split: unknown 'test'"),
        ({}, {"start": -1}, "start: -1"),
        ({"shards": "nowhere"}, {}, "shards: nowhere is not a directory"),
    ],
)
def test_wrong_requests_are_named_before_anything_starts(config, changes, options, message, monkeypatch):
    monkeypatch.setattr(loading, "Loader", None)
    options = {"split": "train", "batch_size": 8, "seed": 0, **options}
    with pytest.raises(ValueError, match=message):
        opened(dataclasses.replace(config, **changes), **options)


@pytest.mark.parametrize(
    ("field", "value"),
    [("frames", 0), ("read_threads", 0), ("prefetch_batches", 0), ("cache_megabytes", -1), ("on_damage", "ignore")],
)
def test_wrong_config_is_named(field, value):
    section = {"shards": "x", "frames": 8, "height": 16, "width": 16, field: value}
    with pytest.raises(ValueError, match=f"config.data.{field}: "):
        configs.build(DataConfig, section, "config.data")
