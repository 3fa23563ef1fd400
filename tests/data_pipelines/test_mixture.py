"""Several sets in one run: exact shares that change at exact steps, every clip once an epoch, any number of hosts."""

import collections
import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from data_pipelines.loading.loader import DataConfig, LoaderState, make_loader
from data_pipelines.loading.mixture import Mixture, Shares
from data_pipelines.loading.order import Turns
from data_pipelines.loading.settings import Stage
from data_pipelines.shards.reader import ClipSource
from tests.data_pipelines.pixel_sets import write
from vdm_jax.config import build
from vdm_jax.types import Bucket

FILMS, CARTOONS, PHOTOS = 12, 8, 20


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two sets of clips of 8 frames, and one of images."""
    root = tmp_path_factory.mktemp("sets")
    return {
        "films": write(root / "films", FILMS),
        "cartoons": write(root / "cartoons", CARTOONS),
        "photos": write(root / "photos", PHOTOS, frames=1),
    }


def mixed(sets, names, **fields):
    shape = {"frames": 8, "height": 16, "width": 16} | fields
    return DataConfig(sets[names[0]], **shape, sets={name: sets[name] for name in names})


def opened(config, batch=10, **options):
    options = {"split": "train", "buckets": config.buckets or [config.bucket(batch)], "seed": 5} | options
    return make_loader(config, **options)


def take(config, steps, **options):
    with opened(config, **options) as loader:
        return [next(loader) for _ in range(steps)]


def names_of(batch):
    return [caption.split()[0] for caption in batch["caption"].ravel()]


def counted(batches):
    return collections.Counter(name for batch in batches for name in names_of(batch))


@pytest.mark.parametrize("weights", [(3, 1), (0.7, 0.3), (1, 0), (0, 1), (5, 2), (0.123, 0.877)])
def test_shares_are_met_to_within_one_clip_at_every_position(weights):
    mixture = Mixture([Shares(0, tuple(Fraction(str(w)) for w in weights))], 7, 0, shuffle=False)
    seen = [0, 0]
    for position in range(500):
        number, within = mixture[position]
        assert within == seen[number]
        seen[number] += 1
        for count, weight in zip(seen, weights):
            assert abs(count - (position + 1) * weight / sum(weights)) < 1


def test_shares_of_many_sets_that_change():
    shares = [Shares(0, (Fraction(1), Fraction(1), Fraction(2))), Shares(3, (Fraction(0), Fraction(4), Fraction(1)))]
    mixture = Mixture(shares, 10, 3, shuffle=True)
    found = [mixture[position] for position in range(80)]
    counts = [collections.Counter(number for number, _ in found[a:b]) for a, b in ((0, 30), (30, 80))]
    assert [counts[0][i] for i in range(3)] in ([8, 7, 15], [7, 8, 15])
    assert [counts[1][i] for i in range(3)] == [0, 40, 10]
    for number in range(3):  # each stream without a gap or a repeat, whatever the order within a batch
        within = [place for part, place in found if part == number]
        assert sorted(within) == list(range(len(within)))
    far = 10**12
    assert mixture[far] == Mixture(shares, 10, 3, shuffle=True)[far]


def test_rows_of_a_batch_are_not_tied_to_a_set():
    mixture = Mixture([Shares(0, (Fraction(1), Fraction(1)))], 4, 0, shuffle=True)
    first = [mixture[4 * batch][0] for batch in range(40)]
    assert 8 < sum(first) < 32


def test_weights_are_shares_of_the_batches(sets):
    config = mixed(sets, ["films", "cartoons"], weights={"films": 4, "cartoons": 1})
    for batch in take(config, 12):
        assert counted([batch]) == {"films": 8, "cartoons": 2}


def test_without_weights_every_clip_of_all_sets_comes_once_an_epoch(sets):
    config = mixed(sets, ["films", "cartoons"])
    batches = take(config, 6)
    for epoch in range(3):
        seen = collections.Counter(
            caption for batch in batches[2 * epoch : 2 * epoch + 2] for caption in batch["caption"]
        )
        assert len(seen) == FILMS + CARTOONS
        assert set(seen.values()) == {1}


def test_each_set_comes_once_per_epoch_of_its_own_with_weights_and_buckets(sets):
    """The count: after every batch, in every bucket, no clip of a set came twice more often than another of it."""
    buckets = (Bucket(8, 16, 16, 2, weight=3), Bucket(1, 16, 16, 16))
    weights = {"films": 3, "cartoons": 2, "photos": 5}
    config = mixed(sets, ["films", "cartoons", "photos"], buckets=buckets, weights=weights)
    sizes = {"films": FILMS, "cartoons": CARTOONS, "photos": PHOTOS}
    seen = {(frames, name): [0] * size for frames in (8, 1) for name, size in sizes.items()}
    for batch in take(config, 60):
        for caption in batch["caption"]:
            name, number, *_ = caption.split()
            seen[batch["video"].shape[1], name][int(number)] += 1
        for times in seen.values():
            assert max(times) - min(times) <= 1
    assert max(seen.pop((8, "photos"))) == 0
    assert all(min(times) >= 3 for times in seen.values())


def test_images_come_only_in_buckets_of_one_frame(sets):
    buckets = (Bucket(8, 16, 16, 2), Bucket(1, 16, 16, 16))
    config = mixed(sets, ["films", "photos"], buckets=buckets, weights={"films": 1, "photos": 3})
    for batch in take(config, 10):
        expected = {"films": 2} if batch["video"].shape[1] == 8 else {"films": 4, "photos": 12}
        assert counted([batch]) == expected


def test_a_bucket_may_draw_from_one_set_by_its_name(sets):
    buckets = (Bucket(8, 16, 16, 2), Bucket(1, 16, 16, 16, shards="photos"))
    config = mixed(sets, ["films", "photos"], buckets=buckets, weights={"films": 1, "photos": 0})
    for batch in take(config, 6):
        assert counted([batch]) == ({"films": 2} if batch["video"].shape[1] == 8 else {"photos": 16})


def test_weights_change_at_the_step(sets):
    schedule = (Stage(3, {"films": 0, "cartoons": 1}), Stage(5, {"films": 1, "cartoons": 1}))
    config = mixed(sets, ["films", "cartoons"], weights={"films": 1, "cartoons": 0}, schedule=schedule)
    counts = [counted([batch]) for batch in take(config, 7)]
    assert counts == [{"films": 10}] * 3 + [{"cartoons": 10}] * 2 + [{"films": 5, "cartoons": 5}] * 2


def test_weights_change_at_the_step_in_every_bucket(sets):
    buckets = (Bucket(8, 16, 16, 2, weight=2), Bucket(1, 16, 16, 16))
    schedule = (Stage(7, {"films": 0, "cartoons": 1}),)
    config = mixed(sets, ["films", "cartoons"], buckets=buckets, weights={"films": 1, "cartoons": 0}, schedule=schedule)
    names = [set(names_of(batch)) for batch in take(config, 14)]
    assert names == [{"films"}] * 7 + [{"cartoons"}] * 7


def test_turns_before_a_step_are_those_that_were_taken():
    buckets = (Bucket(8, 16, 16, 2, weight=3), Bucket(1, 16, 16, 16), Bucket(4, 16, 16, 4, weight=2))
    turns, counts = Turns(buckets, 1, shuffle=True), [0, 0, 0]
    for step in range(50):
        assert [turns.before(step, number) for number in range(3)] == counts
        counts[turns[step][0]] += 1


@pytest.mark.parametrize("hosts", [2, 5])
def test_hosts_share_a_mixture_and_resume_with_another_number(sets, hosts):
    schedule = (Stage(4, {"films": 1, "cartoons": 4}),)
    config = mixed(sets, ["films", "cartoons"], weights={"films": 3, "cartoons": 2}, schedule=schedule)
    whole = [batch["caption"].tolist() for batch in take(config, 8)]
    with opened(config, rows=lambda size: np.arange(size).reshape(5, -1)[0]) as first:
        for _ in range(3):
            next(first)
        state = LoaderState.from_json(first.get_state().to_json())
    parts = [
        take(config, 5, start=state, rows=lambda size, h=h: np.arange(size).reshape(hosts, -1)[h]) for h in range(hosts)
    ]
    together = [np.concatenate([part[step]["caption"] for part in parts]).tolist() for step in range(5)]
    assert together == whole[3:]


def test_a_host_reads_its_own_rows_and_no_others(sets, monkeypatch):
    asked, original = [], ClipSource.record
    monkeypatch.setattr(ClipSource, "record", lambda self, index: asked.append(index) or original(self, index))
    config = mixed(sets, ["films", "cartoons"], cache_megabytes=0, prefetch_batches=1, read_threads=1)
    with opened(config, rows=lambda size: np.array([3, 7])) as loader:
        mine = [index for _ in range(6) for index in next(loader)["index"].tolist()]
    assert len(asked) <= 2 * (6 + 3)  # handed out, and read ahead
    assert not collections.Counter(mine) - collections.Counter(asked)


def test_held_out_clips_are_those_of_the_run_s_own_set(sets):
    config = mixed(sets, ["films", "cartoons"])
    batch = take(config, 1, split="val", buckets=[config.bucket(2)], shuffle=False)[0]
    assert batch["caption"].tolist() == ["films 0 moves left", "films 1 moves left"]


@pytest.mark.parametrize(("change", "named"), [
    ({"weights": {"films": 1, "cartoons": 2}}, "shares: "),
    ({"schedule": (Stage(9, {"films": 1, "cartoons": 1}),)}, "shares: "),
])  # fmt: skip
def test_a_state_of_another_mixture_is_refused(sets, change, named):
    config = mixed(sets, ["films", "cartoons"], weights={"films": 3, "cartoons": 2})
    with opened(config) as loader:
        state = LoaderState.from_json(loader.get_state().to_json())
    with pytest.raises(ValueError, match=f"belongs to other data or settings .*{named}"):
        opened(dataclasses.replace(config, **change), start=state)
    alone = dataclasses.replace(config, sets={}, weights={})
    with pytest.raises(ValueError, match=r"sets: \[\[\['cartoons', .* -> None"):
        opened(alone, start=state)


@pytest.mark.parametrize(("fields", "message"), [
    ({"weights": {"filsm": 1}}, r"config.data.weights: unknown 'filsm'; did you mean 'films'"),
    ({"weights": {"films": 1}}, r"config.data.weights.cartoons: missing"),
    ({"weights": {"films": -1, "cartoons": 1}}, r"config.data.weights.films: -1 is not a number of 0 or more"),
    ({"weights": {"films": 0, "cartoons": 0}}, r"config.data.weights: all are 0"),
    ({"schedule": [{"step": 5, "weights": {"flims": 1}}]}, r"config.data.schedule\[0\].weights: unknown 'flims'"),
    ({"schedule": [{"step": 5, "weights": {}}]}, r"config.data.schedule\[0\].weights: empty"),
    ({"schedule": [{"step": 0, "weights": {}}]}, r"config.data.schedule\[0\].step: 0 must be 1 or more"),
    (
        {"schedule": [{"step": 5, "weights": {"films": 1, "cartoons": 1}}] * 2},
        r"config.data.schedule\[1\].step: 5 does not come after 5",
    ),
    ({"sets": {}, "weights": {"films": 1}}, r"config.data.weights: 'films', but data.sets is empty"),
    ({"sets": {"films": ""}}, r"config.data.sets.films: '' is no directory"),
])  # fmt: skip
def test_wrong_mixtures_are_named(fields, message):
    section = {"shards": "x", "frames": 8, "height": 16, "width": 16, "sets": {"films": "a", "cartoons": "b"}}
    with pytest.raises(ValueError, match=message):
        build(DataConfig, section | fields, "config.data")


def test_a_set_that_fills_no_bucket_is_named(sets):
    with pytest.raises(
        ValueError, match=r"data.sets.photos: fills no bucket; data.frames: 8, but the clips of .* have 1"
    ):
        opened(mixed(sets, ["films", "photos"]))
    with pytest.raises(ValueError, match=r"data: nothing falls into 9x16x16 x 10: data.frames: 9, but .* have 8; .* 8"):
        opened(mixed(sets, ["films", "cartoons"], frames=9))


def test_weights_that_leave_a_bucket_empty_are_named(sets):
    buckets = (Bucket(8, 16, 16, 2), Bucket(1, 16, 16, 16))
    config = mixed(sets, ["films", "photos"], buckets=buckets, weights={"films": 0, "photos": 1})
    with pytest.raises(ValueError, match=r"data.weights: 0 for films, and data.buckets\[0\] draws from nothing else"):
        opened(config)


def test_more_hosts_than_rows_is_named(sets):
    with pytest.raises(ValueError, match="batch_size: 10, which leaves no clip for some of the hosts"):
        opened(mixed(sets, ["films"]), rows=lambda size: np.arange(size)[12:])
