"""The table of clips: what is written comes back, the same rows give the same bytes, and what cannot be is named."""

import math

import pytest

from data_pipelines.curation import table
from data_pipelines.curation.captions import Caption
from data_pipelines.curation.table import ClipRow, read_about, read_table, write_table
from vdm_jax.errors import RunError

pytest.importorskip("pyarrow", reason="the table is Parquet")

ROWS = [
    ClipRow(
        "ä/b.mp4",
        1.5,
        3.0004,
        "d" * 64,
        "scene 1",
        {"height": 720, "codec": "h264"},
        {"motion": 0.25, "copy_of": "a.mp4:0-2000"},
        (Caption("a red  boat\nsails", 0.75), Caption("boats", 0.25, "toy 1")),
        "train",
    ),
    ClipRow(
        "a.mp4", 0, 2, facts={"height": 64, "codec": "vp9"}, scores={"motion": 1, "flat": True}, refused=("x", "y")
    ),
]


def test_rows_come_back_in_order(tmp_path):
    write_table(tmp_path / "clips.parquet", ROWS, {"versions": {"motion": 2}})
    assert read_table(tmp_path / "clips.parquet") == [ROWS[1], ROWS[0]]
    assert read_about(tmp_path / "clips.parquet") == {"versions": {"motion": 2}}
    assert [p.name for p in tmp_path.iterdir()] == ["clips.parquet"]


def test_ids_and_times_are_whole_milliseconds():
    assert ROWS[0].id == "ä/b.mp4:1500-3000"
    assert (ROWS[0].end, ROWS[0].seconds, ROWS[1].group) == (3.0, 1.5, "a.mp4")
    assert ROWS[0].captions[0].text == "a red boat sails"


def test_the_same_rows_give_the_same_bytes(tmp_path):
    write_table(tmp_path / "a", ROWS)
    write_table(tmp_path / "b", reversed(ROWS))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_columns_can_be_chosen(tmp_path):
    write_table(tmp_path / "t", ROWS)
    rows = read_table(tmp_path / "t", ["motion", "seconds"])
    assert [(row.scores, row.facts) for row in rows] == [({"motion": 1}, {}), ({"motion": 0.25}, {})]
    assert rows[1].captions == ROWS[0].captions
    with pytest.raises(ValueError, match="did you mean 'motion'"):
        read_table(tmp_path / "t", ["motoin"])


def test_a_table_of_several_groups(tmp_path, monkeypatch):
    """A score that only the last rows have, and whole numbers among floats, whatever rows are held at once."""
    rows = [ClipRow("a", k, k + 1, scores={"n": k} if k < 9 else {"n": 0.5, "late": "x"}) for k in range(10)]
    monkeypatch.setattr(table, "ROW_GROUP", 4)
    write_table(tmp_path / "t", rows)
    assert read_table(tmp_path / "t") == rows
    with pytest.raises(ValueError, match="two rows of a:4000-5000"):
        write_table(tmp_path / "t", [*rows[:5], *rows[4:]])


def test_an_empty_table_is_a_table(tmp_path):
    write_table(tmp_path / "t", [])
    assert read_table(tmp_path / "t") == []


def test_values_are_found_by_name():
    assert [ROWS[0].value(name) for name in ("motion", "height", "seconds", "absent")] == [0.25, 720, 1.5, None]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused_by_name(bad):
    with pytest.raises(ValueError, match=r"a.mp4:0-1000: motion is (nan|inf)"):
        ClipRow("a.mp4", 0, 1, scores={"motion": bad})


@pytest.mark.parametrize(("start", "end"), [(1, 1), (2, 1), (-1, 1), (0, math.inf), (math.nan, 1)])
def test_a_span_that_is_none_is_refused(start, end):
    with pytest.raises(ValueError, match="no span"):
        ClipRow("a.mp4", start, end)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROWS[1], ROWS[1]], "two rows of a.mp4:0-2000"),
        (
            [ClipRow("a", 0, 1, scores={"m": 1.0}), ClipRow("b", 0, 1, scores={"m": "x"})],
            "'m': holds values of float, str",
        ),
        ([ClipRow("a", 0, 1, facts={"m": 1}), ClipRow("b", 0, 1, scores={"m": 1})], "'m' is the name of a fact and"),
    ],
)
def test_what_cannot_be_a_table_is_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        write_table(tmp_path / "t", rows)
    assert not list(tmp_path.iterdir())


def test_other_files_are_told_apart(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    with pytest.raises(ValueError, match="is not a file"):
        read_table(tmp_path / "absent")
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "other")
    with pytest.raises(ValueError, match="but no table of clips"):
        read_table(tmp_path / "other")
    write_table(tmp_path / "t", ROWS)
    (tmp_path / "t").write_bytes((tmp_path / "t").read_bytes()[:-20])
    with pytest.raises(RunError, match="not a readable Parquet file"):
        read_table(tmp_path / "t")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(RunError, match="cannot write .*absent/t: No such file"):
        write_table(tmp_path / "absent" / "t", ROWS)
