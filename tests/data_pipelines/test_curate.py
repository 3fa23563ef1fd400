"""Curation: good footage becomes clips, every bad file is listed with its reason, nothing leaks into validation."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.curation import curate as curation
from data_pipelines.curation import encode, examine
from data_pipelines.curation.scores.protocol import Column
from data_pipelines.curation.settings import CurateSettings, Recipe
from data_pipelines.shards import manifest as manifests
from data_pipelines.shards import reader, writer
from data_pipelines.shards.files import lock
from data_pipelines.shards.reader import ClipSource
from tests.media.footage import FPS, level, make_sound, make_video, make_without_pictures, picture
from vdm_jax.errors import RunError
from vdm_jax.media.video import VideoError

pytest.importorskip("apache_beam", reason="curation is a Beam graph")

SETTINGS = CurateSettings(height=16, width=16, frames=4, fps=FPS, codec="raw", val_fraction=0, cuts=False)


@dataclasses.dataclass(frozen=True)
class NotANumber:
    """A scorer that fails on every clip."""

    name: str = "broken"
    version: int = 1
    columns: tuple[Column, ...] = (Column("depth", "of the water"),)

    def score(self, sample):
        return {"depth": float("nan")}


def curate(videos, out, settings, progress=None, **options):
    return curation.curate([videos], out, Recipe(settings), {"examine": progress} if progress else None, **options)


def made(videos, out, settings):
    return curate(videos, out, settings).manifest


def put(folder, name, data, caption=None):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if caption is not None:
        path.with_suffix(".txt").write_bytes(caption)


def footage(count=12, first=0, **options):
    return make_video([picture(first + k) for k in range(count)], **options)


def clips(out, split="train"):
    source = ClipSource(out, split)
    return [source[i] for i in range(len(source))]


def shown(clip):
    return [level(pixels) for pixels in clip["video"]]


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


def test_clips_captions_and_times(videos, tmp_path):
    put(videos, "b.mp4", footage(), b"a grey  wall\ngets brighter\n")
    put(videos, "sub/a.MOV", footage(9, first=5), "\ufeffein Würfel".encode())
    manifest = made(videos, tmp_path / "out", SETTINGS)
    found = clips(tmp_path / "out")
    assert [(c["source"], c["start"]) for c in found] == [
        ("b.mp4", 0.0),
        ("b.mp4", np.float32(0.4)),
        ("b.mp4", np.float32(0.8)),
        ("sub/a.MOV", 0.0),
        ("sub/a.MOV", np.float32(0.4)),
    ]
    assert [c["caption"] for c in found] == ["a grey wall gets brighter"] * 3 + ["ein Würfel"] * 2
    assert [shown(c) for c in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [5, 6, 7, 8], [9, 10, 11, 12]]
    assert {c["video"].shape for c in found} == {(4, 16, 16, 3)}
    assert list(manifest.splits) == ["train"]
    assert [s["clips"] for s in manifest.provenance["sources"]] == [{"train": 3, "val": 0}, {"train": 2, "val": 0}]
    assert manifest.settings["frames"] == 4


BAD = {
    "empty.mp4": (lambda: b"", "empty"),
    "text.mp4": (lambda: b"not a video " * 99, "unreadable"),
    "sound.mp4": (make_sound, "no_video"),
    "zero.mp4": (make_without_pictures, "no_frames"),
    "cut.mp4": (lambda: footage()[:900], "truncated"),
    "short.mp4": (lambda: footage(3), "too_short"),
    "turned.mp4": (lambda: footage(rotation=45), "rotation"),
}
ODD = {
    "odd.mp4": {"size": (31, 45), "pixel_format": "yuv444p"},
    "rotated.mp4": {"rotation": 90},
    "deep.mp4": {"pixel_format": "yuv420p10le"},
    "slow.mkv": {"container": "matroska", "ticks": [0, 1, 2, 3, 4, 5, 6, 7, 14, 15, 16, 17]},
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Every kind of broken file among every kind of odd but good one, curated."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, (make, _) in BAD.items():
        put(folder / "videos", name, make())
    for name, options in ODD.items():
        size = options.get("size", (32, 48))
        put(folder / "videos", name, make_video([picture(k, *size) for k in range(12)], **options))
    put(folder / "videos", "latin.mp4", footage(), "ein Würfel".encode("latin-1"))
    put(folder / "videos", "notes.md", b"no video, and not named like one")
    put(folder / "videos", ".hidden.mp4", b"")
    seen = []
    manifest = curate(folder / "videos", folder / "out", SETTINGS, lambda *progress: seen.append(progress)).manifest
    return folder, manifest, seen


def test_every_bad_file_is_listed_with_its_reason(mixed):
    _, manifest, _ = mixed
    expected = {name: reason for name, (_, reason) in BAD.items()} | {"latin.mp4": "bad_caption"}
    assert {d.file: d.reason for d in manifest.dropped} == expected
    assert sum(manifest.reasons().values()) == len(expected)
    assert all(d.file in d.detail or d.file == "latin.mp4" for d in manifest.dropped)
    latin = next(d for d in manifest.dropped if d.file == "latin.mp4")
    assert "latin.txt: not UTF-8 text (byte 5)" in latin.detail


def test_the_rest_goes_on(mixed):
    folder, manifest, _ = mixed
    assert [s["name"] for s in manifest.provenance["sources"]] == sorted(ODD)
    by_source = {}
    for clip in clips(folder / "out"):
        by_source.setdefault(clip["source"], []).append(shown(clip))
    for name in ("odd.mp4", "rotated.mp4", "deep.mp4"):
        assert by_source[name] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert by_source["slow.mkv"] == [[0, 1, 2, 3], [4, 5, 6, 7], [7, 7, 7, 7], [7, 7, 8, 9]]


def test_progress_counts_all_files(mixed):
    _, _, seen = mixed
    total = len(BAD) + len(ODD)  # not the one whose caption is bad: it is not looked at
    assert [done for done, _, _ in seen] == list(range(1, total + 1))
    assert {count for _, count, _ in seen} == {total}


def test_same_footage_gives_the_same_set(mixed, tmp_path):
    folder, manifest, _ = mixed
    again = made(folder / "videos", tmp_path / "out", SETTINGS)
    first, second = ({**dataclasses.asdict(m), "dropped": len(m.dropped)} for m in (manifest, again))
    assert first == second
    for path in (folder / "out").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    reader.verify(tmp_path / "out")


def test_rate_and_stride(videos, tmp_path):
    put(videos, "a.mp4", footage(20))
    curate(videos, tmp_path / "half", dataclasses.replace(SETTINGS, fps=5.0))
    assert [shown(c) for c in clips(tmp_path / "half")] == [[0, 2, 4, 6], [8, 10, 12, 14]]
    curate(videos, tmp_path / "dense", dataclasses.replace(SETTINGS, stride=8))
    assert [shown(c)[0] for c in clips(tmp_path / "dense")] == [0, 8, 16]
    curate(videos, tmp_path / "native", dataclasses.replace(SETTINGS, fps=0.0))
    assert {c["fps"] for c in clips(tmp_path / "native")} == {float(FPS)}


def test_tail_holds_the_end_of_each_video_out(videos, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        put(videos, name, footage(24))
    settings = dataclasses.replace(SETTINGS, hold_out="tail", val_fraction=0.2, stride=2)
    curate(videos, tmp_path / "out", settings)
    train, val = clips(tmp_path / "out"), clips(tmp_path / "out", "val")
    for name in ("a.mp4", "b.mp4"):
        taught = {k for c in train if c["source"] == name for k in shown(c)}
        held_out = {k for c in val if c["source"] == name for k in shown(c)}
        assert len([c for c in val if c["source"] == name]) == 2
        assert max(taught) < min(held_out)
        assert taught | held_out == set(range(24))


def test_source_holds_whole_videos_out(videos, tmp_path):
    for k in range(6):
        put(videos, f"{k}.mp4", footage(8 + k))
    put(videos, "bad.mp4", b"bad")
    chosen = set()
    for seed in range(3):
        settings = dataclasses.replace(SETTINGS, hold_out="source", val_fraction=0.3, seed=seed)
        curate(videos, tmp_path / str(seed), settings)
        parts = [{c["source"] for c in clips(tmp_path / str(seed), split)} for split in ("train", "val")]
        assert [len(part) for part in parts] == [4, 2]
        assert not parts[0] & parts[1]
        chosen.add(frozenset(parts[1]))
    assert len(chosen) > 1


@pytest.mark.parametrize(("count", "resolved"), [(1, "tail"), (4, "tail"), (5, "source")])
def test_auto_looks_at_the_number_of_files(videos, tmp_path, count, resolved):
    for k in range(count):
        put(videos, f"{k}.mp4", footage(12))
    manifest = made(videos, tmp_path / "out", dataclasses.replace(SETTINGS, val_fraction=0.1))
    assert manifest.settings["hold_out"] == resolved
    assert manifest.records("val") >= 1
    assert manifest.records("train") >= 2


def test_clips_per_source_are_capped_evenly(videos, tmp_path):
    put(videos, "a.mp4", footage(24))
    put(videos, "b.mp4", footage(4))
    curate(videos, tmp_path / "out", dataclasses.replace(SETTINGS, max_clips_per_source=3))
    assert [shown(c)[0] for c in clips(tmp_path / "out")] == [0, 8, 16, 0]


def test_required_captions(videos, tmp_path):
    put(videos, "a.mp4", footage(), b"a wall")
    put(videos, "b.mp4", footage())
    put(videos, "c.mp4", footage(), b" \n")
    manifest = made(videos, tmp_path / "out", dataclasses.replace(SETTINGS, captions="required"))
    assert {d.file: d.reason for d in manifest.dropped} == {"b.mp4": "no_caption", "c.mp4": "no_caption"}
    curate(videos, tmp_path / "none", dataclasses.replace(SETTINGS, captions="none"))
    assert {c["caption"] for c in clips(tmp_path / "none")} == {""}


def test_file_that_breaks_off_gives_nothing(videos, tmp_path, monkeypatch):
    put(videos, "a.mp4", footage())
    put(videos, "b.mp4", footage())
    whole = encode.iter_pictures

    def breaks_off(path, *arguments, **options):
        for k, item in enumerate(whole(path, *arguments, **options)):
            if path.name == "a.mp4" and k == 9:
                raise VideoError("damaged", f"{path}: decoding failed")
            yield item

    monkeypatch.setattr(encode, "iter_pictures", breaks_off)
    manifest = made(videos, tmp_path / "out", SETTINGS)
    assert {c["source"] for c in clips(tmp_path / "out")} == {"b.mp4"}
    assert [(d.file, d.reason) for d in manifest.dropped] == [("a.mp4", "damaged")]


def test_empty_or_missing_folder_is_a_usage_error(videos, tmp_path):
    put(videos, "readme.txt", b"nothing here")
    with pytest.raises(ValueError, match="holds nothing to curate"):
        curate(videos, tmp_path / "out", SETTINGS)
    with pytest.raises(ValueError, match="is neither a file nor a folder"):
        curate(videos / "none", tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_nothing_usable_is_one_line(videos, tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4"):
        put(videos, name, b"no video")
    message = r"none of 4 sources is usable \(a.mp4: unreadable; .* and 1 more\)"
    with pytest.raises(RunError, match=message) as caught:
        curate(videos, tmp_path / "out", SETTINGS)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.work", "videos"]


def test_one_video_cannot_be_held_out_and_trained_on(videos, tmp_path):
    put(videos, "a.mp4", footage())
    with pytest.raises(RunError, match="use hold_out='tail'"):
        curate(videos, tmp_path / "out", dataclasses.replace(SETTINGS, hold_out="source", val_fraction=0.5))


def test_full_disk_leaves_nothing(videos, tmp_path, monkeypatch):
    put(videos, "a.mp4", footage())

    class Full(writer.ArrayRecordWriter):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "ArrayRecordWriter", Full)
    with pytest.raises(RunError, match="cannot write .*out: No space left on device"):
        curate(videos, tmp_path / "out", SETTINGS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.work", "videos"]


def test_full_disk_while_measuring_is_one_line(videos, tmp_path, monkeypatch):
    put(videos, "a.mp4", footage())

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(RunError, match=r"^cannot write \S+: No space left on device$"):
            curate(videos, tmp_path / "out", SETTINGS)
    assert set(curate(videos, tmp_path / "out", SETTINGS).spent.by_stage) == {"digest", "probe", "encode"}


def test_two_runs_do_not_share_a_working_directory(videos, tmp_path):
    put(videos, "a.mp4", footage())
    (tmp_path / "out.work").mkdir()
    held = lock(tmp_path / "out.work", tmp_path / "out.work")
    try:
        with pytest.raises(RunError, match="another process is writing"):
            curate(videos, tmp_path / "out", SETTINGS)
    finally:
        os.close(held)


def test_damaged_results_are_made_again(videos, tmp_path):
    put(videos, "a.mp4", footage())
    first = made(videos, tmp_path / "out", SETTINGS)
    for path in sorted((tmp_path / "out.work").glob("[pe]*/*/*")):  # of the probe and of encoding
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content[:-1])
    again = curate(videos, tmp_path / "out", SETTINGS, overwrite=True)
    assert set(again.spent.by_stage) == {"probe", "encode"}
    assert again.manifest == first


def test_existing_target_is_refused_before_decoding(videos, tmp_path, monkeypatch):
    put(videos, "a.mp4", footage())
    curate(videos, tmp_path / "out", SETTINGS)
    monkeypatch.setattr(curation, "open_inputs", None)
    with pytest.raises(ValueError, match="exists already"):
        curate(videos, tmp_path / "out", SETTINGS)


def test_manifest_proves_where_clips_come_from(videos, tmp_path):
    put(videos, "a.mp4", footage(), b"a wall")
    curate(videos, tmp_path / "out", SETTINGS)
    text = json.loads((tmp_path / "out" / manifests.FILE_NAME).read_text("utf-8"))
    source = text["provenance"]["sources"][0]
    assert source["sha256"] == writer.sha256(videos / "a.mp4")
    assert source["captioned"] is True
    assert text["settings"]["fps"] == FPS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("height", 0),
        ("frames", 0),
        ("stride", -1),
        ("fps", -1.0),
        ("val_fraction", 1.0),
        ("crf", 60),
        ("hold_out", "sorce"),
        ("codec", "h265"),
        ("captions", "besides"),
    ],
)
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(SETTINGS, **{field: value})


def test_file_that_goes_away_is_listed(videos, tmp_path, monkeypatch):
    put(videos, "a.mp4", footage())
    put(videos, "b.mp4", footage())
    digest = examine.sha256

    def gone(path):
        if path.name == "a.mp4":
            raise OSError(errno.EIO, "Input/output error")
        return digest(path)

    monkeypatch.setattr(examine, "sha256", gone)
    manifest = made(videos, tmp_path / "out", SETTINGS)
    assert [(d.file, d.reason) for d in manifest.dropped] == [("a.mp4", "unreadable")]
    assert {c["source"] for c in clips(tmp_path / "out")} == {"b.mp4"}


def published(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


KILLED = """
import os, sys
from data_pipelines.curation import curate as curation, records
from data_pipelines.curation.scores.protocol import Column
from data_pipelines.curation.settings import CurateSettings, Recipe
videos, out, writes = sys.argv[1], sys.argv[2], int(sys.argv[3])
whole, done = records.Records.put, []
def put(self, *rest):
    done.append(rest)
    if len(done) > writes:
        os._exit(9)  # nothing is closed, nothing is cleaned up
    whole(self, *rest)
records.Records.put = put
settings = CurateSettings(height=16, width=16, frames=4, fps=10.0, val_fraction=0.25, cuts=False)
curation.curate([videos], out, Recipe(settings))
"""


def test_killed_and_started_again_it_publishes_the_same_bytes(videos, tmp_path):
    for k in range(3):
        put(videos, f"{k}.mp4", footage(8 + 4 * k), b"a wall")
    put(videos, "bad.mp4", b"no video")
    settings = dataclasses.replace(SETTINGS, codec="h264", val_fraction=0.25)
    curate(videos, tmp_path / "whole", settings)
    for writes in (3, 6):  # in the middle of examining, and of encoding
        process = subprocess.run(
            [sys.executable, "-c", KILLED, str(videos), str(tmp_path / "out"), str(writes)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=300,
        )
        assert process.returncode == 9
        assert not (tmp_path / "out").exists()
    curate(videos, tmp_path / "out", settings)
    assert published(tmp_path / "out") == published(tmp_path / "whole")
    reader.verify(tmp_path / "out")


def test_what_is_known_is_not_worked_out_again(videos, tmp_path, monkeypatch):
    put(videos, "a.mp4", footage(12))
    put(videos, "b.mp4", footage(16, first=3))
    first = curate(videos, tmp_path / "out", SETTINGS)
    assert set(first.spent.by_stage) == {"digest", "probe", "encode"}
    again = curate(videos, tmp_path / "out", SETTINGS, overwrite=True)
    assert again.spent.by_stage == {}
    assert again.manifest == first.manifest
    smaller = dataclasses.replace(SETTINGS, height=8, filters=("source_seconds>=1.5",))
    other = curate(videos, tmp_path / "out", smaller, overwrite=True)
    assert set(other.spent.by_stage) == {"encode"}
    assert {c["source"] for c in clips(tmp_path / "out")} == {"b.mp4"}
    put(videos, "b.mp4", footage(20))
    assert "probe" in curate(videos, tmp_path / "out", SETTINGS, overwrite=True).spent.by_stage


def test_only_clips_that_were_never_used_are_encoded(videos, tmp_path):
    put(videos, "a.mp4", footage(24))
    put(videos, "b.mp4", footage(8))
    all_of_them = dataclasses.replace(SETTINGS, codec="h264")
    few = dataclasses.replace(all_of_them, max_clips_per_source=2)
    curate(videos, tmp_path / "fresh", all_of_them)

    def seconds(settings):
        spent = curate(videos, tmp_path / "out", settings, overwrite=True).spent.by_stage
        return spent["encode"][1] if "encode" in spent else 0.0

    assert seconds(few) == pytest.approx(4 * 0.4)
    assert seconds(all_of_them) == pytest.approx(4 * 0.4)
    assert published(tmp_path / "out") == published(tmp_path / "fresh")
    assert seconds(few) == seconds(all_of_them) == 0
    assert published(tmp_path / "out") == published(tmp_path / "fresh")
    assert len(list((tmp_path / "out.work").glob("encode-*/*/*.clips"))) == 2


def test_an_error_of_a_library_costs_one_source(videos, tmp_path, monkeypatch):
    put(videos, "a.mp4", footage())
    put(videos, "b.mp4", footage())
    whole = examine.probe

    def odd(path):
        if path.name == "a.mp4":
            raise ZeroDivisionError("division by zero")
        return whole(path)

    monkeypatch.setattr(examine, "probe", odd)
    manifest = made(videos, tmp_path / "out", SETTINGS)
    (letter,) = manifest.dropped
    assert (letter.file, letter.reason) == ("a.mp4", "failed")
    assert letter.detail == "a.mp4: ZeroDivisionError: division by zero"


def test_a_score_that_is_no_number_is_named(videos, tmp_path):
    put(videos, "a.mp4", footage())
    with pytest.raises(RunError, match=r"none of 1 sources is usable \(a.mp4: bad_score\)"):
        curation.curate([videos], tmp_path / "out", Recipe(SETTINGS, (NotANumber(),)))


def test_ctrl_c_ends_it_and_what_is_done_stays(videos, tmp_path, monkeypatch):
    put(videos, "a.mp4", footage())

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(encode, "iter_pictures", interrupted)
    with pytest.raises(KeyboardInterrupt):
        curate(videos, tmp_path / "out", SETTINGS)
    monkeypatch.undo()
    assert set(curate(videos, tmp_path / "out", SETTINGS).spent.by_stage) == {"encode"}
