"""Which threshold a score should have: small models trained on what each leaves, compared pair by pair, ranked by Elo.

For each score apart, one variant removes nothing and others the worst 12.5 %, 25 % and 50 % of the clips.  Every
variant trains the same model with the same steps, batch and seed: it sees its clips more often, never more of them.
Then all are shown the same prompts (or the same held-out clips), and of each pair a judge, a person or a function,
says which is better.  With ratings R and the outcome S_1 in {0, 1/2, 1} of a match,

    E_1 = 1 / (1 + 10^((R_2 - R_1) / 400)),    R_1 += K (S_1 - E_1),    R_2 -= K (S_1 - E_1)

in the order of the matches; as ratings depend on that order, they are averaged over many random ones.

Source: the curation of arXiv 2311.15127; K = 1, a start of 1000 and 1000 orders are not given there.
"""

import collections
import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from data_pipelines.curation.filters import Filter, Rule
from data_pipelines.curation.inputs.rows import TABLE_SUFFIXES, read_rows
from data_pipelines.curation.scores.protocol import Column
from data_pipelines.curation.table import ClipRow
from data_pipelines.shards.manifest import Dropped
from vdm_jax.errors import RunError, did_you_mean

FRACTIONS = (0.125, 0.25, 0.5)
ALL = "everything"  # the variant that removes nothing
START, K, ORDERS = 1000.0, 1.0, 1000
OUTCOMES = {"first": 1.0, "second": 0.0, "tie": 0.5, "draw": 0.5}

Model = TypeVar("Model")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A data set to train on.

    Attributes:
      name: the rule, or `ALL`.
      rule: what is removed; None for nothing.
      removed: share of the clips that it removes.
    """

    name: str
    rule: Rule | None
    removed: float


@dataclasses.dataclass(frozen=True)
class Match:
    """One comparison: `score` is 1 if `first` is better, 0 if `second` is, 0.5 if neither."""

    first: str
    second: str
    score: float

    def __post_init__(self):
        if self.first == self.second:
            raise ValueError(f"match: {self.first!r} against itself")
        if not 0 <= self.score <= 1:
            raise ValueError(f"match: score {self.score!r} is not within 0..1")


@dataclasses.dataclass(frozen=True)
class Rating:
    """Where a variant stands.

    Attributes:
      name: of the variant.
      elo: mean over the orders of its matches.
      spread: standard deviation over them.
      matches: how many.
      won: share of them, a tie counting half.
    """

    name: str
    elo: float
    spread: float
    matches: int
    won: float


def variants(
    rows: Sequence[ClipRow], column: str, higher_is: str, fractions: Sequence[float] = FRACTIONS
) -> list[Variant]:
    """Data sets that differ in the threshold on one score, the one that keeps everything first.

    Args:
      rows: all clips.
      column: the score.
      higher_is: `better` or `worse`.
      fractions: shares of the clips to remove, each within (0, 1).  Where many clips have one value (no text at all),
        the nearest share above nothing that a threshold can remove is taken; equal thresholds count once.

    Raises:
      ValueError: an unknown column, a score that some clips lack or that is text, or no threshold removes anything.
    """
    if higher_is not in ("better", "worse"):
        raise ValueError(f"higher_is: {did_you_mean(higher_is, ('better', 'worse'))}")
    for fraction in fractions:
        if not 0 < fraction < 1:
            raise ValueError(f"fractions: {fraction!r} is not within (0, 1)")
    values = [row.value(column) for row in rows]
    known = sorted({name for row in rows for name in (*row.scores, *row.facts)})
    if all(value is None for value in values):
        raise ValueError(f"columns: {did_you_mean(column, known)}")
    if missing := sum(value is None for value in values):
        raise ValueError(f"columns: {missing} of {len(rows)} clips have no {column}; filter them first")
    if any(isinstance(value, str) for value in values):
        raise ValueError(f"columns: {column} holds text, which has no threshold")
    better = np.sort(np.asarray(values, np.float64) * (1 if higher_is == "better" else -1))
    found: dict[float, Variant] = {}
    for fraction in sorted(fractions):
        least = better[min(len(better) - 1, round(fraction * len(better)))]
        if least == better[0]:  # the worst value is so common that this threshold removes nothing
            above = better[better > least]
            if not len(above):
                continue
            least = above[0]
        removed = float((better < least).mean())
        rule = Filter(column, least=float(least)) if higher_is == "better" else Filter(column, most=float(-least))
        found.setdefault(float(least), Variant(str(rule), rule, removed))
    if not found:
        raise ValueError(f"columns: all clips have the same {column}, {values[0]!r}; there is nothing to rank")
    return [Variant(ALL, None, 0.0), *found.values()]


def direction(column: str, columns: Iterable[Column]) -> str:
    """Whether a higher value of a score is `better` or `worse`.

    Raises:
      ValueError: an unknown score, or one that is neither.
    """
    known = {c.name: c for c in columns}
    if column not in known:
        raise ValueError(f"columns: {did_you_mean(column, known)}")
    if known[column].higher_is == "neither":
        raise ValueError(f"columns: {column} is neither better nor worse when it is higher ({known[column].meaning})")
    return known[column].higher_is


def play(models: Mapping[str, Sequence[Any]], judge: Callable[[int, Any, Any], float]) -> list[Match]:
    """Lets a judge compare what all models made of the same prompts.

    Args:
      models: variant -> one result for each prompt, all equally many.
      judge: (number of the prompt, one result, another) -> 1 if the first is better, 0 if the second is, 0.5 if
        neither.

    Returns:
      A match for each pair of variants and prompt.
    """
    counts = {len(results) for results in models.values()}
    if len(models) < 2 or len(counts) != 1:
        raise ValueError(f"models: {len(models)} with {sorted(counts)} results; two at least, with equally many")
    return [
        Match(first, second, float(judge(k, models[first][k], models[second][k])))
        for k in range(counts.pop())
        for first, second in itertools.combinations(models, 2)
    ]


def rank_filters(
    rows: Sequence[ClipRow],
    scores: Mapping[str, str],
    train: Callable[[Variant], Sequence[Any]],
    judge: Callable[[int, Any, Any], float],
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
) -> dict[str, list[Rating]]:
    """The whole experiment.

    Args:
      rows: all clips.
      scores: column -> `better` or `worse`, each ranked apart.
      train: trains a model on a variant and gives what it makes of every prompt; the variant that keeps everything is
        trained once.
      judge: as in `play`.
      fractions: as in `variants`.
      seed: of the orders.

    Returns:
      column -> ratings of its variants, the best first.
    """
    planned = {column: variants(rows, column, higher_is, fractions) for column, higher_is in scores.items()}
    made: dict[str, Sequence[Any]] = {}
    for variant in itertools.chain.from_iterable(planned.values()):
        if variant.name not in made:
            made[variant.name] = train(variant)
    return {
        column: elo(play({variant.name: made[variant.name] for variant in found}, judge), seed=seed)
        for column, found in planned.items()
    }


def elo(
    matches: Sequence[Match], *, orders: int = ORDERS, k: float = K, start: float = START, seed: int = 0
) -> list[Rating]:
    """Ratings of all who played, the best first.

    Args:
      matches: in any order.
      orders: random orders to average over.
      k: largest change of a rating in one match.
      start: first rating of each.
      seed: of the orders.

    Raises:
      ValueError: no matches, a number out of range, or players between whom there is no chain of matches.
    """
    if not matches:
        raise ValueError("matches: none; nothing can be ranked")
    if orders < 1 or not k > 0:
        raise ValueError(f"orders: {orders!r} and k: {k!r} must be positive")
    apart = groups(matches)
    if len(apart) > 1:
        raise ValueError(f"matches: {apart[0][0]!r} and {apart[1][0]!r} were never compared, not even through others")
    names = sorted({name for match in matches for name in (match.first, match.second)})
    place = {name: i for i, name in enumerate(names)}
    first, second = (np.array([place[getattr(m, side)] for m in matches]) for side in ("first", "second"))
    score = np.array([m.score for m in matches])
    rng = np.random.default_rng(seed)
    turns = rng.permuted(np.tile(np.arange(len(matches), dtype=np.int32), (orders, 1)), axis=1)
    ratings, every = np.full((orders, len(names)), float(start)), np.arange(orders)
    for turn in turns.T:  # one match of every order at a time
        a, b = first[turn], second[turn]
        expected = 1 / (1 + 10 ** ((ratings[every, b] - ratings[every, a]) / 400))
        change = k * (score[turn] - expected)
        ratings[every, a] += change
        ratings[every, b] -= change
    played, won = np.zeros(len(names)), np.zeros(len(names))
    for side, points in ((first, score), (second, 1 - score)):
        np.add.at(played, side, 1)
        np.add.at(won, side, points)
    found = [
        Rating(name, float(ratings[:, i].mean()), float(ratings[:, i].std()), int(played[i]), float(won[i] / played[i]))
        for i, name in enumerate(names)
    ]
    return sorted(found, key=lambda rating: (-rating.elo, rating.name))


def groups(matches: Sequence[Match]) -> list[list[str]]:
    """Players who can be ranked together: those between whom there is a chain of matches; by name."""
    near: dict[str, set[str]] = collections.defaultdict(set)
    for match in matches:
        near[match.first].add(match.second)
        near[match.second].add(match.first)
    found, left = [], set(near)
    while left:
        reached, edge = set(), {min(left)}
        while edge:
            reached |= edge
            edge = set().union(*(near[name] for name in edge)) - reached
        found.append(sorted(reached))
        left -= reached
    return found


def read_matches(path: str | os.PathLike) -> list[Match]:
    """Reads matches from a table with the columns `first`, `second` and `winner` (a name, or first, second, tie).

    Args:
      path: CSV, TSV, JSONL or Parquet.

    Raises:
      ValueError: another suffix, columns that lack, or a row that is no match; names the row.
      RunError: it cannot be read.
    """
    path = os.fspath(path)
    if os.path.splitext(path)[1].lower() not in TABLE_SUFFIXES:
        raise ValueError(f"matches: {path} is no file {' '.join(TABLE_SUFFIXES)}")
    refused: list[Dropped] = []
    columns, rows = read_rows(path, refused)
    for column in ("first", "second", "winner"):
        if column not in columns:
            raise ValueError(f"matches: {path} has no column {column!r} (its columns: {', '.join(columns)})")
    found = []
    for number, row in rows:
        first, second, winner = (str(row[column]).strip() for column in ("first", "second", "winner"))
        score = {first: 1.0, second: 0.0}.get(winner, OUTCOMES.get(winner, math.nan))
        if not first or not second or first == second or math.isnan(score):
            raise ValueError(
                f"matches: {path} row {number}: {winner!r} won {first!r} against {second!r}; no such match"
            )
        found.append(Match(first, second, score))
    if refused:
        raise RunError(f"matches: {path}: {refused[0].detail}")
    return found
