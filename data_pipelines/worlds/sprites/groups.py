"""How many sprites of a kind there are, and what happens to them one after the other, for `oracle`.

Copies are counted as connected parts of the coverage in several frames; the count is what most of them say.  Their
shape is the one that, drawn at all parts with the same area, explains most.  A story is found by trying all: with the
route D of a story whose whole way is 1, and the centre of mass c of all copies, both about their means over time,

    L = <c, D> / <D, D>,     left over = |c - L D|^2 / |c|^2,

and the story with the least left over is told if that is little; L is the whole way, hence the speed.

Shape legend: B clips, T frames, H height, W width, S shapes, P stories, K copies.
"""

import numpy as np

from data_pipelines.worlds.drawing.shapes import AREA, CENTROID_DROP, coverage
from data_pipelines.worlds.sprites.world import COUNTS, SPEEDS, SpritesConfig, paths, route

LOOKS = 8  # frames of a clip in which is counted, at most
SOLID = 0.35  # coverage from which on a pixel belongs to a copy
SPECK = 0.3  # of the largest part: a smaller one is no copy
AGREED = 0.6  # of the frames must show the same count
LEFT_OVER = 0.15  # of the motion that a story may leave unexplained


def copies(alpha: np.ndarray) -> list[np.ndarray]:
    """Counts the connected parts of each frame.

    Args:
      alpha: coverage [T, H, W] in [0, 1].

    Returns:
      Centres of mass [K, 2], (x, y) in pixels, of the copies in each frame.
    """
    inside = alpha >= SOLID
    labels = _labelled(inside)
    y, x = np.indices(alpha.shape[1:]) + 0.5
    found = []
    for here, weight, shown in zip(labels, alpha, inside):
        parts = here[shown]
        mass = np.bincount(parts, weight[shown], 1)
        kept = mass > SPECK * mass.max()
        centres = [np.bincount(parts, (weight * at)[shown], 1)[kept] / mass[kept] for at in (x, y)]
        found.append(np.stack(centres, -1))
    return found


def count_and_fit(
    alpha: np.ndarray, mass: np.ndarray, config: SpritesConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts copies, and tries all shapes on them.

    Args:
      alpha: coverage [B, T, H, W].
      mass: its sum [B, T].
      config: the world, for the shapes in use.

    Returns:
      Counts [B], 0 where frames disagree or show more than there are words for; explained share of the coverage's
      energy [B, S]; half-sizes in pixels [B, S].
    """
    frames = np.unique(np.linspace(0, alpha.shape[1] - 1, LOOKS).round().astype(int))
    counts, fits, halves = [], [], []
    for clip, total in zip(alpha[:, frames], mass):
        found = copies(clip)
        said = np.array([len(centres) for centres in found])
        count = int(np.bincount(said).argmax())
        clear = np.flatnonzero(said == count)
        if count > len(COUNTS) or len(clear) < AGREED * len(frames):
            count = 0
        half = np.sqrt(np.median(total) / max(count, 1) / np.array([AREA[shape] for shape in config.shapes]))
        explained = np.zeros(len(half))
        if count:
            centres = np.stack([found[t] for t in clear])
            explained = [_explained(clip[clear], centres, shape, r) for shape, r in zip(config.shapes, half)]
        counts.append(count)
        fits.append(explained)
        halves.append(half)
    return np.array(counts), np.array(fits), np.array(halves)


def stories(
    centroid: np.ndarray, mass: np.ndarray, side: int, config: SpritesConfig
) -> list[tuple[tuple[str, ...], str | None]]:
    """Directions and speed of each clip; () and None where no story explains the motion.

    Args:
      centroid: of all copies [B, T, 2], (x, y) in pixels.
      mass: coverage [B, T]; a frame without the sprites has no say.
      side: of the frame in pixels, the shorter one.
      config: the world, for the stories in use and their ways.
    """
    slow, quick = config.travel
    every, frames = paths(config), centroid.shape[1]
    if frames < 2:
        return [((), None)] * len(centroid)
    weight = np.minimum(mass, np.median(mass, 1, keepdims=True))
    weight = weight / np.maximum(weight.sum(1, keepdims=True), 1e-6)
    moved = centroid - np.einsum("bt,btd->bd", weight, centroid)[:, None]
    routes = np.stack([route(path, frames) for path in every])  # [P, T, 2]
    means = np.einsum("bt,ptd->bpd", weight, routes)
    across = np.einsum("bt,btd,ptd->bp", weight, moved, routes)  # the mean of `moved` is zero
    spread = np.einsum("bt,ptd->bp", weight, routes**2) - (means**2).sum(-1)
    energy = np.maximum(np.einsum("bt,btd->b", weight, moved**2), 1e-6)[:, None]
    way = across / np.maximum(spread, 1e-6) / side
    left = np.where(way > 0, 1 - across**2 / np.maximum(spread, 1e-6) / energy, np.inf)
    told = []
    for b, p in enumerate(left.argmin(1)):
        if left[b, p] > LEFT_OVER or way[b, p] < slow / 2:
            told.append(((), None))
        else:
            told.append((every[p], SPEEDS[int(way[b, p] > (slow + quick) / 2)]))
    return told


def _labelled(inside: np.ndarray) -> np.ndarray:
    """Numbers connected pixels alike in each frame, neighbours across corners too: int [T, H, W], from 1 on."""
    shape = inside.shape
    labels = np.where(inside, np.arange(1, shape[1] * shape[2] + 1).reshape(shape[1:]), 0)
    while True:
        padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)))
        wide = np.maximum(np.maximum(padded[:, :, :-2], padded[:, :, 1:-1]), padded[:, :, 2:])
        grown = np.maximum(np.maximum(wide[:, :-2], wide[:, 1:-1]), wide[:, 2:]) * inside
        if np.array_equal(grown, labels):
            return labels
        labels = grown


def _explained(alpha: np.ndarray, centres: np.ndarray, shape: str, half: float) -> float:
    """Share of the energy of the coverage [T, H, W] that a shape at centres [T, K, 2] explains."""
    at = centres - (0, CENTROID_DROP.get(shape, 0.0) * half)
    drawn = coverage(shape, at, half, *alpha.shape[1:]).sum(1)
    return 1 - float(((alpha - drawn) ** 2).sum() / max(float((alpha**2).sum()), 1e-6))
