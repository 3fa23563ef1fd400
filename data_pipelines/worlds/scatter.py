"""Several sprites of different colours, each on a way of its own, and the oracle that reads all of them at once.

The ways are drawn anew until no sprite has others at its place in many frames.  The oracle gives each lit pixel to the
nearest colour of the palette; of a colour with enough pixels, the frames in which it shows nearly all of itself tell
the shape (the one that, drawn there with the same area, explains most of it) and the direction (from the first of them
to the last).  It serves the worlds `edits` and `retrieval`.

Shape legend: T frames, H height, W width.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds.layers import Layer, crowding
from data_pipelines.worlds.shapes import AREA, CENTROID_DROP, coverage
from data_pipelines.worlds.sprites import COLOURS, DIRECTIONS, Sprite, SpritesConfig, sprite_layers

OVERLAP, TRIES = 0.25, 40  # share of the frames in which a box may overlap others, if so many tries give that
ROOM = 0.8  # largest product of how many there are and their extent
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


def check_room(config: Any) -> None:
    """Refuses a number of sprites for which there is no room, or none at all; `config` has `objects` and `size`.

    Raises:
      ValueError: names the field.
    """
    if not 1 <= config.objects <= 3:
        raise ValueError(f"objects: {config.objects!r} is not within 1..3")
    if config.objects * config.size[1] > ROOM:
        raise ValueError(
            f"size: {config.size[1]} is too large for {config.objects} objects; the product must be at most {ROOM}"
        )
    if config.frames < 2:
        raise ValueError(f"frames: {config.frames!r}; the captions speak of motion, 2 at least")


def draw_attributes(rng: np.random.Generator, count: int, config: SpritesConfig) -> list[Sprite]:
    """Sprites of different colours."""
    colours = rng.permutation(len(config.colours))[:count]
    directions, shapes = rng.integers(len(DIRECTIONS), size=count), rng.integers(len(config.shapes), size=count)
    words = list(DIRECTIONS)
    return [
        Sprite(config.colours[c], config.shapes[s], words[d])
        for c, s, d in zip(colours, shapes, directions, strict=True)
    ]


def scatter(sprites: Sequence[Sprite], seed: tuple[int, ...], config: SpritesConfig) -> tuple[int, list[Layer]]:
    """Puts sprites on their ways.

    Args:
      sprites: of different colours.
      seed: of sizes and places.
      config: the world.

    Returns:
      The number of the try, and the layers: `place` with it puts another sprite exactly where the one it replaces is.
    """
    best, least = (0, []), np.inf
    for number in range(TRIES):
        found = [place(sprite, slot, number, seed, config) for slot, sprite in enumerate(sprites)]
        overlap = crowding(found)
        if overlap < least:
            best, least = (number, found), overlap
        if overlap <= OVERLAP:
            break
    return best


def place(sprite: Sprite, slot: int, number: int, seed: tuple[int, ...], config: SpritesConfig) -> Layer:
    """The sprite of a slot in one try; size and way do not depend on its colour and shape."""
    (layer,) = sprite_layers(sprite, np.random.default_rng([*seed, slot, number]), config)
    return layer


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
