"""What one record of a shard set holds, and how its pixels are stored.

A record is a tf.train.Example written through `tensorflow_datasets` features, so that a stock
`tfds.builder_from_directory(dir).as_data_source(split)` reads it, without TensorFlow (hence no Video or Image
feature: a clip is a field of bytes).

Codecs.  `raw`: the uint8 pixels in C order, for clips of a few kilobytes.  `h264`: an MP4, lossy, 4:2:0.
`h264_lossless`: an MP4 that gives every pixel back.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.media import video as media

SCHEMA_VERSION = 1
CODECS = ("raw", "h264", "h264_lossless")


@dataclasses.dataclass(frozen=True)
class ClipRecord:
    """One clip.

    Attributes:
      video: the pixels, stored as `codec` says.
      codec: one of `CODECS`.
      caption: a sentence, or "".
      fps: frames per second; like every number of a tf.train.Example that is no integer, float32 on disk.
      frames, height, width: size of the clip; exact, whatever the codec padded.
      source: where it comes from: a file's name within its folder, or a world.
      start: second of the source at which the clip starts.
      split: "train" or "val".
      index: running number of the clip within its split.
      labels: JSON text with whatever else is known (attributes of a world, scores of a filter ...).
    """

    video: bytes
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


def pack_pixels(pixels: np.ndarray, codec: str, fps: float, crf: int = 18) -> bytes:
    """Stores a clip's pixels.

    Args:
      pixels: RGB uint8 [T, H, W, 3].
      codec: one of `CODECS`.
      fps: frames per second.
      crf: quality of `h264`, 0 (best) to 51.

    Raises:
      ValueError: an unknown codec, or a wrong shape, dtype, fps or crf.
    """
    if codec not in CODECS:
        raise ValueError(f"codec: {did_you_mean(codec, CODECS)}")
    if codec == "raw":
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"pixels: expected uint8 [T, H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
        return np.ascontiguousarray(pixels).tobytes()
    return media.encode_mp4(pixels, fps, lossless=codec == "h264_lossless", crf=crf)


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


@functools.cache
def features() -> Any:
    """The `tfds.features.FeaturesDict` of a record."""
    import tensorflow_datasets as tfds  # takes a second to import; only shard files need it

    kinds = {
        bytes: lambda: tfds.features.Tensor(shape=(), dtype=np.object_),
        str: tfds.features.Text,
        float: lambda: np.float32,
        int: lambda: np.int64,
    }
    return tfds.features.FeaturesDict({f.name: kinds[f.type]() for f in dataclasses.fields(ClipRecord)})


def serialize(record: ClipRecord) -> bytes:
    """A record as the bytes of a tf.train.Example."""
    return in_order(features().serialize_example(dataclasses.asdict(record)))


def in_order(example: bytes) -> bytes:
    """A tf.train.Example with its fields in one order; as the library writes them, each process has its own."""
    from tensorflow_datasets.proto import tf_example_pb2  # see `features`

    return tf_example_pb2.Example.FromString(example).SerializeToString(deterministic=True)


def deserialize(data: bytes) -> ClipRecord:
    """The inverse of `serialize`.

    Raises:
      RunError: the bytes are no such record.
    """
    try:
        values = features().deserialize_example_np(data)
        kinds = {f.name: f.type for f in dataclasses.fields(ClipRecord)}
        return ClipRecord(**{name: _plain(values[name], kind) for name, kind in kinds.items()})
    except Exception as error:  # protobuf, tfds and decoding errors: whatever it is, the record cannot be used
        raise RunError(f"not a clip record ({type(error).__name__}: {error})") from None


def _plain(value: Any, kind: type) -> Any:
    if kind is str:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    return kind(value)
