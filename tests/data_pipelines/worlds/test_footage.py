"""The corpus: files of every kind are what their labels say, and the same whenever they are made."""

import collections

import pytest

from data_pipelines.curation.probe import probe
from data_pipelines.worlds.footage.corpus import BROKEN, FootageSettings, footage, read_labels, write_footage
from vdm_jax.media.video import VideoError

FILES = 60


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "files"
    write_footage(out, FootageSettings(files=FILES, seed=11, frames=(8, 14)))
    return out


def test_files_are_what_the_labels_say(corpus):
    seen = collections.Counter()
    for label in read_labels(corpus):
        seen[label.kind if label.kind != "video" else label.container] += 1
        try:
            facts, reason = probe(corpus / label.name), ""
        except VideoError as error:
            reason = error.reason
        assert reason == label.reason, label
        if not reason:
            assert (facts.height, facts.width) == (label.height, label.width), label
            assert (facts.rotation, facts.frames) == (label.rotation, label.frames), label
        if label.kind == "video":
            assert bool(facts.audio) == label.sound, label
            assert facts.duration == pytest.approx(label.duration, abs=0.1 + 3 / label.fps), label
            assert all(0 <= cut["start"] <= cut["end"] <= label.duration for cut in label.cuts), label
    assert {"mp4", "mkv", "matroska", "image"} & set(seen) >= {"mp4", "image"}
    assert len(set(seen) - set(BROKEN)) >= 6, seen
    assert set(seen) & set(BROKEN), seen


def test_captions_are_as_labelled(corpus):
    for label in read_labels(corpus):
        text, said = ((corpus / label.name).with_suffix(suffix) for suffix in (".txt", ".json"))
        assert text.exists() == (label.caption_state in ("txt", "empty", "not_utf8")), label
        assert said.exists() == (label.caption_state == "json"), label
        if label.caption_state == "not_utf8":
            with pytest.raises(UnicodeDecodeError):
                text.read_text(encoding="utf-8")
        elif text.exists():
            assert text.read_text(encoding="utf-8").strip() == (label.caption if label.caption_state == "txt" else "")


def test_duplicates_are_of_files_that_are_there(corpus):
    labels = {label.name: label for label in read_labels(corpus)}
    copies = [label for label in labels.values() if label.duplicate_of]
    assert copies
    for label in copies:
        origin = labels[label.duplicate_of]
        assert not origin.duplicate_of
        same = (corpus / label.name).read_bytes() == (corpus / origin.name).read_bytes()
        assert same == (label.edit == "copy"), label


def test_the_same_files_again(corpus):
    settings = FootageSettings(files=FILES, seed=11, frames=(8, 14))
    labels = read_labels(corpus)
    for index in range(0, FILES, 7):
        data, label = footage(settings, index)
        assert (data, label) == ((corpus / label.name).read_bytes(), labels[index])


def test_wrong_settings(corpus):
    with pytest.raises(ValueError, match="exists already"):
        write_footage(corpus, FootageSettings(files=1))
    with pytest.raises(ValueError, match="files: 0"):
        FootageSettings(files=0)
    with pytest.raises(ValueError, match="frames: "):
        FootageSettings(frames=(30, 20))
