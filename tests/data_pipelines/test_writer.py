"""Writing: the whole set or nothing, readable by a stock TFDS, the same bytes for the same clips."""

import dataclasses
import errno
import fcntl
import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines.shards import manifest as manifests
from data_pipelines.shards import writer as writing
from data_pipelines.shards.manifest import ClipSpec
from data_pipelines.shards.reader import ClipSource
from data_pipelines.shards.schema import ClipRecord
from data_pipelines.shards.writer import open_writer
from vdm_jax.errors import RunError

SPEC = ClipSpec(2, 8, 8, "raw")


def clip(k, split="train", **changes):
    pixels = np.full((2, 8, 8, 3), k, np.uint8)
    made = ClipRecord(pixels.tobytes(), "raw", f"clip {k}", 8.0, 2, 8, 8, "test", 0.0, split, 0)
    return dataclasses.replace(made, **changes)


def write(out, count=5, **options):
    with open_writer(out, SPEC, **options) as writer:
        for k in range(count):
            writer.add(clip(k))
        writer.add(clip(100, "val"))
        return writer.finish({"by": "test"}, {"count": count})


def everything_in(folder):
    return sorted(p.name for p in folder.iterdir())


def test_reads_back_in_order(tmp_path):
    manifest = write(tmp_path / "set")
    assert manifests.load(tmp_path / "set") == manifest
    assert {s: manifest.records(s) for s in manifest.splits} == {"train": 5, "val": 1}
    for split, first, count in (("train", 0, 5), ("val", 100, 1)):
        source = ClipSource(tmp_path / "set", split)
        clips = [source[i] for i in range(len(source))]
        assert [c["index"] for c in clips] == list(range(count))
        assert [c["video"][0, 0, 0, 0] for c in clips] == list(range(first, first + count))
        assert [c["caption"] for c in clips] == [f"clip {first + k}" for k in range(count)]
    assert everything_in(tmp_path) == ["set"]


def test_many_shards_are_one_sequence(tmp_path):
    manifest = write(tmp_path / "set", 7, shard_bytes=1000)
    shards = manifest.splits["train"]
    assert len(shards) > 2
    assert [s.file[-14:] for s in shards] == [f"{k:05d}-of-{len(shards):05d}" for k in range(len(shards))]
    source = ClipSource(tmp_path / "set", "train")
    assert [source[i]["caption"] for i in range(7)] == [f"clip {k}" for k in range(7)]


def test_stock_tfds_opens_it_without_tensorflow(shards):
    script = (
        "import sys, tensorflow_datasets as tfds\n"
        f"builder = tfds.builder_from_directory({str(shards)!r})\n"
        "train, val = builder.as_data_source('train'), builder.as_data_source('val')\n"
        "print(len(train), len(val), train[5]['frames'], len(train[5]['video']), train[5]['caption'].decode())\n"
        "print(builder.info.splits['train'].num_examples, 'tensorflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    caption = ClipSource(shards, "train")[5]["caption"]
    assert done.stdout.splitlines()[-2:] == [f"24 8 8 6144 {caption}", "24 False"]


def test_digests_are_those_of_the_files(tmp_path):
    for shards in write(tmp_path / "set").splits.values():
        for shard in shards:
            data = (tmp_path / "set" / shard.file).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)


def test_same_clips_give_the_same_bytes(tmp_path):
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert first.digest() == second.digest()
    for name in everything_in(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_existing_target_is_kept_unless_asked(tmp_path):
    before = write(tmp_path / "set", 2)
    with pytest.raises(ValueError, match="exists already"):
        write(tmp_path / "set", 3)
    assert manifests.load(tmp_path / "set") == before
    assert write(tmp_path / "set", 3, overwrite=True) == manifests.load(tmp_path / "set") != before
    assert everything_in(tmp_path) == ["set"]


def test_other_folders_are_never_overwritten(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="is no shard set"):
        write(tmp_path / "home", overwrite=True)
    assert everything_in(tmp_path / "home") == ["letter.txt"]


def test_empty_folder_is_a_fine_target(tmp_path):
    (tmp_path / "set").mkdir()
    write(tmp_path / "set")
    assert manifests.load(tmp_path / "set").records("train") == 5


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt()])
def test_failure_leaves_nothing_and_keeps_the_old(tmp_path, error):
    before = write(tmp_path / "set", 2)

    def fail():
        with open_writer(tmp_path / "set", SPEC, overwrite=True) as writer:
            writer.add(clip(0))
            raise error

    with pytest.raises(type(error)):
        fail()
    assert everything_in(tmp_path) == ["set"]
    assert manifests.load(tmp_path / "set") == before


@pytest.mark.parametrize("moment", ["write", "close", "manifest", "fsync", "rename"])
def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, moment):
    full = OSError(errno.ENOSPC, "No space left on device")

    class FullWriter(writing.ArrayRecordWriter):
        def write(self, data):
            if moment == "write":
                raise full
            super().write(data)

        def close(self):
            super().close()
            if moment == "close":
                raise full

    def fail(*_):
        raise full

    monkeypatch.setattr(writing, "ArrayRecordWriter", FullWriter)
    if moment == "manifest":
        monkeypatch.setattr(writing.ShardWriter, "_write_text", fail)
    elif moment == "fsync":
        monkeypatch.setattr(writing.os, "fsync", fail)
    elif moment == "rename":
        monkeypatch.setattr(writing.Path, "rename", fail)
    with pytest.raises(RunError, match=r"cannot write .*set.*: No space left on device") as caught:
        write(tmp_path / "set")
    assert "\n" not in str(caught.value)
    assert everything_in(tmp_path) == []


def test_disk_that_swallows_records_is_noticed(tmp_path, monkeypatch):
    class Forgetful(writing.ArrayRecordWriter):
        def close(self):
            pass  # as a killed writer: the file has no end

    monkeypatch.setattr(writing, "ArrayRecordWriter", Forgetful)
    with pytest.raises(RunError, match="holds 0 records after 5 were written"):
        write(tmp_path / "set")
    assert everything_in(tmp_path) == []


def test_read_only_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write(tmp_path / "file" / "set")


def test_second_writer_is_refused(tmp_path):
    with open_writer(tmp_path / "set", SPEC) as writer:
        writer.add(clip(0))
        with pytest.raises(RunError, match="another process is writing"):
            write(tmp_path / "set")
        writer.finish({}, {})
    assert manifests.load(tmp_path / "set").records("train") == 1


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    left = tmp_path / ".set.part"
    left.mkdir()
    (left / "train-0.part").write_bytes(b"half a file")
    (left / "manifest.json").write_text("{}")
    write(tmp_path / "set")
    assert everything_in(tmp_path) == ["set"]
    assert not any(name.endswith(".part") for name in everything_in(tmp_path / "set"))


def test_lock_ends_with_the_writer(tmp_path):
    write(tmp_path / "set")
    folder = os.open(tmp_path / "set", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if the writer still held it
    os.close(folder)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (clip(0, "test"), "split: unknown 'test'"),
        (clip(0, frames=3), "record: ClipSpec"),
        (clip(0, codec="h264"), "record: ClipSpec"),
    ],
)
def test_foreign_records_are_refused(tmp_path, record, message):
    with pytest.raises(ValueError, match=message), open_writer(tmp_path / "set", SPEC) as writer:
        writer.add(record)
    assert everything_in(tmp_path) == []


def test_empty_set_is_not_published(tmp_path):
    with pytest.raises(RunError, match="no clip was written"), open_writer(tmp_path / "set", SPEC) as writer:
        writer.finish({}, {})
    assert everything_in(tmp_path) == []


def test_unknown_codec_is_named(tmp_path):
    with (
        pytest.raises(ValueError, match="codec: unknown 'row'; did you mean 'raw'"),
        open_writer(tmp_path / "set", ClipSpec(2, 8, 8, "row")),
    ):
        pass
