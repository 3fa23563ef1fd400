"""Rows on disk are the rows that were added, and nothing is left of them but what a process holds."""

import dataclasses
import errno

import pytest

from data_pipelines.curation import clip_rows
from data_pipelines.curation.clip_rows import Changed, ClipRows
from data_pipelines.curation.table import ClipRow, in_order
from vdm_jax.errors import RunError

ROWS = [ClipRow(f"{k // 3}.mp4", k % 3, k % 3 + 1, facts={"height": 8}, scores={"motion": k / 7}) for k in range(20)]


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.setattr(clip_rows, "BLOCK", 4)
    found = ClipRows(tmp_path / "work")
    found.extend(ROWS[:3])
    found.extend(iter(ROWS[3:]))
    found.extend([])
    return found


def test_rows_come_back_by_number_and_in_order(rows, tmp_path):
    assert len(rows) == 20
    assert list(rows) == ROWS
    assert [rows[k] for k in (0, 19, 7, -1, 3)] == [ROWS[k] for k in (0, 19, 7, 19, 3)]
    assert rows[15::-4] == ROWS[15::-4]
    with pytest.raises(IndexError):
        rows[20]
    assert not list((tmp_path / "work").iterdir())


def test_rows_may_be_gone_through_twice_at_once(rows):
    first = iter(rows)
    next(first)
    assert list(zip(first, rows)) == list(zip(ROWS[1:], ROWS))


def test_changes_are_made_when_a_row_is_looked_at(rows):
    marked = Changed(rows, [2, 3, 11], lambda place, row: dataclasses.replace(row, split=str(place)))
    again = Changed(marked, [0, 2])
    assert [(row.source, row.split) for row in marked] == [("0.mp4", "2"), ("1.mp4", "3"), ("3.mp4", "11")]
    assert list(again) == [marked[0], marked[2]] == marked[::2]
    assert marked[-1].split == "11"
    assert rows[2].split == ""


def test_what_is_in_order_is_not_copied(rows):
    assert in_order(rows) is rows
    assert in_order(ROWS[::-1]) == in_order(iter(ROWS)) == ROWS


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(clip_rows.tempfile, "TemporaryFile", lambda dir: Full())
    with pytest.raises(RunError, match=r"^cannot write \S+: No space left on device$"):
        ClipRows(tmp_path).extend(ROWS)
