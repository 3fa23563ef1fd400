"""Several sprites of different colours, each on a way of its own, for the worlds `edits` and `retrieval`.

The ways are drawn anew until no sprite has others at its place in many frames.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds.drawing.layers import Layer, crowding
from data_pipelines.worlds.sprites.world import COLOURS, DIRECTIONS, Sprite, SpritesConfig, sprite_layers

SHAPES = ("square", "circle", "triangle", "cross")
OVERLAP, TRIES = 0.25, 40  # share of the frames in which a box may overlap others, if so many tries give that
ROOM = 0.8  # largest product of how many there are and their extent


def check_room(config: Any) -> None:
    """Refuses a number of sprites for which there is no room, or none at all, and sizes that cannot be drawn.

    Args:
      config: of a world of several sprites; it has `height`, `width`, `frames`, `fps`, `objects` and `size`.

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
    sprites_config(config)


def sprites_config(config: Any) -> SpritesConfig:
    """The world of single sprites whose words the captions of `config` use; orange is left out, it is nearly yellow."""
    names = ("height", "width", "frames", "fps", "size")
    colours = tuple(name for name in COLOURS if name != "orange")
    return SpritesConfig(**{name: getattr(config, name) for name in names}, shapes=SHAPES, colours=colours)


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
