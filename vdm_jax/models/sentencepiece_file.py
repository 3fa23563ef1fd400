"""SentencePiece models (`spiece.model`) of T5, read without the `sentencepiece` library.

The file is a protocol buffer: fields of a number and a wire type, of which these are read:

    1 pieces {1 piece, 2 score, 3 type},   2 trainer {3 model type, 35 byte fallback, 40 unk id},   3 normalizer {2 map}
"""

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path

from vdm_jax.errors import RunError

UNIGRAM = 1
CONTROL = 3  # type of a piece that no text gives, <pad> for example


@dataclasses.dataclass(frozen=True)
class SentencePieceModel:
    """What a model says.

    Attributes:
      pieces: (piece, score), by id.
      control: those that are control symbols.
      unknown: id of the unknown piece.
      byte_fallback: whether unknown characters become bytes.
      normalizer: compiled map of characters; empty is none.
    """

    pieces: list[tuple[str, float]]
    control: list[str]
    unknown: int
    byte_fallback: bool
    normalizer: bytes


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Reads a unigram model.

    Raises:
      RunError: it cannot be read, or is damaged.
      ValueError: it is not a unigram model.
    """
    try:
        fields = list(_fields(path.read_bytes()))
        pieces = [dict(_fields(value)) for number, value in fields if number == 1]
        trainer = dict(_fields(next((value for number, value in fields if number == 2), b"")))
        normalizer = dict(_fields(next((value for number, value in fields if number == 3), b"")))
        named = [(piece[1].decode(), struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0) for piece in pieces]
    except (OSError, IndexError, KeyError, ValueError, TypeError, struct.error) as error:
        raise RunError(f"{path}: not a SentencePiece model that can be read ({error})") from None
    if trainer.get(3, UNIGRAM) != UNIGRAM or not named:
        raise ValueError(f"{path}: not a unigram model with pieces; those of T5 are")
    control = [name for (name, _), piece in zip(named, pieces) if piece.get(3) == CONTROL]
    return SentencePieceModel(named, control, trainer.get(40, 0), bool(trainer.get(35, 0)), normalizer.get(2, b""))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message: an integer, or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        else:
            size, at = (8, at) if kind == 1 else (4, at) if kind == 5 else _varint(data, at)
            if kind not in (1, 2, 5) or at + size > len(data):
                raise ValueError("ends within a field, or has one of an unknown kind")
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
