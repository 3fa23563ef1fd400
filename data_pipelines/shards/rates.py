"""Frames per second of every clip of a set, beside its shards, so that a loader need not read all records for them.

`rates.safetensors` holds, for each split, float32 [N] and a digest of it and of the shards it belongs to.  It says
nothing that the records do not: where it is missing, damaged, or of other shards, the records are read.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from data_pipelines.shards.manifest import Shard

FILE_NAME = "rates.safetensors"
_DIGEST = ".sha256"


def packed(rates: Mapping[str, Sequence[float]], splits: Mapping[str, Sequence[Shard]]) -> bytes:
    """The content of the file.

    Args:
      rates: split -> rate of each clip.
      splits: split -> its shards.
    """
    tensors = {}
    for split, values in rates.items():
        tensors[split] = np.array(values, np.float32)
        tensors[split + _DIGEST] = _digest(tensors[split], splits[split])
    return safetensors.numpy.save(tensors)


def read(directory: Path, split: str, shards: Sequence[Shard]) -> np.ndarray | None:
    """Rates of a split, float32 [N]; None where they cannot be relied on."""
    try:
        tensors = safetensors.numpy.load((directory / FILE_NAME).read_bytes())
        rates, digest = tensors[split], tensors[split + _DIGEST]
    except (OSError, KeyError, ValueError, safetensors.SafetensorError):
        return None
    return rates if np.array_equal(digest, _digest(rates, shards)) else None


def _digest(rates: np.ndarray, shards: Sequence[Shard]) -> np.ndarray:
    told = hashlib.sha256(rates.astype("<f4").tobytes())
    for shard in shards:
        told.update(f"{shard.sha256} {shard.records}\n".encode())
    return np.frombuffer(told.digest(), np.uint8)
