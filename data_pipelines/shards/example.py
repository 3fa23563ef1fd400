"""The fields of a tf.train.Example, read straight off its bytes.

    Example   { 1: Features { 1: entry { 1: name, 2: Feature } ... } }
    Feature   { 1: { 1: bytes ... } }  or  { 2: { 1: float32 ... } }  or  { 3: { 1: varint ... } }

Each part in braces is a number of bytes and these bytes (protobuf's wire format).  A parsed message holds a copy of a
clip's megabytes, and gives out another; `tfds.features` adds 0.2 ms of Python for each record.  Here a field is a view
of the record, and all are found in some 20 us, as records hold one value a field and nothing else; a message that is
written in another way is refused.
"""

import struct
from typing import Any

import numpy as np

_KINDS = {0x0A: bytes, 0x12: float, 0x1A: int}  # by the tag within a Feature
_FIRST, _SECOND = 0x0A, 0x12  # tags of the fields 1 and 2, of a length and so many bytes


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
    if not data:
        return {}
    found, (at, end) = {}, _part(data, 0, len(data), _FIRST)
    if end != len(data):
        raise IndexError(f"{len(data) - end} bytes behind the features")
    while at < end:
        at, stop = _part(data, at, end, _FIRST)
        name, name_end = _part(data, at, stop, _FIRST)
        feature, feature_end = _part(data, name_end, stop, _SECOND)
        kind = _KINDS.get(data[feature]) if feature < feature_end else None
        if kind is None or feature_end != stop:
            raise IndexError(f"no value at byte {feature}")
        values, values_end = _part(data, feature, stop, data[feature])
        value, value_end = _part(data, values, values_end, _FIRST)
        if not (value_end == values_end == stop):
            raise IndexError(f"more than one value at byte {values}")
        found[str(data[name:name_end], "utf-8")] = (kind, data[value:value_end])
        at = stop
    return found


def _part(data: memoryview, at: int, end: int, tag: int) -> tuple[int, int]:
    """Where the content of the field at `at` begins and ends."""
    if data[at] != tag:
        raise IndexError(f"tag {data[at]} at byte {at}")
    size = data[at + 1]
    at += 2
    if size > 127:
        size, at = _varint(data, at - 1)
    if at + size > end:
        raise IndexError(f"{size} bytes announced, {end - at} left")
    return at, at + size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number whose bytes hold seven bits each, the lowest first, and where it ends."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
