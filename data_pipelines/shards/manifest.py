"""The manifest of a shard set: what is in it, where it came from, and the digests that prove it is intact.

`manifest.json` lies beside the ArrayRecord files and carries its own digest.  It holds no clock time and no machine
name, so the same input and settings give the same manifest; its digest is the identity of the data for a run.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.shards import latents, schema
from data_pipelines.shards.latents import LatentSpec
from data_pipelines.shards.schema import SCHEMA_VERSION, ClipRecord, StoredField
from vdm_jax import config
from vdm_jax.errors import RunError, did_you_mean

FILE_NAME = "manifest.json"


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """What all clips of a set have in common.

    Attributes:
      frames, height, width: of a clip.
      codec: one of `schema.CODECS`.
      fields: name -> the array of that name that each record holds beside its pixels.
    """

    frames: int
    height: int
    width: int
    codec: str
    fields: Mapping[str, StoredField] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name in ("frames", "height", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not at least 1")
        for name in self.fields:
            if name in schema.NAMES:
                raise ValueError(f"fields: {name!r} is the name of something that every record holds")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ClipSpec":
        """From the `clip` of a manifest; sets without arrays do not mention them."""
        arrays = {n: StoredField(tuple(f["shape"]), f["dtype"]) for n, f in fields.get("fields", {}).items()}
        return cls(**{**fields, "fields": arrays})

    def only(self, names: Sequence[str]) -> "ClipSpec":
        """The same with some of the arrays.

        Raises:
          ValueError: one that the set does not have.
        """
        for name in names:
            if name not in self.fields:
                has = did_you_mean(name, self.fields) if self.fields else f"no {name!r}; this set stores none"
                raise ValueError(f"fields: {has}")
        return dataclasses.replace(self, fields={name: self.fields[name] for name in names})

    @property
    def decoded_shape(self) -> tuple[int, int, int, int]:
        """Of one clip's pixels."""
        return self.frames, self.height, self.width, 3

    @property
    def decoded_dtype(self) -> np.dtype:
        """Of the pixels in memory."""
        return np.dtype(np.uint8)

    @property
    def decoded_bytes(self) -> int:
        """Size of one decoded clip."""
        return math.prod(self.decoded_shape)

    def features(self) -> Any:
        """The `tfds.features.FeaturesDict` of a record."""
        return schema.features(self.fields)

    def deserialize(self, data: bytes) -> ClipRecord:
        """See `schema.deserialize`."""
        return schema.deserialize(data, self.fields)

    def contents(
        self, record: ClipRecord, numbers: np.ndarray | None = None, size: tuple[int, int] | None = None
    ) -> dict[str, Any]:
        """`{"video": uint8 [T, H, W, 3]}`, and of a set with arrays `"fields": {name: array}`.

        Args:
          record: as stored.
          numbers, size: of the frames that are wanted, see `schema.unpack_window`; None is all; arrays come whole.

        Raises:
          RunError: the record cannot be decoded, or is of another size.
        """
        if (record.frames, record.height, record.width) != (self.frames, self.height, self.width):
            raise RunError("differs in size from the manifest")
        try:
            whole = numbers is None
            video = schema.unpack_pixels(record) if whole else schema.unpack_window(record, numbers, size)
        except RunError as error:
            raise RunError(f"cannot be decoded: {error}") from None
        return {"video": video, "fields": record.fields} if self.fields else {"video": video}


@dataclasses.dataclass(frozen=True)
class Shard:
    """One ArrayRecord file."""

    file: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A source that gave no clips: a word to count by, and the sentence for a person."""

    file: str
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The whole of `manifest.json`.

    Attributes:
      clip: size and codec of all clips, or of their latents.
      splits: split -> its shards, in order; a split without clips is absent.
      provenance: where the clips come from: the kind of pipeline and one entry per source.
      settings: of that pipeline, complete.
      dropped: sources that gave no clips.
      schema: version of the record format.
    """

    clip: ClipSpec | LatentSpec
    splits: Mapping[str, tuple[Shard, ...]]
    provenance: Mapping[str, Any]
    settings: Mapping[str, Any]
    dropped: tuple[Dropped, ...] = ()
    schema: int = SCHEMA_VERSION

    def records(self, split: str) -> int:
        """Number of clips of a split.

        Raises:
          ValueError: no such split.
        """
        if split not in self.splits:
            raise ValueError(f"split: {did_you_mean(split, self.splits)}")
        return sum(shard.records for shard in self.splits[split])

    def digest(self) -> str:
        """Identity of the data: SHA-256 over the canonical JSON of everything above."""
        return hashlib.sha256(_canonical(_contents(self))).hexdigest()

    def reasons(self) -> dict[str, int]:
        """How many sources were dropped for which reason, the most frequent first."""
        counts: dict[str, int] = {}
        for dropped in self.dropped:
            counts[dropped.reason] = counts.get(dropped.reason, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def dump(manifest: Manifest) -> str:
    """The text of `manifest.json`."""
    return json.dumps({**_contents(manifest), "digest": manifest.digest()}, indent=1, ensure_ascii=False) + "\n"


def load(directory: str | Path) -> Manifest:
    """Reads the manifest of a shard set and checks its digest.

    Raises:
      ValueError: the directory does not exist or is no shard set (a usage error: a wrong path).
      RunError: the manifest is damaged, or of a newer format.
    """
    path = Path(directory) / FILE_NAME
    if not path.parent.is_dir():
        raise ValueError(f"shards: {path.parent} is not a directory")
    if not path.is_file():
        raise ValueError(f"shards: {path.parent} is no shard set, it has no {FILE_NAME}")
    try:
        fields = json.loads(path.read_text("utf-8"))
        digest = fields.pop("digest")
        version = fields["schema"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    if hashlib.sha256(_canonical(fields)).hexdigest() != digest:
        raise RunError(f"{path}: damaged, its content does not match its digest")
    if version != SCHEMA_VERSION:
        raise RunError(f"{path}: has format {version!r}, this code reads {SCHEMA_VERSION}; write the set again")
    splits = {name: tuple(Shard(**shard) for shard in shards) for name, shards in fields.pop("splits").items()}
    dropped = tuple(Dropped(**item) for item in fields.pop("dropped"))
    clip = fields["clip"]
    spec = LatentSpec.from_dict(clip) if clip["codec"] == latents.CODEC else ClipSpec.from_dict(clip)
    return Manifest(**{**fields, "clip": spec, "splits": splits, "dropped": dropped})


def _contents(manifest: Manifest) -> dict[str, Any]:
    contents = config.to_dict(manifest)
    if contents["clip"].get("fields") == {}:  # as before there were any: runs know a set by its digest
        del contents["clip"]["fields"]
    return contents


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
