"""The fields of a tf.train.Example, read straight off its bytes.

    Example   { 1: Features { 1: entry { 1: name, 2: Feature } ... } }
    Feature   { 1: { 1: bytes ... } }  or  { 2: { 1: float32 ... } }  or  { 3: { 1: varint ... } }

Each part in braces is a number of bytes and these bytes (protobuf's wire format).  A parsed message holds a copy of a
clip's megabytes, and gives out another; `tfds.features` adds 0.2 ms of Python for each record.  Here a field is a view
of the record, found in some 30 us.
"""

import struct
from typing import Any

import numpy as np

_KINDS = {1: bytes, 2: float, 3: int}  # by the number of the field in a Feature
_BYTES = 2  # wire type: a length and so many bytes


class Example:
    """One record.

    Args:
      data: its bytes.

    Raises:
      ValueError: they are no tf.train.Example.
    """

    def __init__(self, data: bytes):
        try:
            self._fields = _fields(memoryview(data))
        except (IndexError, UnicodeDecodeError) as error:
            raise ValueError(f"not a tf.train.Example ({error})") from None

    def value(self, name: str, kind: type) -> Any:
        """A field as `bytes` (a view), `str` (UTF-8), `int` or `float`.

        Raises:
          KeyError: there is none of that name and kind.
          ValueError: it is no text, or not one number.
        """
        if name not in self._fields:
            raise KeyError(f"no field {name!r}")
        stored, view = self._fields[name]
        if stored is not (bytes if kind is str else kind):
            raise KeyError(f"field {name!r} holds no {kind.__name__}")
        if kind is str:
            return str(view, "utf-8")
        if kind is float:
            return struct.unpack("<f", view)[0] if len(view) == 4 else _not_one(name)
        if kind is int:
            number, end = _varint(view, 0)
            return number - (number >> 63 << 64) if end == len(view) else _not_one(name)
        return view

    def array(self, name: str, shape: tuple[int | None, ...], dtype: np.dtype) -> np.ndarray:
        """A field of raw numbers, read-only; one dim of `shape` may be None.

        Raises:
          KeyError: as `value`.
          ValueError: they do not fill the shape.
        """
        values, empty = np.frombuffer(self.value(name, bytes), dtype), 0 in shape
        return values.reshape([(0 if empty else -1) if size is None else size for size in shape])


def _not_one(name: str) -> Any:
    raise ValueError(f"field {name!r} does not hold one number")


def _fields(data: memoryview) -> dict[str, tuple[type, memoryview]]:
    """Name -> kind and content of its only value."""
    found = {}
    for number, features in _parts(data):
        for entry, pair in _parts(features) if number == 1 else ():
            if entry != 1:
                continue
            both = dict(_parts(pair))
            for kind, values in _parts(both.get(2, memoryview(b""))):
                content = [value for field, value in _parts(values) if field == 1]
                if kind in _KINDS and len(content) == 1:
                    found[str(both[1], "utf-8")] = (_KINDS[kind], content[0])
    return found


def _parts(data: memoryview):
    """The fields of a message, all of which have a length: (number, content)."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 != _BYTES:
            raise IndexError(f"wire type {tag & 7} at byte {at}")
        size, at = _varint(data, at)
        if at + size > len(data):
            raise IndexError(f"{size} bytes announced, {len(data) - at} left")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number whose bytes hold seven bits each, the lowest first, and where it ends."""
    byte = data[at]
    if byte < 128:
        return byte, at + 1
    number, shift = byte & 127, 7
    while True:
        at += 1
        byte = data[at]
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at + 1
        shift += 7
