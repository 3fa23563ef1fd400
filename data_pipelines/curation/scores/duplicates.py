"""Near duplicates over a whole corpus, without comparing every clip with every other.

Two clips are near duplicates if their embeddings (`fingerprint`) have a cosine of at least `LIMIT`.  Candidates are
those that fall on the same side of b random hyperplanes, in any of L tables (random projections: Charikar, STOC 2002),
drawn in the lowest frequencies, which a crop changes least.  Crops of up to 6 % on each side change one bit in seven,

    P(found) = 1 - (1 - (6/7)^b)^L          b = 16, L = 40: 0.97 at a million clips, more below,

and every candidate is then compared exactly.  In a crowded bucket each clip meets the next `WINDOW` ones only, so the
work stays in proportion to the corpus; copies are still found, as they are neighbours in most tables.

Held are the embeddings, 432 bytes a clip, and a few numbers for each; pairs are used up as they are found.  All sums
are of whole numbers that float32 holds exactly, so no library and no number of threads changes what is found.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np

from data_pipelines.curation.scores import fingerprint
from data_pipelines.curation.scores.protocol import Column

VERSION = 2
LIMIT = 0.62  # cosine
LOW = 5  # frequencies along each axis that buckets are made of
TABLES, BITS_BELOW, BITS = 40, 4, (4, 20)  # bits are log2 of the number of clips less BITS_BELOW, within BITS
WINDOW = 64
CHUNK = 1 << 14  # clips or pairs that are worked on at once
COLUMNS = (
    Column("duplicate", "largest likeness to a clip that comes earlier in the table", "cosine", "worse", LIMIT),
    Column("duplicate_of", "the earliest clip of which this one is a near duplicate, also through others"),
)
_SIDE = 64  # of a standard deviation of a hyperplane's components, which are whole numbers


class Row(Protocol):
    """What is needed of a row of the table."""

    id: str
    scores: Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """What a look at a whole corpus tells of its clips.

    Attributes:
      likeness: float64 [N]: largest cosine with an earlier clip, 0 where none is a near duplicate, NaN of a clip that
        has no embedding.
      leader: int64 [N]: the earliest clip that a clip is connected with; its own number where there is none.
      names: ids of the clips that lead others.
    """

    likeness: np.ndarray
    leader: np.ndarray
    names: Mapping[int, str]

    def scores(self, place: int) -> dict[str, float | str]:
        """The columns of `COLUMNS` for clip number `place`; none without an embedding."""
        if np.isnan(self.likeness[place]):
            return {}
        leader = int(self.leader[place])
        name = "" if leader == place else self.names[leader]
        return {"duplicate": round(float(self.likeness[place]), 6), "duplicate_of": name}


def score_corpus(rows: Iterable[Row], limit: float = LIMIT) -> Duplicates:
    """Finds near duplicates among all clips of a table.

    Args:
      rows: clips with the score `embedding`, gone through twice; which comes first is decided by the order given.
      limit: cosine from which two clips are near duplicates.

    Raises:
      ValueError: an embedding is not one.
    """
    places, raw, count = [], bytearray(), 0
    for count, row in enumerate(rows, 1):
        if "embedding" in row.scores:
            raw += fingerprint.decode_bytes(str(row.scores["embedding"]))
            places.append(count - 1)
    embeddings = np.frombuffer(raw, np.int8).reshape(len(places), -1) if places else np.zeros((0, 1), np.int8)
    found = np.array(places, np.int64)
    likeness, leader = np.full(count, np.nan), np.arange(count)
    likeness[found], groups = compare(embeddings, limit)
    leader[found] = found[groups]
    leads = set(leader[leader != np.arange(count)].tolist())
    return Duplicates(likeness, leader, {k: row.id for k, row in enumerate(rows) if k in leads} if leads else {})


def compare(embeddings: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """For each clip its largest likeness to an earlier one, and the earliest one that it is connected with.

    Args:
      embeddings: int8 [N, D] of `fingerprint`.
      limit: cosine from which a pair are near duplicates.

    Returns:
      float64 [N], 0 where there is none, and int64 [N], the clip's own number where there is none.
    """
    likeness, leader = np.zeros(len(embeddings)), np.arange(len(embeddings))
    for first, second, cosine in similar_pairs(embeddings, limit):
        np.maximum.at(likeness, second, cosine)
        leader = join(leader, first, second)
    return likeness, leader


def similar_pairs(embeddings: np.ndarray, limit: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of near duplicates: int64 [P], int64 [P], float64 [P], the earlier and the later of a pair, and their
    cosine; arguments as `compare`.  A pair may come again."""
    norms = np.zeros(len(embeddings), np.float32)
    for part in _parts(len(embeddings)):
        norms[part] = np.sqrt((embeddings[part].astype(np.float32) ** 2).sum(1))
    for a, b in _candidates(embeddings):
        cosine = np.einsum("pd,pd->p", embeddings[a].astype(np.float32), embeddings[b].astype(np.float32))
        cosine /= np.maximum(norms[a] * norms[b], 1e-6)
        near = cosine >= limit
        if near.any():
            a, b = a[near], b[near]
            yield np.minimum(a, b), np.maximum(a, b), cosine[near].astype(np.float64)


def join(leader: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Groups of clips, joined by more pairs.

    Args:
      leader: int64 [N]: for each clip the earliest of its group.
      first, second: int64 [P].

    Returns:
      int64 [N].
    """
    while True:
        low, high = np.minimum(leader[first], leader[second]), np.maximum(leader[first], leader[second])
        if np.array_equal(low, high):
            return leader
        leader = leader.copy()
        np.minimum.at(leader, high, low)
        while not np.array_equal(leader, leader[leader]):
            leader = leader[leader]


def _candidates(embeddings: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs that share a bucket of some table, in chunks; a pair may come again in another table."""
    count = len(embeddings)
    if count < 2:
        return
    low = fingerprint.coarse(embeddings, LOW)
    bits = int(np.clip(np.ceil(np.log2(count)) - BITS_BELOW, *BITS))
    rng = np.random.default_rng(0)
    for _ in range(TABLES):
        planes = np.rint(_SIDE * rng.standard_normal((low.shape[1], bits), np.float32))
        sides = (low[part].astype(np.float32) @ planes > 0 for part in _parts(count))
        bucket = np.concatenate([side @ (1 << np.arange(bits)) for side in sides])
        order = np.argsort(bucket, kind="stable")
        bucket = bucket[order]
        for offset in range(1, min(WINDOW, count - 1) + 1):
            same = np.flatnonzero(bucket[offset:] == bucket[:-offset])
            if len(same) == 0:
                break
            for part in _parts(len(same)):
                yield order[same[part]], order[same[part] + offset]


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, count, CHUNK))
