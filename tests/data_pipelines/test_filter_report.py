"""The page of filters: counts, thresholds drawn, the right clips on its contact sheets."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.curation import filter_report
from data_pipelines.curation.filter_report import filter_page, source_pictures, write_filter_report
from data_pipelines.curation.filters import Selection, decide, parse_filter
from data_pipelines.curation.scores.protocol import Column
from data_pipelines.curation.source import Source
from data_pipelines.curation.table import ClipRow
from data_pipelines.shards.manifest import Dropped
from tests.media.footage import make_video, picture
from vdm_jax.media.page import Charts, Picture, Table

ROWS = [
    ClipRow(f"{k:02d}.mp4", 0, 2, scores={"motion": k / 20, "text": float(k % 3 == 0), "kind": "a" if k < 3 else "b"})
    for k in range(20)
] + [ClipRow("still.png", 0, 1, scores={"text": 0.0, "kind": "b"})]
COLUMNS = [
    Column("motion", "mean speed", "sides a second", "better"),
    Column("text", "letters", "share", "worse", limit=0.5),
]


class Reader:
    """Gives grey pictures and remembers which clips were asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, rows):
        self.asked.append([row.id for row in rows])
        return {row.id: np.full((3, 8, 12, 3), 90, np.uint8) for row in rows if row.source != "05.mp4"}


@pytest.fixture
def decided():
    rules = tuple(map(parse_filter, ("motion>=0.5", "kind!=a")))
    return decide(ROWS, Selection(rules, val_fraction=0.2))


def of_kind(section, kind):
    return [block for block in section.blocks if isinstance(block, kind)]


def test_what_each_filter_removes_is_counted_and_shown(decided):
    reader = Reader()
    page = filter_page(decided, reader, COLUMNS, [Dropped("x.mp4", "empty", "x.mp4: the file is empty")], "Walks")
    by_title = {section.title: section for section in page.sections}
    table = of_kind(by_title["In short"], Table)[0]
    assert [[getattr(cell, "text", cell) for cell in row] for row in table.rows] == [
        ["motion>=0.5", "11", "11", 1, 10],
        ["kind!=a", "3", "0", 0, 10],
    ]
    assert page.summary["kept"] == 10
    motion = by_title["motion>=0.5"]
    assert motion.remark == "mean speed"
    assert motion.text == ["Clips without a value: 1."]
    assert [p.title for p in of_kind(motion, Picture)] == ["Removed: 8 of 11", "Kept, nearest to the threshold"]
    assert len(of_kind(motion, Charts)) == 1
    assert not of_kind(by_title["kind!=a"], Charts)
    assert [title for title, _ in of_kind(by_title["What is not filtered on"], Charts)[0].drawn] == [
        "seconds",
        "text: letters",
    ]
    assert of_kind(by_title["Sources without clips"], Table)[1].rows == [("x.mp4", "empty", "x.mp4: the file is empty")]


def test_pictures_are_read_once_and_those_that_are_gone_left_out(decided):
    reader = Reader()
    sheets = filter_report._Sheets(decided, reader)
    assert len(reader.asked) == 1
    assert len(set(reader.asked[0])) == len(reader.asked[0])
    rule = decided.effects[0].rule
    removed = [row.source for row in sheets.removed[rule]]
    assert removed[0] == "still.png"  # has no value: neither near nor far
    assert removed[1:4] == ["09.mp4", "07.mp4", "06.mp4"]
    assert [row.source for row in sheets.near[rule]] == [f"{k}.mp4" for k in range(10, 18)]
    assert sheets.sheet([row for row in ROWS if row.source == "05.mp4"], "gone") == []


def test_the_page_is_written_and_escaped(decided, tmp_path):
    clips = [dataclasses.replace(row, captions=()) for row in decided.clips]
    write_filter_report(tmp_path / "a.html", dataclasses.replace(decided, clips=clips), Reader(), COLUMNS, title="<b>")
    text = (tmp_path / "a.html").read_text()
    assert "&lt;b&gt;" in text
    assert "motion&gt;=0.5" in text
    assert text.count("data:image/png") == 5
    write_filter_report(tmp_path / "b.html", decided, Reader(), COLUMNS, title="<b>")
    assert (tmp_path / "b.html").read_text() == text


def test_a_page_without_filters():
    page = filter_page(decide(ROWS, Selection()), Reader(), [], [], "t")
    assert [section.title for section in page.sections] == ["In short", "What is kept", "What is not filtered on"]


def test_pictures_come_from_the_sources(tmp_path):
    pytest.importorskip("cv2", reason="pictures are reduced with OpenCV")
    (tmp_path / "a.mp4").write_bytes(make_video([picture(k % 8) for k in range(20)]))
    read = source_pictures([Source("a.mp4", str(tmp_path / "a.mp4")), Source("gone.mp4", str(tmp_path / "gone.mp4"))])
    rows = [ClipRow("a.mp4", 0, 1), ClipRow("a.mp4", 1, 2), ClipRow("gone.mp4", 0, 1), ClipRow("other.mp4", 0, 1)]
    found = read(rows)
    assert sorted(found) == ["a.mp4:0-1000", "a.mp4:1000-2000"]
    assert all(clip.dtype == np.uint8 and len(clip) >= filter_report.FRAMES for clip in found.values())
