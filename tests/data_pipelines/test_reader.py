"""Reading: what is damaged is named, never returned; a substitute is deterministic, counted and bounded."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data_pipelines.shards import manifest as manifests
from data_pipelines.shards import reader
from data_pipelines.shards.reader import ClipSource
from data_pipelines.worlds.sprites.world import SpritesConfig
from data_pipelines.worlds.write import write_world
from vdm_jax.errors import RunError

COUNT = 12


@pytest.fixture
def lossless(tmp_path):
    """A set whose pixels lie uncompressed by the record library, so that a test can aim at one record."""
    write_world(tmp_path / "set", SpritesConfig(frames=2), COUNT, val_clips=2, codec="h264_lossless", fields=())
    return tmp_path / "set"


def shard_path(directory, split="train"):
    return directory / manifests.load(directory).splits[split][0].file


def flip(directory, index):
    """Flips one bit in the middle of the pixels of a training record."""
    path = shard_path(directory)
    data = bytearray(path.read_bytes())
    video = ClipSource(directory, "train").record(index).video
    data[data.index(video) + len(video) // 2] ^= 1
    path.write_bytes(data)


def test_every_clip_as_written(shards, world):
    source = ClipSource(shards, "train")
    assert len(source) == 24
    clip = source[5]
    assert clip["video"].shape == (8, 16, 16, 3)
    assert (clip["index"], clip["fps"], clip["source"], clip["start"]) == (5, world.fps, "sprites", 0.0)
    assert clip["caption"] in reader.captions(shards, "train")


def test_threads_read_what_one_reads(shards):
    source = ClipSource(shards, "train")
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(source.__getitem__, list(range(24)) * 4))
    for i, clip in enumerate(together):
        np.testing.assert_array_equal(clip["video"], source[i % 24]["video"])


def test_reading_imports_no_tensorflow_datasets(shards):
    """It takes a second to import, and two read threads that do so at once have been seen to hang."""
    script = (
        "import sys; from data_pipelines.shards.reader import ClipSource;"
        f"print(ClipSource({str(shards)!r}, 'train')[3]['index'], 'tensorflow_datasets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "False"]


def test_source_can_be_pickled_and_reopened(shards):
    source = ClipSource(shards, "train")
    expected = source[3]["video"]
    source.close()
    for other in (source, pickle.loads(pickle.dumps(source))):
        np.testing.assert_array_equal(other[3]["video"], expected)


@pytest.mark.parametrize("index", [-1, 24])
def test_index_out_of_range(shards, index):
    with pytest.raises(IndexError):
        ClipSource(shards, "train")[index]


def test_flipped_byte_names_shard_and_record(lossless):
    flip(lossless, 7)
    source = ClipSource(lossless, "train")
    with pytest.raises(RunError, match=rf"{shard_path(lossless).name}: record 7 is damaged") as caught:
        source[7]
    assert "\n" not in str(caught.value)
    assert [source[i]["index"] for i in range(COUNT) if i != 7] == [i for i in range(COUNT) if i != 7]


def test_no_flipped_byte_gives_wrong_pixels(own_shards):
    path = shard_path(own_shards)
    whole = path.read_bytes()
    source = ClipSource(own_shards, "train")
    expected = [source.record(i) for i in range(24)]
    raised = 0
    for at in np.random.default_rng(0).integers(200, 24 * 250, size=24):
        data = bytearray(whole)
        data[at] ^= 1 << (at % 8)
        path.write_bytes(data)
        with pytest.raises(RunError, match="differs from its digest"):
            reader.verify(own_shards)
        damaged = ClipSource(own_shards, "train")
        for i in range(24):
            try:
                assert damaged.record(i) == expected[i]
            except RunError:
                raised += 1
    assert raised > 0


def test_substitute_is_the_next_intact_record(lossless):
    for index in (3, 4, COUNT - 1):
        flip(lossless, index)
    source = ClipSource(lossless, "train", on_damage="substitute", damage_budget=3)
    assert [source[i]["index"] for i in range(COUNT)] == [0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10, 0]
    assert sorted(source.damaged) == [3, 4, COUNT - 1]
    assert all("is damaged" in message for message in source.damaged.values())
    backwards = ClipSource(lossless, "train", on_damage="substitute", damage_budget=3)
    assert [backwards[i]["index"] for i in reversed(range(COUNT))] == [0, 10, 9, 8, 7, 6, 5, 5, 5, 2, 1, 0]


def test_budget_is_kept(lossless):
    flip(lossless, 3)
    flip(lossless, 9)
    source = ClipSource(lossless, "train", on_damage="substitute", damage_budget=1)
    for _ in range(3):
        assert source[3]["index"] == 4  # a record counts once, however often it is asked for
    with pytest.raises(RunError, match=r"2 damaged clips, more than damage_budget=1.*record 9"):
        source[9]


def test_substitution_is_logged(lossless, caplog):
    flip(lossless, 3)
    ClipSource(lossless, "train", on_damage="substitute", damage_budget=1)[3]
    assert "record 3 is damaged" in caplog.text


def test_undecodable_clip_counts_as_damage(lossless, monkeypatch):
    def fail(record):
        if record.index == 2:
            raise RunError("bad picture")
        return np.zeros((2, 16, 16, 3), np.uint8)

    monkeypatch.setattr(manifests.schema, "unpack_pixels", fail)
    with pytest.raises(RunError, match=r"clip 2 of 'train' cannot be decoded: bad picture"):
        ClipSource(lossless, "train")[2]
    assert ClipSource(lossless, "train", on_damage="substitute", damage_budget=1)[2]["index"] == 3


@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "grown", "another"])
def test_shards_are_compared_with_the_manifest(own_shards, damage):
    path = shard_path(own_shards)
    if damage == "missing":
        path.unlink()
        message = "No such file or directory, but the manifest lists this shard"
    elif damage == "another":
        other = shard_path(own_shards, "val").read_bytes()
        path.write_bytes(other + bytes(path.stat().st_size - len(other)))
        message = "the manifest says 24; the file is damaged"
    else:
        data = path.read_bytes()
        path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "grown": data + b"\0"}[damage])
        message = "bytes, the manifest says"
    with pytest.raises(RunError, match=message) as caught:
        ClipSource(own_shards, "train")
    assert path.name in str(caught.value)
    ClipSource(own_shards, "val")  # the other split is unharmed
    with pytest.raises(RunError, match=message):
        reader.verify(own_shards)


def test_verify_passes_what_is_whole_and_reports_progress(shards):
    seen = []
    manifest = reader.verify(shards, lambda done, total: seen.append((done, total)))
    assert manifest == manifests.load(shards)
    assert seen == [(1, 2), (2, 2)]


def test_verify_names_the_records(lossless):
    flip(lossless, 7)
    flip(lossless, 9)
    with pytest.raises(RunError, match=r"unreadable records: \[7, 9\]"):
        reader.verify(lossless)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "vall"}, "split: unknown 'vall'; did you mean 'val'"),
        ({"split": "train", "on_damage": "skip"}, "on_damage: unknown 'skip'"),
        ({"split": "train", "damage_budget": -1}, "damage_budget: -1"),
    ],
)
def test_wrong_arguments_are_named(shards, options, message):
    with pytest.raises(ValueError, match=message):
        ClipSource(shards, **options)
