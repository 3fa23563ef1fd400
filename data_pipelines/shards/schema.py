"""What one record of a shard set holds, and how its pixels are stored.

A record is a tf.train.Example written through `tensorflow_datasets` features, so that a stock
`tfds.builder_from_directory(dir).as_data_source(split)` reads it, without TensorFlow (hence no Video or Image
feature: a clip is a field of bytes).

Beside the pixels a record may hold arrays, the same ones for all records of a set, as a world knows them (flow, depth,
masks ...); each is a field of its own, stored as it is.

Codecs.  `raw`: the uint8 pixels in C order, for clips of a few kilobytes.  `h264`: an MP4, lossy, 4:2:0.
`h264_lossless`: an MP4 that gives every pixel back.  `av1`: as `h264`, in half the bytes.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.shards.example import Example
from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.media import video as media
from vdm_jax.media.window import decode_frames, resize

SCHEMA_VERSION = 1
CODECS = ("raw", "h264", "h264_lossless", "av1")


@dataclasses.dataclass(frozen=True)
class StoredField:
    """An array that every record of a set holds beside its pixels.

    Attributes:
      shape: of the array; None where it differs from record to record, in one dim at most (tfds cannot tell the shape
        of an empty array with more).
      dtype: name of a numpy type that tfds knows: `float32`, `uint8`, `bool` ...
    """

    shape: tuple[int | None, ...]
    dtype: str

    def __post_init__(self):
        if self.shape.count(None) > 1:
            raise ValueError(f"shape: {list(self.shape)} leaves more than one dim open")

    def holds(self, value: np.ndarray) -> bool:
        """Whether an array is of this shape and type."""
        sizes = zip(self.shape, value.shape)
        return len(self.shape) == value.ndim and all(s in (None, n) for s, n in sizes) and value.dtype == self.dtype


@dataclasses.dataclass(frozen=True)
class ClipRecord:
    """One clip.

    Attributes:
      video: the pixels, stored as `codec` says; a view of the whole record where raw pixels were read.
      codec: one of `CODECS`.
      caption: a sentence, or "".
      fps: frames per second; like every number of a tf.train.Example that is no integer, float32 on disk.
      frames, height, width: size of the clip; exact, whatever the codec padded.
      source: where it comes from: a file's name within its folder, or a world.
      start: second of the source at which the clip starts.
      split: "train" or "val".
      index: running number of the clip within its split.
      labels: JSON text with whatever else is known (attributes of a world, scores of a filter ...).
      fields: name -> array, those of the set's `ClipSpec.fields`.
    """

    video: bytes | memoryview
    codec: str
    caption: str
    fps: float
    frames: int
    height: int
    width: int
    source: str
    start: float
    split: str
    index: int
    labels: str = "{}"
    fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


_PLAIN = {f.name: f.type for f in dataclasses.fields(ClipRecord) if f.name != "fields"} | {"video": bytes}
NAMES = frozenset(_PLAIN)  # taken: no array may have one of these


def pack_pixels(pixels: np.ndarray, codec: str, fps: float, crf: int = 18) -> bytes:
    """Stores a clip's pixels.

    Args:
      pixels: RGB uint8 [T, H, W, 3].
      codec: one of `CODECS`.
      fps: frames per second.
      crf: quality of `h264` and `av1`, 0 (best) to 51.

    Raises:
      ValueError: an unknown codec, or a wrong shape, dtype, fps or crf.
    """
    if codec not in CODECS:
        raise ValueError(f"codec: {did_you_mean(codec, CODECS)}")
    if codec == "raw":
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"pixels: expected uint8 [T, H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
        return np.ascontiguousarray(pixels).tobytes()
    kind = "av1" if codec == "av1" else "h264"
    return media.encode_mp4(pixels, fps, lossless=codec == "h264_lossless", crf=crf, codec=kind)


def unpack_pixels(record: ClipRecord) -> np.ndarray:
    """Gives a clip's pixels back: RGB uint8 [T, H, W, 3].

    Raises:
      RunError: the bytes do not hold a clip of the size that the record states.
    """
    shape = (record.frames, record.height, record.width, 3)
    if record.codec == "raw":
        if len(record.video) != np.prod(shape):
            raise RunError(f"a raw clip of {list(shape)} has {len(record.video)} bytes")
        return np.frombuffer(record.video, np.uint8).reshape(shape)
    if record.codec not in CODECS:
        raise RunError(f"codec: {did_you_mean(record.codec, CODECS)}")
    pixels = media.decode(record.video)
    if len(pixels) != record.frames or pixels.shape[1] < record.height or pixels.shape[2] < record.width:
        raise RunError(f"a clip of {list(shape)} decodes to {list(pixels.shape)}")
    return pixels[:, : record.height, : record.width]


def unpack_window(record: ClipRecord, numbers: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """Some frames of a clip, decoding no more of an MP4 than they take.

    Args:
      record: the clip.
      numbers: of the frames, ascending.
      size: height and width to which they are resized; None leaves them.

    Returns:
      RGB uint8 [len(numbers), H, W, 3].

    Raises:
      RunError: as `unpack_pixels`.
    """
    odd = record.height % 2 or record.width % 2  # then the picture may have a row or column that is not the clip's
    if record.codec == "raw" or (size is None and len(numbers) == record.frames):
        pixels = frames_at(unpack_pixels(record), numbers)
    else:
        pixels = decode_frames(record.video, numbers, None if odd else size, frames=record.frames)
        if size is None and (pixels.shape[1] < record.height or pixels.shape[2] < record.width):
            raise RunError(f"a clip of {record.height}x{record.width} decodes to {pixels.shape[1]}x{pixels.shape[2]}")
        if size is None or odd:
            pixels = pixels[:, : record.height, : record.width]
    return pixels if size is None else resize(pixels, *size)


def frames_at(video: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The frames `numbers`, ascending, of `[T, ...]`; not copied where they follow one another."""
    first, last = int(numbers[0]), int(numbers[-1])
    return video[first : last + 1] if last - first + 1 == len(numbers) else video[numbers]


def features(fields: Mapping[str, StoredField]) -> Any:
    """The `tfds.features.FeaturesDict` of a record with these arrays."""
    return _features(tuple(fields.items()))


@functools.lru_cache(maxsize=16)
def _features(fields: tuple[tuple[str, StoredField], ...]) -> Any:
    import tensorflow_datasets as tfds  # takes a second to import; only shard files need it

    kinds = {
        bytes: lambda: tfds.features.Tensor(shape=(), dtype=np.object_),
        str: tfds.features.Text,
        float: lambda: np.float32,
        int: lambda: np.int64,
    }
    arrays = {
        name: tfds.features.Tensor(shape=field.shape, dtype=np.dtype(field.dtype).type, encoding="bytes")
        for name, field in fields
    }
    return tfds.features.FeaturesDict({name: kinds[kind]() for name, kind in _PLAIN.items()} | arrays)


def serialize(record: ClipRecord, fields: Mapping[str, StoredField]) -> bytes:
    """A record as the bytes of a tf.train.Example.

    Args:
      record: the clip.
      fields: the arrays of its set.

    Raises:
      ValueError: the arrays of the record are not those.
    """
    if record.fields.keys() != fields.keys():
        raise ValueError(f"fields: [{', '.join(record.fields)}] in a set with [{', '.join(fields)}]")
    for name, field in fields.items():
        value = record.fields[name]
        if not field.holds(value):
            raise ValueError(
                f"fields.{name}: {value.dtype} {list(value.shape)} is not {field.dtype} {list(field.shape)}"
            )
    plain = {name: getattr(record, name) for name in _PLAIN} | {"video": bytes(record.video)}
    return in_order(features(fields).serialize_example(plain | dict(record.fields)))


def in_order(example: bytes) -> bytes:
    """A tf.train.Example with its fields in one order; as the library writes them, each process has its own."""
    from tensorflow_datasets.proto import tf_example_pb2  # see `features`

    return tf_example_pb2.Example.FromString(example).SerializeToString(deterministic=True)


def deserialize(data: bytes, fields: Mapping[str, StoredField]) -> ClipRecord:
    """The inverse of `serialize`; of the arrays only `fields` are read, which may be fewer than are stored.

    Raises:
      RunError: the bytes are no such record.
    """
    try:
        example = Example(data)
        plain = {name: example.value(name, kind) for name, kind in _PLAIN.items()}
        if plain["codec"] != "raw":
            plain["video"] = bytes(plain["video"])
        arrays = {name: example.array(name, field.shape, np.dtype(field.dtype)) for name, field in fields.items()}
        return ClipRecord(**plain, fields=arrays)
    except Exception as error:  # protobuf and decoding errors: whatever it is, the record cannot be used
        raise RunError(f"not a clip record ({type(error).__name__}: {error})") from None
