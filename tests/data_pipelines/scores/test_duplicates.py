"""Near duplicates are found, others are not, and the search does not compare everything with everything."""

import types

import numpy as np
import pytest

from data_pipelines.curation.scores import duplicates, fingerprint
from data_pipelines.curation.scores.duplicates import join, score_corpus, similar_pairs
from data_pipelines.curation.scores.fingerprint import Fingerprint, decode
from data_pipelines.curation.scores.protocol import Edges, Sample
from data_pipelines.worlds.scenes.labels import EDITS, ScenesConfig
from data_pipelines.worlds.scenes.world import edited, render

pytest.importorskip("cv2", reason="the extra `curate` is not installed")

CONFIG = ScenesConfig(frames=8, shots=1, defects=(), duplicates=0.0)


def sample_of(pixels: np.ndarray) -> Sample:
    """A clip as scorers see it, two pictures a second."""
    height, width = pixels.shape[1:3]
    edges = Edges(np.full((height, 2), 100.0), np.full((width, 2), 100.0))
    times = np.arange(len(pixels)) / 2
    return Sample(pixels, times, 2.0, pixels[..., 0], times, edges, height, width)


def row(clip: str, pixels: np.ndarray) -> types.SimpleNamespace:
    return types.SimpleNamespace(id=clip, scores=Fingerprint().score(sample_of(pixels)))


def scored(rows) -> dict[str, dict[str, float | str]]:
    found = score_corpus(rows)
    return {r.id: found.scores(place) for place, r in enumerate(rows)}


@pytest.fixture(scope="module")
def corpus():
    """Twelve clips, then every kind of edit of some of them."""
    clips = [render(CONFIG, index, 0)[0] for index in range(12)]
    rows = [row(f"clip{i}", clip) for i, clip in enumerate(clips)]
    for i, edit in enumerate(EDITS):
        rows.append(row(f"{edit} of clip{i}", edited(clips[i], edit, np.random.default_rng(i))))
    return rows


def test_edits_are_found_and_nothing_else(corpus):
    found = scored(corpus)
    assert len(found) == len(corpus)
    for clip, scores in found.items():
        assert scores["duplicate_of"] == (clip.split(" of ")[1] if " of " in clip else ""), clip
        assert (scores["duplicate"] >= duplicates.LIMIT) == (" of " in clip)


def test_which_comes_first_is_kept(corpus):
    found = scored(corpus[::-1])
    assert found["clip0"]["duplicate_of"].endswith(" of clip0")
    assert scored(corpus) == scored(corpus), "the same rows give the same answer"


def test_work_is_in_parts_whose_size_changes_nothing(corpus, monkeypatch):
    whole = scored(corpus)
    monkeypatch.setattr(duplicates, "CHUNK", 3)
    assert scored(corpus) == whole


def test_clips_without_an_embedding_have_no_such_score(corpus):
    bare = types.SimpleNamespace(id="bare", scores={})
    found = scored([bare, *corpus])
    assert found.pop("bare") == {}
    assert found == scored(corpus)


def test_hashes_of_a_copy_are_alike(corpus):
    held = {r.id: r.scores["phash"] for r in corpus}
    assert len(held["clip0"]) == 16 * fingerprint.PARTS

    def differ(a: str, b: str) -> int:
        return (int(held[a], 16) ^ int(held[b], 16)).bit_count()

    brighter = next(clip for clip in held if clip.startswith("brightness"))
    assert differ(brighter, brighter.split(" of ")[1]) < 20
    assert differ("clip0", "clip1") > 50


def test_many_clips_are_searched_by_buckets(monkeypatch):
    """Of 3,000 random clips with 300 near copies nearly all copies are found, few pairs being compared."""
    rng = np.random.default_rng(0)
    size = fingerprint.PARTS * fingerprint.LOW**2
    vectors = rng.standard_normal((3000, size)).astype(np.float32)
    vectors[2700:] = vectors[:300] + 0.3 * rng.standard_normal((300, size))
    compared = []
    candidates = duplicates._candidates
    monkeypatch.setattr(
        duplicates, "_candidates", lambda e: (compared.append(len(a)) or (a, b) for a, b in candidates(e))
    )
    found = list(similar_pairs(np.clip(np.round(25 * vectors), -127, 127).astype(np.int8), duplicates.LIMIT))
    first, second, cosine = map(np.concatenate, zip(*found))
    pairs = set(zip(first.tolist(), second.tolist()))
    assert pairs <= {(k, 2700 + k) for k in range(300)}
    assert len(pairs) >= 295
    assert (cosine > 0.9).all()
    assert sum(compared) < 0.5 * 3000**2 / 2


def test_chains_have_one_leader():
    leader = join(np.arange(7), np.array([0, 2, 1, 5]), np.array([2, 4, 3, 6]))
    np.testing.assert_array_equal(leader, [0, 1, 0, 1, 0, 5, 5])
    np.testing.assert_array_equal(join(leader, np.array([3]), np.array([6])), [0, 1, 0, 1, 0, 1, 1])
    np.testing.assert_array_equal(join(leader, np.array([6, 1]), np.array([4, 2])), [0] * 7)


def test_no_clips_and_bad_embeddings():
    assert scored([]) == {}
    with pytest.raises(ValueError, match="embedding: 'abc'"):
        score_corpus([types.SimpleNamespace(id="a", scores={"embedding": "abc"})])
    flat = row("flat", np.full((4, 32, 32, 3), 90, np.uint8))
    assert not decode(flat.scores["embedding"]).any()
    again = types.SimpleNamespace(id="again", scores=flat.scores)
    assert scored([flat, again])["again"] == {"duplicate": 0.0, "duplicate_of": ""}
