"""Captions: several with probabilities, from models, from files beside the videos and from tables."""

import json
import math
from typing import ClassVar

import pytest

from data_pipelines.curation.caption_files import (
    read_caption_table,
    read_sidecar,
    source_captions,
    stray_sidecars,
)
from data_pipelines.curation.captions import Caption, ask, blend, caption_labels, checked, main_caption
from data_pipelines.curation.source import Source
from vdm_jax.errors import RunError
from vdm_jax.media.video import VideoError


class Toy:
    """Says the same of every clip."""

    name, version = "toy", "2"
    says: ClassVar = [("a boat", 0.7), ("boats", 0.3)]

    def caption(self, sample):
        return self.says


def test_a_captioner_is_asked_and_checked():
    captions = ask(Toy(), None)
    assert captions == (Caption("a boat", 0.7, "toy 2"), Caption("boats", 0.3, "toy 2"))
    for says, message in (
        ([("a", 0.5)], "add up to 0.5"),
        ([("  ", 1.0)], "is empty"),
        ([("a", 0.5), ("a", 0.5)], "'a' is there twice"),
        ([("a", math.nan)], "probability nan"),
    ):
        toy = Toy()
        toy.says = says
        with pytest.raises(RunError, match=f"captioner toy 2: .*{message}"):
            ask(toy, None)


def test_what_a_record_says():
    captions = checked([Caption("a", 0.3), Caption("b", 0.4), Caption("c", 0.3)])
    assert main_caption(captions) == "b"
    assert caption_labels(captions) == {"captions": [["a", 0.3], ["b", 0.4], ["c", 0.3]]}
    assert (main_caption(()), caption_labels(captions[:1]), caption_labels(())) == ("", {}, {})


def test_captions_of_several_origins_are_blended():
    people, model = [Caption("a boat")], [Caption("boats", 0.5, "toy"), Caption("a boat", 0.5, "toy")]
    assert blend([(people, 3), (model, 1)]) == (Caption("a boat", 0.875), Caption("boats", 0.125, "toy"))
    assert blend([((), 3), (model, 1)]) == tuple(model)
    assert blend([]) == ()
    with pytest.raises(ValueError, match="weight: 0"):
        blend([(people, 0)])


@pytest.mark.parametrize("probability", [0, -1, 1.5, "x", True, math.nan])
def test_a_probability_is_a_share(probability):
    with pytest.raises(ValueError, match="is not within"):
        Caption("a", probability)


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "captions"),
    [
        ("a.txt", "\ufeffein  Würfel\n", [("ein Würfel", 1.0)]),
        ("a.txt", " \n", []),
        ("a.json", '{"caption": "a cube"}', [("a cube", 1.0)]),
        ("a.json", '{"captions": ["a cube", "cubes"]}', [("a cube", 0.5), ("cubes", 0.5)]),
        ("a.json", '{"captions": [["a cube", 0.9], ["cubes", 0.1]]}', [("a cube", 0.9), ("cubes", 0.1)]),
        ("a.json", '{"camera": 3}', []),
        ("a.json", "[1, 2]", []),
        ("b.txt", "of another video", []),
    ],
)
def test_files_beside_a_video(tmp_path, name, content, captions):
    put(tmp_path, name, content)
    assert [(c.text, c.probability) for c in read_sidecar(str(tmp_path / "a.mp4"))] == captions


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "ein Würfel".encode("latin-1"), r"a.txt: not UTF-8 text \(byte 5\)"),
        ("a.json", b"{", "a.json: Expecting"),
        ("a.json", b'{"captions": [["a", 0.2], ["b", 0.2]]}', "add up to 0.4"),
        ("a.json", b'{"captions": [["a", "often"]]}', "neither sentences nor"),
        ("a.json", b'{"caption": 3}', "3 is no text"),
    ],
)
def test_unusable_files_beside_a_video_are_named(tmp_path, name, content, message):
    put(tmp_path, name, content)
    with pytest.raises(VideoError, match=message) as caught:
        read_sidecar(str(tmp_path / "a.mp4"))
    assert caught.value.reason == "bad_caption"


def test_the_table_counts_before_the_input_and_that_before_the_file(tmp_path):
    put(tmp_path, "a.txt", "beside")
    table = read_caption_table(put(tmp_path, "t.tsv", "path\tcaption\na.mp4\tfrom the table\n"), ["a.mp4"])
    url = str(tmp_path / "a.mp4")
    plain = Source("a.mp4", url)
    told = Source("a.mp4", url, caption="came along")
    several = Source("a.mp4", url, captions=(("one", 0.5), ("two", 0.5)))

    def texts(*args):
        return [c.text for c in source_captions(*args)]

    assert texts(plain) == texts(plain, "required") == ["beside"]
    assert texts(told) == ["came along"]
    assert texts(several) == ["one", "two"]
    assert texts(told, "beside", table) == texts(told, "none", table) == ["from the table"]
    assert texts(told, "none") == []
    assert texts(Source("m.mp4", str(tmp_path / "a.tar"), offset=512, size=9)) == []


def test_a_caption_that_is_required_and_missing(tmp_path):
    source = Source("b.mp4", str(tmp_path / "b.mp4"))
    with pytest.raises(VideoError, match=r"b.mp4: has no caption in b.txt") as caught:
        source_captions(source, "required")
    assert caught.value.reason == "no_caption"
    with pytest.raises(ValueError, match="did you mean 'required'"):
        source_captions(source, "require")
    wrong = Source("b.mp4", str(tmp_path / "b.mp4"), captions=(("a", 0.5),))
    with pytest.raises(VideoError, match="add up to 0.5"):
        source_captions(wrong)


IDS = ["walks/a.mp4", "walks/b.mp4", "runs/b.mp4", "c.webm"]


def test_a_table_names_videos_in_many_ways_and_clips(tmp_path):
    rows = [
        {"video": "walks/a", "caption": "a  walk"},
        {"video": "walks/b.mp4", "caption": "b walks", "weight": 0.75},
        {"video": "walks/b.mp4", "caption": "someone walks", "weight": 0.25},
        {"video": "c", "caption": "one"},
        {"video": "walks/a.mp4:0-2000", "caption": "the first two seconds"},
        {"video": "gone.mp4", "caption": "nothing"},
        {"video": "c:5-9", "caption": ["x", "y"]},
        {"video": "", "caption": "nobody"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows) + "{\n"
    table = read_caption_table(put(tmp_path, "t.jsonl", lines), IDS)
    assert [(c.text, c.probability) for c in table.of("walks/b.mp4")] == [("b walks", 0.75), ("someone walks", 0.25)]
    assert table.of("walks/a.mp4") == (Caption("a walk", 1.0, "table"),)
    assert table.of("walks/a.mp4:0-2000")[0].text == "the first two seconds"
    assert [c.text for c in table.of("c.webm:5-9")] == ["x", "y"]
    assert table.of("runs/b.mp4") == ()
    assert (table.strangers, table.without) == (("gone.mp4",), ("runs/b.mp4",))
    assert sorted(d.reason for d in table.refused) == ["bad_row", "no_path"]


def test_parquet_and_lists(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="Parquet")
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"file": ["c.webm"], "captions": [["one", "two"]]}), path)
    assert [c.probability for c in read_caption_table(str(path), IDS).of("c.webm")] == [0.5, 0.5]
    csv = put(tmp_path, "t.csv", 'file,captions\nc.webm,"[[""one"", 0.9], [""two"", 0.1]]"\n')
    assert [c.probability for c in read_caption_table(csv, IDS).of("c.webm")] == [0.9, 0.1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (b"c.webm\tein W\xfcrfel\t1\n", "row 1: its caption is not UTF-8"),
        (b"c.webm\ta\t0.5\nc.webm\tb\t\n", "some of its captions have a probability"),
        (b"c.webm\ta\tsome\n", "probabilities 'some' are no numbers"),
        (b"c.webm\ta\t0.5\n", "add up to 0.5"),
        (b"c.webm\ta\t0.5\nc.webm\ta\t0.5\n", "'a' is there twice"),
    ],
)
def test_what_cannot_be_used_is_said_when_it_is_asked_for(tmp_path, rows, message):
    table = read_caption_table(put(tmp_path, "t.tsv", b"path\tcaption\tprobability\n" + rows), IDS)
    with pytest.raises(VideoError, match=f"c.webm: .*{message}"):
        table.of("c.webm")
    assert "c.webm" not in table.without


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "", "is neither beside, required, none nor a file .csv"),
        ("t.tsv", "where\tcaption\n", "has no column clip or path"),
        ("t.tsv", "path\twords\na\tb\n", r"no column caption or text or prompt ... \(its columns: path, words"),
        ("t.tsv", "path\tcaption\nb\tx\n", "'b' may be runs/b.mp4 or walks/b.mp4"),
        ("t.tsv", "path\tcaption\nc\tx\nc.webm\ty\n", "names c.webm twice"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read_caption_table(put(tmp_path, name, content), IDS)


def test_captions_of_videos_that_are_not_there(tmp_path):
    path = put(tmp_path, "t.csv", "path,caption\n" + "".join(f"gone{k}.mp4,x\n" for k in range(5)))
    assert len(read_caption_table(path, IDS).strangers) == 5
    with pytest.raises(ValueError, match=r"videos that there are not: gone0.mp4, gone1.mp4, gone2.mp4 and 2 more"):
        read_caption_table(path, IDS, required=True)


def test_captions_beside_no_video(tmp_path):
    for name in ("v/a.mp4", "v/a.txt", "v/b.txt", "v/sub/c.TXT", "v/README.txt", "v/d.json", "v/.e.txt", "t/x.txt"):
        put(tmp_path, name, "x")
    sources = [
        Source("a.mp4", str(tmp_path / "v/a.mp4")),
        Source("m.mp4", str(tmp_path / "t/a.tar"), offset=512, size=9),
    ]
    folders = [str(tmp_path / "v"), str(tmp_path / "t"), "s3://bucket/x"]
    assert stray_sidecars(folders, sources, "beside") == ["b.txt", "sub/c.TXT"]
    assert stray_sidecars(folders, sources, "none") == []
    with pytest.raises(ValueError, match="captions: no video for b.txt, sub/c.TXT$"):
        stray_sidecars(folders, sources, "required")
