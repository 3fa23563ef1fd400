"""The world `sprites`: coloured shapes that move in a straight line over a plain background, with exact captions.

A clip is decided by its attributes and a random stream.  With frame size `S = min(H, W)`, half-size `r` and travel
`d` (fractions of S), direction `u` and frames k = 0..T-1, a sprite's centre is

    c_k = c_0 + d S u k / (T - 1),

`c_0` uniform among the starts from which the whole sprite stays in the frame from first to last.  Speed is thus the
way covered in the whole clip, so "quickly" means the same for every length.  Sprites are `layers` of `shapes`, drawn
anti-aliased at continuous positions, with exact masks, flow and tracks.

Shape legend: T frames, H height, W width.  The oracle that reads attributes back is `sprites_oracle`.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence

import numpy as np

from data_pipelines.worlds import layers
from data_pipelines.worlds.layers import Layer
from data_pipelines.worlds.shapes import SHAPES, distance
from data_pipelines.worlds.splitting import divide
from data_pipelines.worlds.world import ClipFn, Example, check_size, check_words, generator
from vdm_jax.errors import did_you_mean

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
    "white": (255, 255, 255),
    "orange": (255, 128, 0),
}
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # (x, y)
SPEEDS: tuple[str, ...] = ("slowly", "quickly")

_SENTENCE = re.compile(r"an? (\w+) (\w+) moves (\w+)(?: (\w+))?")


@dataclasses.dataclass(frozen=True)
class SpritesConfig:
    """What the clips look like.

    Attributes:
      height, width: pixels, 16 to 128.
      frames: frames of a clip, 1 to 128.  With one frame nothing moves and no direction can be read.
      fps: frames per second written beside the clips; it changes no pixel.
      objects: sprites per clip, 1 to 4; later ones are drawn over earlier ones.
      shapes, colours: the values in use.
      size: smallest and largest extent of a sprite, a fraction of the shorter side.
      travel: way covered in the whole clip, slowly and quickly, a fraction of the shorter side.
      background: grey level of the background, 0 (black) to 0.3.
    """

    height: int = 16
    width: int = 16
    frames: int = 8
    fps: float = 8.0
    objects: int = 1
    shapes: tuple[str, ...] = ("square", "circle", "triangle", "cross")
    colours: tuple[str, ...] = tuple(COLOURS)
    size: tuple[float, float] = (0.36, 0.42)
    travel: tuple[float, float] = (0.35, 0.58)
    background: float = 0.0

    def __post_init__(self):
        check_size(self)
        if not 1 <= self.objects <= 4:
            raise ValueError(f"objects: {self.objects!r} is not within 1..4")
        check_words("shapes", self.shapes, SHAPES)
        check_words("colours", self.colours, COLOURS)
        small, large = self.size
        if not 0.1 <= small <= large:
            raise ValueError(f"size: {self.size!r} is not two rising fractions of at least 0.1")
        slow, quick = self.travel
        if not 0 < slow < quick:
            raise ValueError(f"travel: {self.travel!r} is not two rising fractions")
        if large + quick > 1:
            raise ValueError(f"travel: {quick} with size {large} leaves the frame; their sum must be at most 1")
        if not 0 <= self.background <= 0.3:
            raise ValueError(f"background: {self.background!r} is not within 0..0.3")


@dataclasses.dataclass(frozen=True)
class Sprite:
    """The attributes of one sprite, in words.  `speed` is None in a caption that does not say it."""

    colour: str
    shape: str
    direction: str
    speed: str | None = "slowly"

    def __post_init__(self):
        pairs = (("colour", COLOURS), ("shape", SHAPES), ("direction", DIRECTIONS), ("speed", SPEEDS))
        for name, allowed in pairs:
            value = getattr(self, name)
            if value not in allowed and not (name == "speed" and value is None):
                raise ValueError(f"{name}: {did_you_mean(value, allowed)}")


@functools.lru_cache(maxsize=16)
def combinations(config: SpritesConfig) -> tuple[Sprite, ...]:
    """All attribute combinations of one sprite, in a fixed order (256 with the defaults)."""
    return tuple(itertools.starmap(Sprite, itertools.product(config.colours, config.shapes, DIRECTIONS, SPEEDS)))


def split(fraction_held_out: float, seed: int, config: SpritesConfig) -> tuple[tuple[Sprite, ...], tuple[Sprite, ...]]:
    """Divides the combinations so that held-out captions never occur in training, but each of their words does.

    Args:
      fraction_held_out: share of the combinations to hold out, in [0, 1).
      seed: which ones.
      config: the values in use.

    Returns:
      (training, held-out) combinations, both in the order of `combinations`.

    Raises:
      ValueError: as `splitting.divide`.
    """
    return divide(combinations(config), fraction_held_out, seed)


def attributes(index: int, config: SpritesConfig, combos: Sequence[Sprite] | None = None) -> tuple[Sprite, ...]:
    """The sprites of clip `index`: its combination cycles through `combos`, further objects are drawn at random.

    Args:
      index: number of the clip, from 0.
      config: the world.
      combos: allowed combinations (one half of `split`); None allows all.
    """
    combos = combinations(config) if combos is None else combos
    rng = np.random.default_rng([index, 0xA77])
    others = (combos[i] for i in rng.integers(len(combos), size=config.objects - 1))
    return combos[index % len(combos)], *others


def clip(config: SpritesConfig, index: int, seed: int = 0, combos: Sequence[Sprite] | None = None) -> Example:
    """Clip `index` of the endless, reproducible sequence of `seed`; `combos` as in `attributes`.

    Its attributes are `{"objects": [the fields of each Sprite]}`.
    """
    return render(attributes(index, config, combos), generator(seed, index), config)


def hold_out(config: SpritesConfig, share: float, seed: int) -> tuple[ClipFn, ClipFn]:
    """Clips of the two halves of `split`; with a share of 0 both are all there is."""
    train, val = split(share, seed, config)
    return functools.partial(_clip_of, config, train), functools.partial(_clip_of, config, val or train)


def render(sprites: Sprite | Sequence[Sprite], rng: np.random.Generator, config: SpritesConfig) -> Example:
    """Draws a clip.

    Args:
      sprites: what is to be seen; a speed of None is drawn slowly.
      rng: decides sizes and start positions, nothing else.
      config: the world.
    """
    sprites = (sprites,) if isinstance(sprites, Sprite) else tuple(sprites)
    drawn = [sprite_layer(sprite, rng, config) for sprite in sprites]
    grey = round(255 * config.background)
    background = np.full((config.frames, config.height, config.width, 3), grey, np.uint8)
    video, masks = layers.paint(background, drawn)
    objects = [dataclasses.asdict(sprite) for sprite in sprites]
    return Example(video, caption(sprites), {"objects": objects}, layers.truth(masks, drawn))


def caption(sprites: Sprite | Sequence[Sprite]) -> str:
    """`a red square moves left slowly`; several sprites are joined with "and"."""
    sprites = (sprites,) if isinstance(sprites, Sprite) else sprites
    phrases = []
    for s in sprites:
        article = "an" if s.colour[0] in "aeiou" else "a"
        phrases.append(f"{article} {s.colour} {s.shape} moves {s.direction} {s.speed or ''}".rstrip())
    return " and ".join(phrases)


def parse_caption(text: str) -> Sprite:
    """The one sprite a caption speaks of; the inverse of `caption`.

    Raises:
      ValueError: not such a sentence, an unknown word, or several sprites (see `parse_captions`).
    """
    sprites = parse_captions(text)
    if len(sprites) != 1:
        raise ValueError(f"caption: {text!r} speaks of {len(sprites)} sprites, expected one")
    return sprites[0]


def parse_captions(text: str) -> tuple[Sprite, ...]:
    """All sprites a caption speaks of.

    Raises:
      ValueError: not such a sentence, or an unknown word.
    """
    sprites = []
    for part in " ".join(text.lower().split()).rstrip(".").split(" and "):
        match = _SENTENCE.fullmatch(part)
        if match is None:
            raise ValueError(f"caption: {text!r} is not of the form 'a red square moves left slowly'")
        sprites.append(Sprite(*match.groups()))
    return tuple(sprites)


def _clip_of(config: SpritesConfig, combos: Sequence[Sprite], index: int, seed: int) -> Example:
    return clip(config, index, seed, combos)


def sprite_layer(sprite: Sprite, rng: np.random.Generator, config: SpritesConfig) -> Layer:
    """A sprite of random size on a random path; the whole of it is inside the frame all the time."""
    side = min(config.height, config.width)
    half = side * rng.uniform(*config.size) / 2
    way = side * config.travel[SPEEDS.index(sprite.speed or "slowly")] * np.array(DIRECTIONS[sprite.direction])
    extent = np.array([config.width, config.height])
    low = half + np.maximum(-way, 0)
    high = extent - half - np.maximum(way, 0)
    start = low + (high - low) * rng.uniform(size=2)
    steps = np.linspace(0, 1, config.frames) if config.frames > 1 else np.zeros(1)
    return Layer(
        colour=COLOURS[sprite.colour],
        centres=start + steps[:, None] * way,
        half=(half, half),
        distance=lambda x, y: distance(sprite.shape, x, y, np.float32(half)),
        anchor=(0.0, -0.72 * half if sprite.shape == "ring" else 0.0),  # a ring's centre is a hole
    )
