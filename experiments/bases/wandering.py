"""Sprites of the world `sprites` that wander: each goes along one axis and turns round at the sides of the frame.

A clip of any length looks alike at all times, so a network of short clips can be asked for long ones, and what a sprite
is (colour, shape, size, speed) stays what it is.  Captions say its colour, its shape, both, or neither.
"""

import numpy as np

from data_pipelines.worlds.drawing import layers
from data_pipelines.worlds.drawing.shapes import distance
from data_pipelines.worlds.sprites import oracle
from data_pipelines.worlds.sprites.world import COLOURS, DIRECTIONS, SPEEDS, Sprite, SpritesConfig, combinations

COLOURED = ("red", "green", "blue", "yellow", "magenta", "cyan")
WORLD = SpritesConfig(
    height=16, width=16, frames=16, colours=COLOURED, shapes=("square", "circle", "cross"),
    size=(0.45, 0.5), travel=(0.3, 0.5),
)  # fmt: skip
FORMS = {"a {0} {1}": 0.5, "a {1}": 0.2, "something {0}": 0.2, "": 0.1}  # of captions, and how often each comes
PROMPTS = sorted({form.format(colour, shape) for form in FORMS for colour in COLOURED for shape in WORLD.shapes})

Kind = tuple[str | None, str | None]


def clips(count: int, frames: int, seed: int) -> tuple[np.ndarray, list[Kind]]:
    """Clips of random sprites: uint8 `[count, frames, 16, 16, 3]`, and the colour and shape of each."""
    every, made, kinds = combinations(WORLD), [], []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        sprite = every[rng.integers(len(every))]
        made.append(_drawn(sprite, frames, rng))
        kinds.append((sprite.colour, sprite.shape))
    return np.stack(made), kinds


def captions(kinds: list[Kind], seed: int) -> list[str]:
    """`a red square`, `a square`, `something red` or nothing, of each kind."""
    which = np.random.default_rng([seed, 1]).choice(list(FORMS), len(kinds), p=list(FORMS.values()))
    return [form.format(*kind) for form, kind in zip(which, kinds)]


def read(videos: np.ndarray) -> list[Kind]:
    """Colour and shape of the sprite in each clip, uint8 `[B, T, 16, 16, 3]`; None where there is none."""
    return [(reading.colour, reading.shape) for reading in oracle.read(videos, WORLD)]


def _drawn(sprite: Sprite, frames: int, rng: np.random.Generator) -> np.ndarray:
    half = WORLD.height * rng.uniform(*WORLD.size) / 2
    room = WORLD.height - 2 * half
    step = WORLD.height * WORLD.travel[SPEEDS.index(sprite.speed)] / (WORLD.frames - 1)
    way = rng.uniform(0, 2 * room) + step * np.arange(frames)
    centres = np.full((frames, 2), half + rng.uniform(0, room))
    along = int(DIRECTIONS[sprite.direction][0] == 0)
    centres[:, along] = half + np.abs(way % (2 * room) - room)
    outline = lambda x, y: distance(sprite.shape, x, y, np.float32(half))  # noqa: E731
    layer = layers.Layer(COLOURS[sprite.colour], centres, (half, half), outline)
    return layers.paint(np.zeros((frames, WORLD.height, WORLD.width, 3), np.uint8), [layer])[0]
