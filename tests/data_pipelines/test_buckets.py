"""Buckets: batches of one shape at a time, in turns that follow from (seed, step) alone, resumed exactly."""

import collections
import dataclasses

import numpy as np
import pytest

from data_pipelines.loading.loader import DataConfig, LoaderState, make_loader
from data_pipelines.loading.order import Turns
from vdm_jax.config import build
from vdm_jax.types import Bucket

RECORDS = 24
BUCKETS = (
    Bucket(8, 16, 16, 2, weight=2),
    Bucket(1, 16, 16, 16),
    Bucket(8, 8, 8, 8),
    Bucket(8, 16, 16, 2, pack=(5, 2, 1)),
)


@pytest.fixture
def config(shards):
    return DataConfig(str(shards), 8, 16, 16, buckets=BUCKETS, random_start=True)


def opened(config, **options):
    options = {"split": "train", "buckets": config.buckets, "seed": 0} | options
    return make_loader(config, **options)


def take(config, steps, **options):
    with opened(config, **options) as loader:
        return [next(loader) for _ in range(steps)]


def number(batch) -> int:
    """Which bucket a batch is of."""
    if "segments" in batch:
        return 3
    return [(b.batch, b.frames, b.height, b.width, 3) for b in BUCKETS].index(batch["video"].shape)


def same(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_each_round_holds_every_bucket_by_its_weight(config):
    order = [number(batch) for batch in take(config, 25)]
    for begin in range(0, 25, 5):
        assert collections.Counter(order[begin : begin + 5]) == {0: 2, 1: 1, 2: 1, 3: 1}
    rounds = {tuple(order[begin : begin + 5]) for begin in range(0, 25, 5)}
    assert len(rounds) > 1
    assert order != [number(batch) for batch in take(config, 25, seed=1)]
    in_turn = [number(batch) for batch in take(dataclasses.replace(config, shuffle=False), 10)]
    assert in_turn == [0, 0, 1, 2, 3] * 2


def test_each_bucket_goes_through_all_clips_once_an_epoch_in_its_own_order(config):
    seen = collections.defaultdict(list)
    for batch in take(config, 5 * RECORDS):
        seen[number(batch)] += batch["index"].ravel().tolist()
    epochs = {bucket: indices[:RECORDS] for bucket, indices in seen.items()}
    assert all(sorted(indices) == list(range(RECORDS)) for indices in epochs.values())
    assert len({tuple(indices) for indices in epochs.values()}) == len(BUCKETS)


def test_turns_count_without_going_through_those_before():
    turns = Turns(BUCKETS, seed=3, shuffle=True)
    counts = [0] * len(BUCKETS)
    for step in range(200):
        bucket, batch = turns[step]
        assert batch == counts[bucket]
        counts[bucket] += 1
    for step in range(10**12, 10**12 + 5):
        bucket, batch = turns[step]
        assert batch // BUCKETS[bucket].weight == step // 5


@pytest.mark.parametrize("step", [1, 4, 11])
def test_resume_is_exact_in_the_middle_of_a_round(config, step):
    whole = take(config, 16)
    with opened(config) as loader:
        for _ in range(step):
            next(loader)
        state = LoaderState.from_json(loader.get_state().to_json())
    same(take(config, 16 - step, start=state), whole[step:])


@pytest.mark.parametrize("hosts", [2])
def test_hosts_share_each_bucket(config, hosts):
    whole = take(config, 10)
    parts = [take(config, 10, rows=lambda size, h=h: np.arange(size).reshape(hosts, -1)[h]) for h in range(hosts)]
    together = [{key: np.concatenate([p[step][key] for p in parts]) for key in whole[step]} for step in range(10)]
    same(together, whole)


def test_examples_are_one_batch_of_each(config):
    with opened(config) as loader:
        before = loader.get_state()
        assert [number(batch) for batch in loader.examples()] == [0, 1, 2, 3]
        assert loader.get_state() == before


def test_a_bucket_may_read_another_set(config, own_shards):
    mixed = (BUCKETS[0], Bucket(1, 16, 16, 16, shards=str(own_shards)))
    batches = take(dataclasses.replace(config, buckets=mixed, on_damage="raise"), 6, buckets=mixed)
    assert sorted(number(batch) for batch in batches) == [0, 0, 0, 0, 1, 1]


def test_a_state_of_other_buckets_is_refused(config):
    with opened(config) as loader:
        state = loader.get_state()
    fewer = dataclasses.replace(config, buckets=BUCKETS[:2])
    with pytest.raises(ValueError, match=r"batches: \['8x16x16 x 2', '1x16x16 x 16', .*'5\+2\+1x16x16 x 2'\] -> "):
        opened(fewer, start=state)


@pytest.mark.parametrize(("bucket", "message"), [
    ({"frames": 9}, r"data.buckets\[1\].frames: 9, but the clips of .* have 8"),
    ({"height": 12, "width": 12}, r"data.buckets\[1\].height: 12, but .* have 16"),
    ({"batch": 25}, r"data.buckets\[1\].batch: 25, but split 'train' has only 24 clips"),
    ({"batch": 9, "pack": (5, 2, 1)}, r"data.buckets\[1\].batch: 27, but split 'train' has only 24 clips"),
])  # fmt: skip
def test_a_bucket_that_the_data_cannot_fill_is_named(config, bucket, message):
    whole = Bucket(**{"frames": 8, "height": 16, "width": 16, "batch": 2, **bucket})
    config = dataclasses.replace(config, buckets=(BUCKETS[0], whole))
    with pytest.raises(ValueError, match=message):
        opened(config)


@pytest.mark.parametrize(("fields", "message"), [
    ({"frames": 0}, r"config.data.buckets\[0\].frames: 0 must be 1 or more"),
    ({"pack": (5, 2)}, r"config.data.buckets\[0\].pack: \(5, 2\) must be frame counts that add up to frames=8"),
    ({"weigth": 2}, r"config.data.buckets\[0\].weigth: unknown 'weigth'; did you mean 'weight'"),
])  # fmt: skip
def test_a_wrong_bucket_is_named(fields, message):
    section = {"shards": "x", "frames": 8, "height": 16, "width": 16}
    bucket = {"frames": 8, "height": 16, "width": 16, "batch": 2, **fields}
    with pytest.raises(ValueError, match=message):
        build(DataConfig, {**section, "buckets": [bucket]}, "config.data")


def test_order_is_that_of_the_seed_whatever_is_read_ahead(config):
    slow = dataclasses.replace(config, cache_megabytes=0, read_threads=4, prefetch_batches=1)
    same(take(slow, 12), take(config, 12))
