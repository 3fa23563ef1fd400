"""Rates beside the shards: those of the records, and never believed over them."""

import shutil

import numpy as np
import pytest

from data_pipelines.shards import rates
from data_pipelines.shards.reader import ClipSource
from tests.data_pipelines.pixel_sets import write

RATES = (8.0, 23.976, 30.0)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rates") / "set", clips=7, rates=RATES)


def counting(monkeypatch):
    asked, original = [], ClipSource.record
    monkeypatch.setattr(ClipSource, "record", lambda self, index: asked.append(index) or original(self, index))
    return asked


def test_rates_are_known_without_reading_a_record(mixed, monkeypatch):
    asked = counting(monkeypatch)
    for split, count in (("train", 7), ("val", 2)):
        found = ClipSource(mixed, split).rates()
        assert found.dtype == np.float32
        assert found.tolist() == [np.float32(RATES[i % 3]) for i in range(count)]
    assert asked == []


@pytest.mark.parametrize("how", ["missing", "cut", "another set's", "changed"])
def test_otherwise_the_records_are_read(mixed, tmp_path, monkeypatch, how):
    copy = tmp_path / "copy"
    shutil.copytree(mixed, copy)
    file = copy / rates.FILE_NAME
    data = bytearray(file.read_bytes())
    match how:
        case "missing":
            file.unlink()
        case "cut":
            file.write_bytes(data[:-3])
        case "another set's":
            other = write(tmp_path / "other", clips=7)
            shutil.copy(f"{other}/{rates.FILE_NAME}", file)
        case "changed":
            place = data.index(np.float32(23.976).tobytes())
            data[place : place + 4] = np.float32(25).tobytes()
            file.write_bytes(data)
    asked = counting(monkeypatch)
    assert ClipSource(copy, "train").rates().tolist() == [np.float32(RATES[i % 3]) for i in range(7)]
    assert asked == list(range(7))
