"""Reads several sprites of different colours at once, for the oracles of the worlds `edits` and `retrieval`.

Each lit pixel goes to the nearest colour of the palette.  Of a colour with enough pixels, the frames in which it shows
nearly all of itself tell the shape (the one that, drawn there with the same area, explains most of it) and the
direction (from the first of them to the last).

Shape legend: T frames, H height, W width.
"""

import dataclasses

import numpy as np

from data_pipelines.worlds.drawing.shapes import AREA, CENTROID_DROP, coverage
from data_pipelines.worlds.sprites.world import COLOURS, DIRECTIONS, SpritesConfig

FAINT, UNHIDDEN = 0.06, 0.93  # brightness of a pixel, and share of its largest area, from which on they count
LEAST_FIT = 0.6  # of the coverage that the best shape must explain
_PALETTE = np.array(list(COLOURS.values()), np.float32) / 255


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """A sprite that was read; None where nothing can be told.

    Attributes:
      shape, direction: words of `sprites`.
      track: [T, 2] centre of mass in pixels, NaN where it is hidden.
    """

    shape: str | None
    direction: str | None
    track: np.ndarray


def read_sprites(video: np.ndarray, config: SpritesConfig) -> dict[str, Seen]:
    """Reads all sprites of a clip.

    Args:
      video: float [T, H, W, 3] in [0, 1], see `world.pixels_of`.
      config: the world, for colours, shapes and sizes in use.

    Returns:
      Colour -> what it is.
    """
    brightness = video.max(-1)
    hue = video / np.maximum(brightness, 1e-3)[..., None]
    chosen = [list(COLOURS).index(name) for name in config.colours]
    nearest = ((hue[..., None, :] - _PALETTE[chosen]) ** 2).sum(-1).argmin(-1)
    least = 0.5 * min(AREA[shape] for shape in config.shapes) * (config.size[0] * min(video.shape[1:3]) / 2) ** 2
    found = {}
    for k, name in enumerate(config.colours):
        alpha = np.where((nearest == k) & (brightness >= FAINT), brightness, 0)
        if np.median(alpha.sum((1, 2))) >= least:
            found[name] = _read_one(alpha, config)
    return found


def _read_one(alpha: np.ndarray, config: SpritesConfig) -> Seen:
    frames, height, width = alpha.shape
    mass = alpha.sum((1, 2))
    clear = np.flatnonzero(mass >= UNHIDDEN * np.quantile(mass, 0.9))
    x = alpha.sum(1) @ (np.arange(width, dtype=np.float32) + 0.5)
    y = alpha.sum(2) @ (np.arange(height, dtype=np.float32) + 0.5)
    track = np.full((frames, 2), np.nan)
    track[clear] = (np.stack([x, y], -1) / np.maximum(mass, 1e-6)[:, None])[clear]
    fits = []
    for shape in config.shapes:
        half = np.sqrt(np.median(mass[clear]) / AREA[shape])
        centre = track[clear] - (0, CENTROID_DROP.get(shape, 0.0) * half)
        drawn = coverage(shape, centre, half, height, width)
        missed = ((alpha[clear] - drawn) ** 2).sum((1, 2)) / np.maximum((alpha[clear] ** 2).sum((1, 2)), 1e-6)
        fits.append(1 - np.median(missed))
    best = int(np.argmax(fits))
    return Seen(config.shapes[best] if fits[best] >= LEAST_FIT else None, _direction(track, clear, config), track)


def _direction(track: np.ndarray, clear: np.ndarray, config: SpritesConfig) -> str | None:
    """The way from the first clear frame to the last, if it is long enough, along an axis, and even in time."""
    if len(clear) < 2 or len(track) < 2:
        return None
    way = track[clear[-1]] - track[clear[0]]
    share = (clear - clear[0]) / (clear[-1] - clear[0])
    strays = np.abs(track[clear] - track[clear[0]] - share[:, None] * way).max()
    along = int(np.abs(way).argmax())
    if abs(way[along]) < 3 * abs(way[1 - along]) or abs(way[along]) < 1 or strays > 1 + 0.1 * abs(way[along]):
        return None
    unit = tuple(int(np.sign(way[dim])) if dim == along else 0 for dim in (0, 1))
    return next(name for name, towards in DIRECTIONS.items() if towards == unit)
