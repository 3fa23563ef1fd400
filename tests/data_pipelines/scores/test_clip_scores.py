"""Scores of a CLIP checkpoint, with encoders that see the mean colour and know three words."""

import types

import numpy as np
import pytest

from data_pipelines.curation.scores.clip_scores import ClipScores, score_captions
from data_pipelines.curation.scores.protocol import Scorer
from tests.data_pipelines.scores.test_duplicates import sample_of

pytest.importorskip("cv2", reason="the extra `curate` is not installed")

WORDS = ("red", "green", "blue")


def embed_pictures(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1, 3).mean(1)


def embed_texts(texts):
    return [[5.0 * (word in text) for word in WORDS] for text in texts]


def clip_of(colour: tuple[int, int, int]):
    pixels = np.zeros((5, 16, 16, 3), np.uint8)
    pixels[:] = colour
    return sample_of(pixels)


def test_similarity_is_of_the_best_caption():
    scorer = ClipScores(embed_pictures, "toy")
    assert isinstance(scorer, Scorer)
    captions = [types.SimpleNamespace(text=text) for text in ("a green thing", "a red thing")]
    scores = scorer.score(clip_of((200, 0, 0)))
    assert set(scores) == {column.name for column in scorer.columns} == {"clip_embedding"}
    rows = [
        types.SimpleNamespace(id="red", scores=scores, captions=captions),
        types.SimpleNamespace(id="wrong", scores=scores, captions=captions[:1]),
        types.SimpleNamespace(id="silent", scores=scores, captions=()),
    ]
    found = score_captions(rows, embed_texts, batch=1)
    assert found["red"]["text_similarity"] == pytest.approx(1, abs=1e-3)
    assert found["wrong"]["text_similarity"] == pytest.approx(0, abs=1e-3)
    assert "silent" not in found


def test_the_head_rates_unit_vectors():
    scorer = ClipScores(embed_pictures, "toy", rate=lambda v: 10 * v[:, 0])
    assert scorer.score(clip_of((60, 0, 80)))["aesthetic"] == pytest.approx(6, abs=1e-4)
    assert [column.name for column in scorer.columns] == ["aesthetic", "clip_embedding"]
    with pytest.raises(ValueError, match="weights: ''"):
        ClipScores(embed_pictures, "")
