"""Rates and sizes: which clips fill a bucket, which of their frames and pixels it takes, and which are left out."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.loading.fit import TOO_SHORT, TOO_SLOW, cover, fit, numbers, ratio, span
from data_pipelines.loading.loader import DataConfig, LoaderState, make_loader
from data_pipelines.loading.plan import usable_clips
from data_pipelines.shards.reader import ClipSource
from data_pipelines.shards.schema import ClipRecord
from tests.data_pipelines.pixel_sets import pixels, write
from vdm_jax.config import build
from vdm_jax.errors import RunError
from vdm_jax.types import Bucket

RATES = (8.0, 16.0, 24.0, 29.97)  # of clips 0, 1, 2, 3, 0 + 4 ...


@pytest.fixture(scope="module")
def mixed_rates(tmp_path_factory):
    """12 clips of 24 frames of 16x24, at four rates."""
    return write(tmp_path_factory.mktemp("fit") / "rates", frames=24, width=24, rates=RATES)


def opened(config, batch=4, **options):
    options = {"split": "train", "buckets": config.buckets or [config.bucket(batch)], "seed": 0} | options
    return make_loader(config, **options)


def take(config, steps, **options):
    with opened(config, **options) as loader:
        return [next(loader) for _ in range(steps)]


def frames_of(video):
    """The number of each frame of a clip that `pixel_sets.pixels` made."""
    return video[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(("stored", "asked", "step", "taken"), [
    (8, 0, 1, [0, 1, 2, 3, 4]),
    (8, 8, 1, [0, 1, 2, 3, 4]),
    (24, 8, 3, [0, 3, 6, 9, 12]),
    (29.97, 10, 3, [0, 3, 6, 9, 12]),
    (23.976, 24, 1, [0, 1, 2, 3, 4]),
    (24, 10, 2.4, [0, 2, 4, 7, 9]),
    (12, 8, 1.5, [0, 1, 3, 4, 6]),
])  # fmt: skip
def test_frames_of_a_rate(stored, asked, step, taken):
    assert ratio(np.float32(stored), asked) == pytest.approx(step, rel=1e-6)
    found = numbers(7, 5, ratio(np.float32(stored), asked))
    assert found.tolist() == [7 + n for n in taken]
    assert span(5, ratio(stored, asked)) == found[-1] - found[0] + 1


def test_pictures_are_those_on_screen_at_the_time_of_each_frame():
    """Within a frame of the source, at any two rates."""
    rng = np.random.default_rng(0)
    for stored, asked in zip(rng.uniform(8, 60, 200), rng.uniform(1, 30, 200)):
        step = ratio(stored, asked)
        if step >= 1:
            shown = numbers(0, 30, step) / stored
            rate = stored / step  # what the batch says
            assert abs(rate / asked - 1) <= 0.011
            late = np.arange(30) / rate - shown
            assert late.min() > -1e-3
            assert late.max() < 1 / stored


def test_clips_that_cannot_give_a_bucket_are_told_apart():
    found = fit(Bucket(8, 16, 16, 1), 12.0, 16, np.array([8, 12, 24, 30, 12.0], np.float32), 5)
    assert found.usable.tolist() == [1, 2, 4]
    assert found.unusable == {0: TOO_SLOW, 3: TOO_SHORT}
    whole = fit(Bucket(8, 16, 16, 1), 0.0, 16, None, 5)
    assert whole.usable.tolist() == [0, 1, 2, 3, 4]
    assert whole.digest() != found.digest()


def test_a_batch_has_the_rate_that_is_asked_for(mixed_rates):
    config = DataConfig(mixed_rates, 7, 16, 24, fps=8.0)
    seen = {}
    for batch in take(config, 3):
        assert batch["fps"].dtype == np.float32
        for video, fps, index in zip(batch["video"], batch["fps"], batch["index"]):
            seen[int(index)] = fps
            step = RATES[index % 4] / 8
            assert frames_of(video) == [int(k * step) for k in range(7)]
    assert sorted(seen) == list(range(12))
    assert all(fps == pytest.approx(8) for fps in seen.values())


def test_without_a_rate_clips_are_as_they_are(mixed_rates):
    batch = take(DataConfig(mixed_rates, 8, 16, 24), 1, shuffle=False)[0]
    assert batch["fps"].tolist() == [np.float32(rate) for rate in RATES]
    assert all(frames_of(video) == list(range(8)) for video in batch["video"])


def test_random_starts_reach_the_last_frame_and_no_further(mixed_rates):
    config = DataConfig(mixed_rates, 3, 16, 24, fps=8.0, random_start=True)
    first, last = 99, 0
    for batch in take(config, 30):
        for video, index in zip(batch["video"], batch["index"]):
            if index % 4 == 2:  # every third frame of 24: 0 to 17 may be the first
                a, b, c = frames_of(video)
                assert (b - a, c - b) == (3, 3)
                first, last = min(first, a), max(last, a)
    assert first <= 2
    assert 15 <= last <= 17


def test_unusable_clips_are_an_error_or_counted_and_left_out(mixed_rates):
    config = DataConfig(mixed_rates, 8, 16, 24, fps=12.0)
    message = r"data.max_unusable: 0, but 3 clips fill no bucket: 3 of .*rates too slow for 12 fps \(0, 4, 8\)"
    with pytest.raises(ValueError, match=message):
        opened(config)
    allowed = dataclasses.replace(config, max_unusable=3)
    with opened(allowed) as loader:
        assert loader.unusable == {mixed_rates: {0: TOO_SLOW, 4: TOO_SLOW, 8: TOO_SLOW}}
        seen = np.concatenate([next(loader)["index"] for _ in range(9)])
    assert sorted(seen.tolist()) == sorted([1, 2, 3, 5, 6, 7, 9, 10, 11] * 4)
    for epoch in range(4):
        assert len(set(seen[9 * epoch : 9 * epoch + 9].tolist())) == 9


def test_usable_clips_are_counted_before_anything_is_loaded(mixed_rates):
    config = DataConfig(mixed_rates, 8, 16, 24, fps=12.0)
    assert [usable_clips(config, split) for split in ("train", "val")] == [9, 1]
    assert usable_clips(dataclasses.replace(config, fps=0.0), "val") == 2


def test_a_clip_that_fills_some_bucket_is_usable(mixed_rates):
    buckets = (Bucket(12, 16, 24, 2, fps=24.0), Bucket(4, 16, 24, 6, fps=8.0))
    config = DataConfig(mixed_rates, 12, 16, 24, buckets=buckets)
    with opened(config) as loader:
        assert loader.unusable == {}
        seen = [next(loader) for _ in range(8)]
    fast = {int(i) for batch in seen if batch["video"].shape[1] == 12 for i in batch["index"]}
    slow = {int(i) for batch in seen if batch["video"].shape[1] == 4 for i in batch["index"]}
    assert fast <= {2, 3, 6, 7, 10, 11}
    assert slow == set(range(12))


def test_what_fits_is_part_of_the_fingerprint(mixed_rates, tmp_path):
    config = DataConfig(mixed_rates, 8, 16, 24, fps=12.0, max_unusable=3)
    with opened(config) as loader:
        state = LoaderState.from_json(loader.get_state().to_json())
    with opened(config, start=state):
        pass
    with pytest.raises(
        ValueError, match=r"batches: \['8x16x24 x 4 at 12 fps'\] -> \['8x16x24 x 4 at 8 fps'\]; clips: "
    ):
        opened(dataclasses.replace(config, fps=8.0), start=state)


@pytest.mark.parametrize(("frames", "fps"), [(8, 60.0), (24, 14.0)])
def test_buckets_that_nothing_falls_into_are_named(mixed_rates, frames, fps):
    config = DataConfig(mixed_rates, frames, 16, 24, fps=fps, max_unusable=12)
    message = rf"data: nothing falls into {frames}x16x24 x 4 at {fps:g} fps: .*rates has 8 to 29.97 fps"
    with pytest.raises(ValueError, match=message):
        opened(config)


@pytest.mark.parametrize(("stored", "asked", "size"), [
    ((720, 1280), (256, 256), (256, 455)),
    ((1280, 720), (256, 256), (455, 256)),
    ((16, 24), (16, 24), (16, 24)),
    ((16, 24), (8, 8), (8, 12)),
    ((17, 23), (5, 7), (5, 7)),
])  # fmt: skip
def test_sizes_just_cover_what_is_asked_for(stored, asked, size):
    assert cover(stored, asked) == size


@pytest.mark.parametrize("codec", ["raw", "h264_lossless", "h264"])
def test_covering_keeps_proportions_and_crops(tmp_path, codec):
    def ramp(index, frames, height, width):
        video = pixels(index, frames, height, width)
        video[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
        return video

    shards = write(tmp_path / "set", frames=2, height=32, width=64, codec=codec, video=ramp)
    config = DataConfig(shards, 2, 16, 16, resize="cover")
    video = take(config, 1)[0]["video"].astype(int)
    down, right = video[0, 0, :, 8, 1], video[0, 0, 8, :, 2]
    assert abs(down[0] - 4) < 12
    assert abs(down[-1] - 251) < 12
    assert abs(right[0] - 255 * 8.5 / 32) < 14  # the middle half of the width
    assert abs(right[-1] - 255 * 23.5 / 32) < 14
    random = np.concatenate([b["video"][..., 8, 0, 2] for b in take(dataclasses.replace(config, crop="random"), 9)])
    assert random.min() < 30
    assert random.max() > 100


def test_means_of_whole_blocks_are_the_default(mixed_rates):
    with pytest.raises(ValueError, match=r"data.height: 10, but the clips of .* have 16 .*data.resize='cover' shrinks"):
        opened(DataConfig(mixed_rates, 8, 10, 24))
    with pytest.raises(ValueError, match=r"data.height: 32, but the clips of .* have 16$"):
        opened(DataConfig(mixed_rates, 8, 32, 24, resize="cover"))


@pytest.mark.parametrize("codec", ["raw", "h264"])
def test_only_the_window_is_decoded_and_it_is_the_same(tmp_path, codec):
    shards = write(tmp_path / "set", clips=4, frames=40, codec=codec)
    config = DataConfig(shards, 5, 16, 16, fps=4.0, random_start=True, cache_megabytes=0)
    cached = dataclasses.replace(config, cache_megabytes=64)
    for window, whole in zip(take(config, 4), take(cached, 4), strict=True):
        for key in window:
            np.testing.assert_array_equal(window[key], whole[key])


def test_flips_turn_pictures_and_captions(tmp_path):
    shards = write(tmp_path / "set", clips=8)
    flipped = 0
    for batch in take(DataConfig(shards, 8, 16, 16, flip=True), 8):
        for video, caption in zip(batch["video"], batch["caption"]):
            mirrored = video[0, 0, 0, 2] > video[0, 0, -1, 2]
            assert caption.endswith("moves right" if mirrored else "moves left")
            flipped += mirrored
    assert 8 < flipped < 24


def test_captions_are_drawn_from_seed_and_position(tmp_path):
    labels = {"captions": [["first", 0.75], ["second moves left", 0.25]]}
    shards = write(tmp_path / "set", clips=8, labels=labels)
    config = DataConfig(shards, 8, 16, 16)
    texts = np.concatenate([batch["caption"] for batch in take(config, 25)])
    assert set(texts) == {"first", "second moves left"}
    assert 0.65 < np.mean(texts == "first") < 0.85
    np.testing.assert_array_equal(texts, np.concatenate([b["caption"] for b in take(config, 25)]))
    again = np.concatenate([batch["caption"] for batch in take(config, 25, seed=1)])
    assert (again != texts).any()


def test_a_clip_that_takes_the_place_of_another_has_the_rate_too(mixed_rates, monkeypatch):
    """After a damaged clip comes the next that fills the bucket."""
    original = ClipSource.record

    def damaged(self, index) -> ClipRecord:
        if index == 3:
            raise RunError("record 3 is damaged")
        return original(self, index)

    config = DataConfig(mixed_rates, 8, 16, 24, fps=12.0, max_unusable=4, on_damage="substitute", damage_budget=1)
    with opened(config, shuffle=False) as loader:
        monkeypatch.setattr(ClipSource, "record", damaged)
        assert next(loader)["index"].tolist() == [1, 2, 5, 5]


@pytest.mark.parametrize(("fields", "message"), [
    ({"fps": -1.0}, "config.data.fps: -1.0 must be a rate"),
    ({"fps": float("nan")}, "config.data.fps: nan must be a rate"),
    ({"resize": "covre"}, "config.data.resize: unknown 'covre'; did you mean 'cover'"),
    ({"crop": "center"}, "config.data.crop: unknown 'center'; did you mean 'centre'"),
    ({"max_unusable": -1}, "config.data.max_unusable: -1 is not at least 0"),
    ({"workers": -1}, "config.data.workers: -1 is not at least 0"),
    (
        {"buckets": [{"frames": 8, "height": 16, "width": 16, "batch": 1, "fps": -2.0}]},
        r"config.data.buckets\[0\].fps: -2.0 must be a rate",
    ),
])  # fmt: skip
def test_wrong_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        build(DataConfig, {"shards": "x", "frames": 8, "height": 16, "width": 16} | fields, "config.data")
