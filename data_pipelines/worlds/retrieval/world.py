"""The world `retrieval`: clips of several sprites, each with captions that are nearly true.

Beside the caption of the clip there is one hard negative of every kind that the config names, in one word or one order
of words off: a text-video model must tell it from the true one.

    colour      a sprite in a colour that no sprite has       swap        two sprites exchange their colours
    shape       another shape                                 swap_shape  two sprites exchange their shapes
    direction   another direction                             count       a sprite too many or too few

How much of a caption is true of a clip is read by `oracle`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.worlds.drawing import layers, scatter
from data_pipelines.worlds.sprites import world as sprites
from data_pipelines.worlds.sprites.world import DIRECTIONS, Sprite, SpritesConfig
from data_pipelines.worlds.world import Example, check_size, check_words, generator

COUNTS = ("no", "one", "two", "three")


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """What the clips look like.

    Attributes:
      height, width: pixels, 16 to 128.
      frames: frames of a clip, 2 to 128.
      fps: frames per second written beside the clips; it changes no pixel.
      objects: sprites of a clip, 1 to 3, each of a colour of its own.
      negatives: kinds of captions that are nearly true; those that exchange need two sprites, and are left out of a
        clip in which the two do not differ.
      size: smallest and largest extent of a sprite, a fraction of the shorter side.
    """

    height: int = 32
    width: int = 32
    frames: int = 8
    fps: float = 8.0
    objects: int = 2
    negatives: tuple[str, ...] = ("colour", "shape", "direction", "swap", "swap_shape", "count")
    size: tuple[float, float] = (0.26, 0.32)

    def __post_init__(self):
        check_size(self)
        check_words("negatives", self.negatives, NEGATIVES)
        scatter.check_room(self)


def clip(config: RetrievalConfig, index: int, seed: int = 0) -> Example:
    """Clip `index` of the endless, reproducible sequence of `seed`.

    Attributes: `objects` (the sprites) and `negatives` (kind -> caption that is not true).
    """
    world, rng = scatter.sprites_config(config), generator(seed, index)
    shown = scatter.draw_attributes(rng, config.objects, world)
    _, drawn = scatter.scatter(shown, (seed, index, 1), world)
    canvas = np.zeros((config.frames, config.height, config.width, 3), np.uint8)
    video, masks = layers.paint(canvas, drawn)
    negatives = {}
    for kind in config.negatives:
        other = NEGATIVES[kind](list(shown), rng, world)
        if other is not None:
            negatives[kind] = caption(other)
    attributes = {"objects": [sprite.words() for sprite in shown], "negatives": negatives}
    return Example(video, caption(shown), attributes, layers.truth(masks, drawn))


def caption(shown: Sequence[Sprite]) -> str:
    """`two shapes: a red square moves left and a blue circle moves up`; the order of the sprites says nothing."""
    said = sprites.caption([dataclasses.replace(sprite, speed=None) for sprite in shown])
    return f"{COUNTS[len(shown)]} shape{'s' if len(shown) != 1 else ''}: {said}"


def parse_caption(text: str) -> tuple[Sprite, ...]:
    """The sprites a caption speaks of; the inverse of `caption`.

    Raises:
      ValueError: not such a sentence, or its count is not that of its sprites.
    """
    count, _, rest = " ".join(text.lower().split()).partition(": ")
    found = sprites.parse_captions(rest)
    if caption(found).partition(": ")[0] != count:
        raise ValueError(f"caption: {text!r} does not begin with the number of its shapes")
    return found


def _other(words: Sequence[str], taken: Sequence[str], rng: np.random.Generator) -> str:
    free = [word for word in words if word not in taken]
    return free[rng.integers(len(free))]


def _changed(field: str, words: Callable[[SpritesConfig], Sequence[str]], unlike_all: bool):
    def change(shown: list[Sprite], rng: np.random.Generator, world: SpritesConfig) -> list[Sprite]:
        n = int(rng.integers(len(shown)))
        taken = [getattr(sprite, field) for sprite in (shown if unlike_all else [shown[n]])]
        shown[n] = dataclasses.replace(shown[n], **{field: _other(words(world), taken, rng)})
        return shown

    return change


def _exchanged(field: str):
    def change(shown: list[Sprite], rng: np.random.Generator, world: SpritesConfig) -> list[Sprite] | None:
        rest = [name for name in ("colour", "shape", "direction") if name != field]
        for i in range(len(shown)):
            for j in range(i):
                a, b = shown[i], shown[j]
                differs = any(getattr(a, name) != getattr(b, name) for name in rest)
                if getattr(a, field) != getattr(b, field) and differs:
                    shown[i] = dataclasses.replace(a, **{field: getattr(b, field)})
                    shown[j] = dataclasses.replace(b, **{field: getattr(a, field)})
                    return shown
        return None

    return change


def _miscounted(shown: list[Sprite], rng: np.random.Generator, world: SpritesConfig) -> list[Sprite]:
    if len(shown) == 1 or (len(shown) < 3 and rng.uniform() < 0.5):
        more = scatter.draw_attributes(rng, 1, world)[0]
        taken = [sprite.colour for sprite in shown]
        return [*shown, dataclasses.replace(more, colour=_other(world.colours, taken, rng))]
    return shown[:-1]


NEGATIVES: dict[str, Callable[[list[Sprite], np.random.Generator, SpritesConfig], list[Sprite] | None]] = {
    "colour": _changed("colour", lambda world: world.colours, unlike_all=True),
    "shape": _changed("shape", lambda world: world.shapes, unlike_all=False),
    "direction": _changed("direction", lambda world: tuple(DIRECTIONS), unlike_all=False),
    "swap": _exchanged("colour"),
    "swap_shape": _exchanged("shape"),
    "count": _miscounted,
}
