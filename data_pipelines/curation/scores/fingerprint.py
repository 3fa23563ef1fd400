"""A fingerprint of a clip: what stays when it is encoded again, resized, brightened or cropped a little.

Of the mean picture of each third of the clip, inside its bars, the low frequencies of a cosine transform without the
mean are taken, each weighted by its frequency (natural pictures fall off as 1 / f) and clipped.  Signs of the lowest 64
are the perceptual hash; all of them, scaled to unit length, are the embedding, whose inner product with another clip's
tells near duplicates (`duplicates`).
"""

import base64
import dataclasses
import itertools

import numpy as np

from data_pipelines.curation.scores.bars import inside
from data_pipelines.curation.scores.opencv import import_opencv
from data_pipelines.curation.scores.protocol import Column, Sample

GRID = 32  # pixels of the square that is transformed
LOW, HASH = 12, 8  # frequencies along each axis: of the embedding, and of the hash
PARTS = 3  # of the clip
CLIP = 2.5  # standard deviations that one frequency counts at most
SCALE = 127  # of a component in one byte


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Perceptual hash and embedding, as text."""

    name: str = "fingerprint"
    version: int = 1
    columns: tuple[Column, ...] = (
        Column("phash", f"perceptual hashes of {PARTS} parts of the clip, 16 hexadecimal digits each"),
        Column("embedding", "what the clip looks like, signed bytes of a unit vector in base64"),
    )

    def score(self, sample: Sample) -> dict[str, float | str]:
        """See `Scorer`."""
        parts = [frequencies(picture) for picture in thirds(inside(sample, sample.grey))]
        hashes = "".join(np.packbits(part[:HASH, :HASH].ravel() > 0).tobytes().hex() for part in parts)
        return {"phash": hashes, "embedding": encode(np.concatenate([part.ravel() for part in parts]))}


def thirds(grey: np.ndarray) -> np.ndarray:
    """Mean pictures of the parts of a clip, float32 [PARTS, GRID, GRID], from luma uint8 [T, h, w]."""
    cv2 = import_opencv()
    small = np.stack([cv2.resize(g, (GRID, GRID), interpolation=cv2.INTER_AREA) for g in grey]).astype(np.float32)
    bounds = np.linspace(0, len(small), PARTS + 1)
    return np.stack([small[int(a) : max(int(np.ceil(b)), int(a) + 1)].mean(0) for a, b in itertools.pairwise(bounds)])


def frequencies(picture: np.ndarray) -> np.ndarray:
    """Weighted low frequencies [LOW, LOW] of a picture float32 [GRID, GRID], of standard deviation 1, the mean 0."""
    cv2 = import_opencv()
    found = cv2.dct(picture)[:LOW, :LOW]
    i, j = np.mgrid[0:LOW, 0:LOW]
    found = found * np.hypot(i, j)
    deviation = np.sqrt((found**2).mean()) + 1e-3
    return np.clip(found / deviation, -CLIP, CLIP)


def encode(vector: np.ndarray) -> str:
    """A vector as text: its direction in signed bytes."""
    largest = np.abs(vector).max()
    return base64.b64encode(np.round(vector * (SCALE / max(largest, 1e-9))).astype(np.int8).tobytes()).decode("ascii")


def decode(text: str) -> np.ndarray:
    """The unit vector of `encode`, float32 [PARTS * LOW * LOW]; zeros of a picture without structure.

    Raises:
      ValueError: it is not such a text.
    """
    vector = np.frombuffer(decode_bytes(text), np.int8).astype(np.float32)
    return vector / max(1e-6, float(np.linalg.norm(vector)))


def decode_bytes(text: str) -> bytes:
    """The signed bytes of `encode`; errors as `decode`."""
    try:
        found = base64.b64decode(text, validate=True)
    except ValueError:
        found = b""
    if len(found) != PARTS * LOW * LOW:
        raise ValueError(f"embedding: {text[:20]!r}... is not {PARTS * LOW * LOW} bytes in base64")
    return found


def coarse(vectors: np.ndarray, low: int) -> np.ndarray:
    """Only the `low` lowest frequencies along each axis of embeddings [N, PARTS * LOW * LOW], which change least."""
    return vectors.reshape(-1, PARTS, LOW, LOW)[:, :, :low, :low].reshape(len(vectors), -1)
