"""Near duplicates over a whole corpus, without comparing every clip with every other.

Two clips are near duplicates if their embeddings (`fingerprint`) have a cosine of at least `LIMIT`.  Candidates are
those that fall on the same side of b random hyperplanes, in any of L tables (random projections: Charikar, STOC 2002),
drawn in the lowest frequencies, which a crop changes least.  Crops of up to 6 % on each side change one bit in seven,

    P(found) = 1 - (1 - (6/7)^b)^L          b = 16, L = 40: 0.97 at a million clips, more below,

and every candidate is then compared exactly.  In a crowded bucket each clip meets the next `WINDOW` ones only, so the
work stays in proportion to the corpus; copies are still found, as they are neighbours in most tables.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np

from data_pipelines.curation.scores import fingerprint
from data_pipelines.curation.scores.protocol import Column

VERSION = 1
LIMIT = 0.62  # cosine
LOW = 5  # frequencies along each axis that buckets are made of
TABLES, BITS_BELOW, BITS = 40, 4, (4, 20)  # bits are log2 of the number of clips less BITS_BELOW, within BITS
WINDOW = 64
CHUNK = 1 << 16  # pairs compared at once
COLUMNS = (
    Column("duplicate", "largest likeness to a clip that comes earlier in the table", "cosine", "worse", LIMIT),
    Column("duplicate_of", "the earliest clip of which this one is a near duplicate, also through others"),
)


class Row(Protocol):
    """What is needed of a row of the table."""

    id: str
    scores: Mapping[str, object]


def score_corpus(rows: Iterable[Row], limit: float = LIMIT) -> dict[str, dict[str, float | str]]:
    """Finds near duplicates among all clips of a table.

    Args:
      rows: clips with the score `embedding`; which comes first is decided by the order given.
      limit: cosine from which two clips are near duplicates.

    Returns:
      clip id -> the columns of `COLUMNS`; `duplicate` is 0 and `duplicate_of` empty where there is none.  Clips without
      an embedding are left out.

    Raises:
      ValueError: an embedding is not one.
    """
    held = [(row.id, str(row.scores["embedding"])) for row in rows if "embedding" in row.scores]
    if not held:
        return {}
    for text in {len(text): text for _, text in held}.values():
        fingerprint.decode(text)  # says what is wrong with it
    raw = np.frombuffer(b"".join(base64.b64decode(text) for _, text in held), np.int8)
    first, second, cosine = similar_pairs(raw.reshape(len(held), -1), limit)
    likeness = np.zeros(len(held))
    np.maximum.at(likeness, second, cosine)
    leader = groups(len(held), first, second)
    return {
        clip: {"duplicate": round(float(likeness[i]), 6), "duplicate_of": held[leader[i]][0] if leader[i] != i else ""}
        for i, (clip, _) in enumerate(held)
    }


def similar_pairs(embeddings: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of near duplicates.

    Args:
      embeddings: int8 [N, D] of `fingerprint`.
      limit: cosine from which a pair is one.

    Returns:
      int64 [P], int64 [P], float64 [P]: the earlier and the later of a pair, and their cosine; each pair once, in
      order.
    """
    count = len(embeddings)
    norms = np.sqrt((embeddings.astype(np.float32) ** 2).sum(1))
    codes, cosines = [], []
    for a, b in _candidates(embeddings):
        cosine = np.einsum("pd,pd->p", embeddings[a].astype(np.float32), embeddings[b].astype(np.float32))
        cosine /= np.maximum(norms[a] * norms[b], 1e-6)
        near = cosine >= limit
        codes.append(np.minimum(a, b)[near] * count + np.maximum(a, b)[near])
        cosines.append(cosine[near])
    if not codes:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    code, once = np.unique(np.concatenate(codes), return_index=True)
    return code // count, code % count, np.concatenate(cosines)[once].astype(np.float64)


def groups(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """For each of `count` clips the earliest one that it is connected with by pairs; int64 [count]."""
    leader = np.arange(count)
    while True:
        before = leader.copy()
        lower = np.minimum(leader[first], leader[second])
        np.minimum.at(leader, first, lower)
        np.minimum.at(leader, second, lower)
        leader = leader[leader]
        if np.array_equal(leader, before):
            return leader


def _candidates(embeddings: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs that share a bucket of some table, in chunks; a pair may come again in another table."""
    count = len(embeddings)
    if count < 2:
        return
    low = fingerprint.coarse(embeddings, LOW).astype(np.float32)
    bits = int(np.clip(np.ceil(np.log2(count)) - BITS_BELOW, *BITS))
    rng = np.random.default_rng(0)
    for _ in range(TABLES):
        sides = low @ rng.standard_normal((low.shape[1], bits), np.float32) > 0
        bucket = sides @ (1 << np.arange(bits))
        order = np.argsort(bucket, kind="stable")
        bucket = bucket[order]
        for offset in range(1, min(WINDOW, count - 1) + 1):
            same = np.flatnonzero(bucket[offset:] == bucket[:-offset])
            if len(same) == 0:
                break
            for start in range(0, len(same), CHUNK):
                part = same[start : start + CHUNK]
                yield order[part], order[part + offset]
