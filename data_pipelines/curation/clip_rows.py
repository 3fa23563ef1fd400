"""The clips of a run as a sequence that lies on disk, for a million of them and their scores are gigabytes of objects.

Rows are added in order, some at a time pickled into a file without a name (it is gone when nobody holds it, however
the process ends), and made again when they are looked at.  What is worked out for every row, as a decision, is no new
list either: `Changed` applies it to a row when that is looked at.  So going through all rows takes some seconds per
million, and the memory of one block.
"""

import abc
import bisect
import itertools
import os
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from data_pipelines.curation.table import ClipRow
from data_pipelines.shards.files import writing

BLOCK = 256  # rows that are pickled together; they share what is alike in them


class _Rows(Sequence[ClipRow]):
    """Whole numbers and slices as indices, for sequences that can make row k."""

    def __getitem__(self, k: int | slice) -> "ClipRow | list[ClipRow]":
        places = range(len(self))[k]
        return [self._row(place) for place in places] if isinstance(k, slice) else self._row(places)

    @abc.abstractmethod
    def _row(self, place: int) -> ClipRow: ...


class ClipRows(_Rows):
    """Rows on disk.

    Args:
      folder: where the file is made; it has no name there.

    Raises:
      RunError: the file cannot be made.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (open for as long as the rows are)
        self._starts: list[int] = []  # of each block, the number of its first row
        self._bytes = [0]  # where each block begins, and the last one ends
        self._count = 0
        self._block: tuple[int, list[ClipRow]] = (-1, [])  # the one that was looked at last

    def extend(self, rows: Iterable[ClipRow]) -> None:
        """Adds rows at the end.

        Raises:
          RunError: the disk is full, or fails otherwise.
        """
        rows = iter(rows)
        while block := list(itertools.islice(rows, BLOCK)):
            data = pickle.dumps(block, pickle.HIGHEST_PROTOCOL)
            with writing(self._folder):
                self._file.write(data)
                self._file.flush()
            self._starts.append(self._count)
            self._bytes.append(self._bytes[-1] + len(data))
            self._count += len(block)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ClipRow]:
        for number in range(len(self._starts)):
            yield from self._read(number)

    def _row(self, place: int) -> ClipRow:
        number = bisect.bisect_right(self._starts, place) - 1
        if self._block[0] != number:
            self._block = number, self._read(number)
        return self._block[1][place - self._starts[number]]

    def _read(self, number: int) -> list[ClipRow]:
        begin, end = self._bytes[number : number + 2]
        return pickle.loads(os.pread(self._file.fileno(), end - begin, begin))


class Changed(_Rows):
    """Some rows of a sequence, each as a function makes it when it is looked at.

    Args:
      rows: the sequence.
      places: which rows, rising.
      change: (place in `rows`, row) -> the row to show.
    """

    def __init__(
        self,
        rows: Sequence[ClipRow],
        places: Sequence[int],
        change: Callable[[int, ClipRow], ClipRow] = lambda _, row: row,
    ):
        self._rows, self._places, self._change = rows, places, change

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[ClipRow]:
        places = iter(self._places)
        wanted = next(places, None)
        for place, row in enumerate(self._rows):
            if wanted is None:
                return
            if place == wanted:
                yield self._change(place, row)
                wanted = next(places, None)

    def _row(self, place: int) -> ClipRow:
        place = self._places[place]
        return self._change(place, self._rows[place])
