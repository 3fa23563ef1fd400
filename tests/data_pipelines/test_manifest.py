"""The manifest: reads back, identifies the data, notices every change."""

import dataclasses
import json

import pytest

from data_pipelines.shards import manifest as manifests
from data_pipelines.shards.manifest import ClipSpec, Dropped, Manifest, Shard
from data_pipelines.shards.schema import StoredField
from vdm_jax.errors import RunError

MANIFEST = Manifest(
    clip=ClipSpec(8, 16, 24, "raw"),
    splits={"train": (Shard("a", 3, 10, "00"), Shard("b", 2, 9, "11")), "val": (Shard("c", 1, 5, "22"),)},
    provenance={"pipeline": "test", "sources": [{"name": "ä.mp4", "clips": {"train": 5}}]},
    settings={"fps": 8.0, "captions": None},
    dropped=(Dropped("x.mp4", "empty", "x.mp4: empty"), Dropped("y.mp4", "damaged", "..."), Dropped("z", "empty", "")),
)


@pytest.fixture
def stored(tmp_path):
    (tmp_path / manifests.FILE_NAME).write_text(manifests.dump(MANIFEST), "utf-8")
    return tmp_path


def test_reads_back(stored):
    loaded = manifests.load(stored)
    assert loaded == MANIFEST
    assert loaded.digest() == MANIFEST.digest()


def test_counts():
    assert (MANIFEST.records("train"), MANIFEST.records("val")) == (5, 1)
    assert MANIFEST.reasons() == {"empty": 2, "damaged": 1}
    assert MANIFEST.clip.decoded_bytes == 8 * 16 * 24 * 3


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="unknown 'vall'; did you mean 'val'"):
        MANIFEST.records("vall")


@pytest.mark.parametrize("field", ["clip", "splits", "provenance", "settings", "dropped"])
def test_every_field_is_part_of_the_identity(field):
    other = {"clip": ClipSpec(8, 16, 16, "raw"), "splits": {}, "provenance": {}, "settings": {}, "dropped": ()}
    assert dataclasses.replace(MANIFEST, **{field: other[field]}).digest() != MANIFEST.digest()


def test_every_changed_line_is_noticed(stored):
    path = stored / manifests.FILE_NAME
    lines = path.read_text("utf-8").splitlines()
    changed = 0
    for i, line in enumerate(lines):
        digit = next((c for c in line if c.isdigit()), None)
        if digit is None:
            continue
        path.write_text("\n".join([*lines[:i], line.replace(digit, str(9 - int(digit)), 1), *lines[i + 1 :]]), "utf-8")
        with pytest.raises(RunError, match="damaged"):
            manifests.load(stored)
        changed += 1
    assert changed > 10


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"digest": "0"}'])
def test_nonsense_is_damage(stored, text):
    (stored / manifests.FILE_NAME).write_text(text)
    with pytest.raises(RunError, match="damaged"):
        manifests.load(stored)


def test_newer_format_is_refused(stored):
    newer = dataclasses.replace(MANIFEST, schema=99)
    (stored / manifests.FILE_NAME).write_text(manifests.dump(newer), "utf-8")
    with pytest.raises(RunError, match="has format 99"):
        manifests.load(stored)


def test_wrong_path_is_a_usage_error(tmp_path):
    with pytest.raises(ValueError, match=r"is no shard set, it has no manifest\.json"):
        manifests.load(tmp_path)
    with pytest.raises(ValueError, match="is not a directory"):
        manifests.load(tmp_path / "none")


def test_file_is_for_people_too(stored):
    fields = json.loads((stored / manifests.FILE_NAME).read_text("utf-8"))
    assert fields["splits"]["train"][1] == {"file": "b", "records": 2, "bytes": 9, "sha256": "11"}
    assert "ä.mp4" in (stored / manifests.FILE_NAME).read_text("utf-8")


def test_impossible_size_is_refused():
    with pytest.raises(ValueError, match="^frames: 0"):
        ClipSpec(0, 16, 16, "raw")
    with pytest.raises(ValueError, match="^fields: 'caption' is the name of something that every record holds"):
        ClipSpec(8, 16, 16, "raw", {"caption": StoredField((2,), "float32")})
