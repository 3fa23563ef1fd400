"""Scores of a CLIP checkpoint: how the clip looks to an aesthetic head, and how well it fits its captions.

Nothing here knows a network: whoever has a checkpoint passes functions.  Pictures are embedded once, while the source
is decoded; captions come later, over the table, since they may change without looking at the video again.  As for
Stable Video Diffusion (arXiv 2311.15127) the first, the middle and the last picture are looked at.
"""

import base64
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from data_pipelines.curation.scores.protocol import Column, Sample, rounded

VERSION = 1
TEXT_COLUMNS = (Column("text_similarity", "likeness of the clip and its best caption", "cosine", "better"),)
EmbedPictures = Callable[[np.ndarray], np.ndarray]  # RGB uint8 [N, h, w, 3] -> float [N, D]
EmbedTexts = Callable[[Sequence[str]], np.ndarray]  # N texts -> float [N, D]
Rate = Callable[[np.ndarray], np.ndarray]  # unit vectors float32 [N, D] -> float [N]


@dataclasses.dataclass(frozen=True)
class ClipScores:
    """Aesthetic score and embedding.

    Attributes:
      embed: the image encoder, with its own resizing.
      rate: the aesthetic head; None leaves the score out.
      weights: names the checkpoints, e.g. by their digests: scores are stored under it.
    """

    embed: EmbedPictures = dataclasses.field(compare=False)
    weights: str
    rate: Rate | None = dataclasses.field(default=None, compare=False)
    name: str = "clip"
    version: int = 1

    def __post_init__(self):
        if not self.weights:
            raise ValueError("weights: '' names no checkpoint; scores are stored under its name")

    @property
    def columns(self) -> tuple[Column, ...]:
        """As `Scorer.columns`."""
        rated = Column("aesthetic", "aesthetic score, mean of first, middle and last picture", "of the head", "better")
        seen = Column("clip_embedding", "mean embedding of the clip, unit length, half precision in base64")
        return (seen,) if self.rate is None else (rated, seen)

    def score(self, sample: Sample) -> dict[str, float | str]:
        """See `Scorer`."""
        count = len(sample.frames)
        vectors = unit(self.embed(sample.frames[sorted({0, count // 2, count - 1})]))
        mean = unit(vectors.mean(0, keepdims=True))[0]
        scores = {"clip_embedding": base64.b64encode(mean.astype(np.float16).tobytes()).decode("ascii")}
        if self.rate is not None:
            scores["aesthetic"] = float(np.mean(self.rate(vectors)))
        return rounded(scores)


class Row(Protocol):
    """What is needed of a row of the table."""

    id: str
    scores: Mapping[str, object]
    captions: Sequence


def score_captions(rows: Iterable[Row], embed: EmbedTexts, batch: int = 256) -> dict[str, dict[str, float]]:
    """Text-video similarity of every clip that has captions and an embedding.

    Args:
      rows: clips; each caption has a `text`.
      embed: the text encoder that belongs to the image encoder.
      batch: texts embedded at once.

    Returns:
      clip id -> {"text_similarity": cosine of its best caption}.
    """
    held = [row for row in rows if row.captions and "clip_embedding" in row.scores]
    texts = sorted({caption.text for row in held for caption in row.captions})
    parts = [unit(embed(texts[i : i + batch])) for i in range(0, len(texts), batch)]
    vectors = dict(zip(texts, np.concatenate(parts))) if parts else {}
    found = {}
    for row in held:
        seen = np.frombuffer(base64.b64decode(str(row.scores["clip_embedding"])), np.float16).astype(np.float32)
        found[row.id] = rounded({"text_similarity": max(float(vectors[c.text] @ seen) for c in row.captions)})
    return found


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [N, D] of unit length, float32."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
