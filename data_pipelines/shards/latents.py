"""Clips as latents: what one record holds, and what all records of a set have in common.

A record is a tf.train.Example of raw arrays, which a stock `tfds.builder_from_directory(dir).as_data_source(split)`
gives back as numpy arrays:

    latents           [T, H, W, C]   as the denoiser sees them: shifted and scaled
    <condition>       [n, ...]       one array a key of `types.CONDITION_KEYS`, or `vector.<name>` for a number; `flow`
                                     and `noise` (`types.NOISE_KEYS`) likewise
    caption, fps, source, start, split, index, labels    as in `schema.ClipRecord`

float16 and float32 are stored as they are, bfloat16 as raw 16-bit words (uint16).  Of a condition only the rows up to
the last one that differs from what would stand there anyway are stored (`Entry.fill`): a prompt's features end with the
prompt, a first frame's latents with the first frame.

Beside the shards, `null.safetensors` holds the same conditions of the empty prompt.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy

from data_pipelines.shards.example import Example
from data_pipelines.shards.schema import frames_at, in_order
from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.types import CONDITION_KEYS, NOISE_KEYS

CODEC = "latents"
NULL_FILE = "null.safetensors"
FILLS = ("zeros", "last")
_NUMBERS = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "bool": np.dtype(bool),
}
DTYPES = ("float16", "bfloat16", "float32")  # of latents
VECTOR = "vector."  # in front of the name of a number


@dataclasses.dataclass(frozen=True)
class Entry:
    """A condition that every clip of a set has.

    Attributes:
      shape: of one clip's, as a loader gives it.
      dtype: as stored: `float32`, `float16`, `bfloat16` or `bool`.
      fill: what stands in the rows that are not stored: `zeros`, or the `last` row that is.
    """

    shape: tuple[int, ...]
    dtype: str
    fill: str = "zeros"

    def __post_init__(self):
        if self.dtype not in _NUMBERS:
            raise ValueError(f"dtype: {did_you_mean(self.dtype, _NUMBERS)}")
        if self.fill not in FILLS:
            raise ValueError(f"fill: {did_you_mean(self.fill, FILLS)}")

    def trim(self, value: np.ndarray) -> np.ndarray:
        """The rows that have to be stored, in the dtype of the entry.

        Raises:
          ValueError: another shape.
        """
        if value.shape != self.shape:
            raise ValueError(f"shape {list(value.shape)} is not {list(self.shape)}")
        value = np.asarray(value, _NUMBERS[self.dtype])
        if not self.shape:
            return value
        rows = value.reshape(len(value), -1)
        like = np.zeros_like(rows[:1]) if self.fill == "zeros" else rows[-1:]
        differ = np.flatnonzero((rows != like).any(axis=1))
        kept = int(differ[-1]) + 1 if len(differ) else 0
        return value[: kept if self.fill == "zeros" else min(kept + 1, len(value))]

    def write_into(self, row: np.ndarray, stored: np.ndarray) -> None:
        """Fills `[1, *shape]` of a batch, which is zeros, with what was stored."""
        if not self.shape:
            row[0] = stored
            return
        row[0, : len(stored)] = stored
        if self.fill == "last":
            row[0, len(stored) :] = stored[-1]

    @property
    def batch_dtype(self) -> np.dtype:
        """Of the batch: bool stays, numbers become float32."""
        return np.dtype(bool) if self.dtype == "bool" else np.dtype(np.float32)


@dataclasses.dataclass(frozen=True)
class LatentSpec:
    """What all clips of a latent set have in common.

    Attributes:
      frames, height, width, channels: of the latents.
      dtype: of the latents as stored, one of `DTYPES`.
      pixels: frames, height and width of the clips that they were made of.
      conditions: name -> what is stored of it; a key of `types.CONDITION_KEYS` or `NOISE_KEYS`, or
        `vector.<name>`.
      encoders: component -> its class, the digest of its weights, and how its output was scaled or read.
      null: SHA-256 of `null.safetensors`; "" where there is none.
      codec: always `latents`.
    """

    frames: int
    height: int
    width: int
    channels: int
    dtype: str
    pixels: tuple[int, int, int]
    conditions: Mapping[str, Entry] = dataclasses.field(default_factory=dict)
    encoders: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    null: str = ""
    codec: str = CODEC

    def __post_init__(self):
        for name in ("frames", "height", "width", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not at least 1")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: {did_you_mean(self.dtype, DTYPES)}")
        for name in self.conditions:
            if name not in CONDITION_KEYS | NOISE_KEYS and not name.startswith(VECTOR):
                raise ValueError(f"conditions: {did_you_mean(name, CONDITION_KEYS | NOISE_KEYS)}")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "LatentSpec":
        """From the `clip` of a manifest."""
        conditions = {
            name: Entry(**{**entry, "shape": tuple(entry["shape"])}) for name, entry in fields["conditions"].items()
        }
        return cls(**{**fields, "pixels": tuple(fields["pixels"]), "conditions": conditions})

    @property
    def decoded_shape(self) -> tuple[int, int, int, int]:
        """Of one clip's latents."""
        return self.frames, self.height, self.width, self.channels

    @property
    def decoded_dtype(self) -> np.dtype:
        """Of the latents in memory; a batch is float32."""
        return _NUMBERS[self.dtype]

    @property
    def decoded_bytes(self) -> int:
        """Size of one clip with its conditions, at most."""
        sizes = [math.prod(entry.shape) * _NUMBERS[entry.dtype].itemsize for entry in self.conditions.values()]
        return math.prod(self.decoded_shape) * self.decoded_dtype.itemsize + sum(sizes)

    def features(self) -> Any:
        """The `tfds.features.FeaturesDict` of a record."""
        return _features(self.decoded_shape, self.dtype, tuple(self.conditions.items()))

    def deserialize(self, data: bytes) -> "LatentRecord":
        """The inverse of `serialize`; raises RunError where the bytes are no such record."""
        try:
            example = Example(data)
            arrays = {
                name: example.array(name, (None, *entry.shape[1:]) if entry.shape else (), _NUMBERS[entry.dtype])
                for name, entry in self.conditions.items()
            }
            return LatentRecord(
                example.array("latents", self.decoded_shape, self.decoded_dtype),
                arrays,
                fps=example.value("fps", float),
                start=example.value("start", float),
                index=example.value("index", int),
                **{name: example.value(name, str) for name in _TEXTS},
            )
        except Exception as error:  # protobuf and decoding errors: whatever it is, the record cannot be used
            raise RunError(f"not a latent record ({type(error).__name__}: {error})") from None

    def contents(self, record: "LatentRecord", numbers: np.ndarray | None = None, size: None = None) -> dict[str, Any]:
        """`{"video": latents, those of the frames `numbers`, "conditions": {name: stored rows}}`."""
        assert size is None, "latents cannot be resized"
        latents = record.latents if numbers is None else frames_at(record.latents, numbers)
        return {"video": latents, "conditions": record.conditions}

    def serialize(self, record: "LatentRecord") -> bytes:
        """A record as the bytes of a tf.train.Example.

        Raises:
          ValueError: conditions that are missing, not of the set, or of another shape.
        """
        if record.conditions.keys() != self.conditions.keys():
            raise ValueError(f"conditions: {', '.join(record.conditions)} in a set with {', '.join(self.conditions)}")
        if record.latents.shape != self.decoded_shape:
            raise ValueError(f"latents: shape {list(record.latents.shape)} in a set of {list(self.decoded_shape)}")
        values = {"latents": np.asarray(record.latents, self.decoded_dtype)}
        for name, entry in self.conditions.items():
            try:
                values[name] = entry.trim(record.conditions[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        rest = {name: getattr(record, name) for name in (*_TEXTS, "fps", "start", "index")}
        words = {name: value.view(_word(value.dtype)) for name, value in values.items()}
        return in_order(self.features().serialize_example({**words, **rest}))


_TEXTS = ("caption", "source", "split", "labels")


@dataclasses.dataclass(frozen=True, eq=False)
class LatentRecord:
    """One clip; see the top of this file, and `schema.ClipRecord` for the fields that both have."""

    latents: np.ndarray
    conditions: Mapping[str, np.ndarray]
    caption: str
    fps: float
    source: str
    start: float
    split: str
    index: int
    labels: str = "{}"


def null_bytes(spec: LatentSpec, null: Mapping[str, np.ndarray]) -> bytes:
    """The content of `null.safetensors`: the conditions of the empty prompt, each of the shape of its entry."""
    kept = {}
    for name, value in null.items():
        entry = spec.conditions[name]
        if value.shape != entry.shape:
            raise ValueError(f"null.{name}: shape {list(value.shape)} is not {list(entry.shape)}")
        value = np.ascontiguousarray(value, _NUMBERS[entry.dtype])
        kept[name] = value.view(_word(value.dtype))
    return safetensors.numpy.save(kept)


def read_null(directory: Path, spec: LatentSpec) -> dict[str, np.ndarray]:
    """The conditions of the empty prompt, float32 (masks bool), each `[1, ...]`; {} where the set has none.

    Raises:
      RunError: the file is missing or damaged.
    """
    if not spec.null:
        return {}
    path = Path(directory) / NULL_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}, but the manifest lists this file") from None
    if hashlib.sha256(data).hexdigest() != spec.null:
        raise RunError(f"{path}: damaged, its content does not match its digest")
    entries = {name: spec.conditions[name] for name in safetensors.numpy.load(data)}
    return {
        name: value.view(_NUMBERS[entries[name].dtype]).astype(entries[name].batch_dtype)[None]
        for name, value in safetensors.numpy.load(data).items()
    }


@functools.lru_cache(maxsize=8)
def _features(latents: tuple[int, ...], dtype: str, conditions: tuple[tuple[str, Entry], ...]) -> Any:
    import tensorflow_datasets as tfds  # takes a second to import; only shard files need it

    def raw(shape: tuple[int | None, ...], kind: str) -> Any:
        return tfds.features.Tensor(shape=shape, dtype=_word(_NUMBERS[kind]).type, encoding="bytes")

    arrays = {name: raw((None, *e.shape[1:]) if e.shape else (), e.dtype) for name, e in conditions}
    texts = {name: tfds.features.Text() for name in _TEXTS}
    numbers = {"fps": np.float32, "start": np.float32, "index": np.int64}
    return tfds.features.FeaturesDict({"latents": raw(latents, dtype), **arrays, **texts, **numbers})


def _word(dtype: np.dtype) -> np.dtype:
    """What tfds stores numbers of this kind as: it knows no bfloat16."""
    return np.dtype(np.uint16) if dtype == _NUMBERS["bfloat16"] else dtype
