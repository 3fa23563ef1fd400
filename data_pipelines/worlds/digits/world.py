"""The world `digits`: coloured digits, each written by hand anew, that bounce off the sides of a black frame.

Every digit has a colour of its own and a heading, one of the four diagonals, in which it sets out from the side that it
turns its back to.  With the free range `[low, high]` of its centre it is at

    c(k) = low + |u - 2 L round(u / 2L)|,   u = c_0 - low + v k / fps,   L = high - low,

in each dim: a straight line folded at the walls.  Later digits lie over earlier ones.  The oracle that reads digits,
colours, headings and tracks back is `oracle`.

Shape legend: T frames.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence

import numpy as np

from data_pipelines.worlds.drawing import glyphs, layers
from data_pipelines.worlds.drawing.glyphs import Glyph, Hand
from data_pipelines.worlds.drawing.layers import Layer
from data_pipelines.worlds.splitting import divide
from data_pipelines.worlds.world import ClipFn, Example, check_size, check_words, generator
from vdm_jax.errors import did_you_mean

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 64, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "white": (255, 255, 255),
}
HEADINGS: dict[str, tuple[int, int]] = {  # (x, y)
    "upper left": (-1, -1),
    "upper right": (1, -1),
    "lower left": (-1, 1),
    "lower right": (1, 1),
}
MOST = 3  # digits
LEAST_ANGLE = 25  # degrees between a heading and the axes
START = (0.15, 0.5)  # how far from the wall behind it a digit sets out, of the way between the walls
OVERLAP, TRIES = 0.4, 12  # share of the frames in which a digit's box may overlap others, if so many tries give that
_PHRASE = re.compile(r"an? (\w+) (\w+)(?: moves to the (\w+ \w+))?")


@dataclasses.dataclass(frozen=True)
class DigitsConfig:
    """What the clips look like.

    Attributes:
      height, width: pixels, 16 to 128.
      frames: frames of a clip, 1 to 128.
      fps: frames per second.
      digits: how many of them, 1 to 3.
      colours: the values in use, at least as many as there are digits.
      size: smallest and largest extent of a digit, a fraction of the shorter side.
      speed: slowest and fastest, in shorter sides per second.
      hand: how differently digits are written.
    """

    height: int = 32
    width: int = 32
    frames: int = 16
    fps: float = 8.0
    digits: int = 2
    colours: tuple[str, ...] = tuple(COLOURS)
    size: tuple[float, float] = (0.42, 0.5)
    speed: tuple[float, float] = (0.3, 0.6)
    hand: Hand = dataclasses.field(default_factory=Hand)

    def __post_init__(self):
        check_size(self)
        if not 1 <= self.digits <= MOST:
            raise ValueError(f"digits: {self.digits!r} is not within 1..{MOST}")
        check_words("colours", self.colours, COLOURS)
        if len(self.colours) < self.digits:
            raise ValueError(f"colours: {self.colours!r} are too few for {self.digits} digits, each with its own")
        if not 0.2 <= self.size[0] <= self.size[1] <= 0.7:
            raise ValueError(f"size: {self.size!r} is not two rising fractions within 0.2..0.7")
        if self.digits * self.size[1] > 1:
            raise ValueError(
                f"size: {self.size[1]} is too large for {self.digits} digits; the product must be at most 1"
            )
        if not 0 < self.speed[0] <= self.speed[1]:
            raise ValueError(f"speed: {self.speed!r} is not two rising numbers")
        if self.speed[1] > (1 - self.size[1]) / 4 * self.fps:
            raise ValueError(f"speed: {self.speed[1]} at fps {self.fps} is more than a quarter of the free way a frame")


@dataclasses.dataclass(frozen=True)
class Digit:
    """The attributes of one digit, in words.  `heading` is None in a caption that does not say it."""

    colour: str
    digit: str
    heading: str | None = "upper left"

    def __post_init__(self):
        for name, allowed in (("colour", COLOURS), ("digit", glyphs.NAMES), ("heading", HEADINGS)):
            value = getattr(self, name)
            if value not in allowed and not (name == "heading" and value is None):
                raise ValueError(f"{name}: {did_you_mean(value, allowed)}")


@functools.lru_cache(maxsize=16)
def combinations(config: DigitsConfig) -> tuple[Digit, ...]:
    """All attribute combinations of one digit, in a fixed order (240 with the defaults)."""
    return tuple(itertools.starmap(Digit, itertools.product(config.colours, glyphs.NAMES, HEADINGS)))


def hold_out(config: DigitsConfig, share: float, seed: int) -> tuple[ClipFn, ClipFn]:
    """Clips of the two parts of all combinations; with a share of 0 both are all there is."""
    train, val = divide(combinations(config), share, seed)
    return functools.partial(_clip_of, config, train), functools.partial(_clip_of, config, val or train)


def clip(config: DigitsConfig, index: int, seed: int = 0, combos: Sequence[Digit] | None = None) -> Example:
    """Clip `index` of the endless, reproducible sequence of `seed`.

    The first digit cycles through `combos` (all by default), the others are drawn from it, in other colours.  Its
    attributes are `{"objects": [{"colour", "digit", "heading", "bounces": number of walls it met}]}`.
    """
    combos = combinations(config) if combos is None else combos
    rng = generator(seed, index)
    shown = [combos[index % len(combos)]]
    while len(shown) < config.digits:
        taken = {digit.colour for digit in shown}
        free = [combo for combo in combos if combo.colour not in taken]
        if not free:
            raise ValueError(
                f"digits: {config.digits} in colours of their own cannot be drawn from {len(combos)} kinds"
            )
        shown.append(free[rng.integers(len(free))])
    written = [_write(digit, rng, config) for digit in shown]
    drawn, bounces = zip(*_apart(shown, written, rng, config))
    video, masks = layers.paint(np.zeros((config.frames, config.height, config.width, 3), np.uint8), drawn)
    objects = [dataclasses.asdict(digit) | {"bounces": met} for digit, met in zip(shown, bounces)]
    return Example(video, caption(shown, moving=config.frames > 1), {"objects": objects}, layers.truth(masks, drawn))


def caption(digits: Sequence[Digit], moving: bool = True) -> str:
    """`a red three moves to the upper left and ...`; without motion `a red three and ...`."""
    way = (f" moves to the {digit.heading}" if moving and digit.heading else "" for digit in digits)
    return " and ".join(f"a {digit.colour} {digit.digit}{rest}" for digit, rest in zip(digits, way))


def parse_caption(text: str) -> tuple[Digit, ...]:
    """The digits a caption speaks of; the inverse of `caption`.

    Raises:
      ValueError: not such a sentence, or an unknown word.
    """
    found = []
    for part in " ".join(text.lower().split()).rstrip(".").split(" and "):
        match = _PHRASE.fullmatch(part)
        if match is None:
            raise ValueError(f"caption: {text!r} is not of the form 'a red three moves to the upper left'")
        found.append(Digit(*match.groups()))
    return tuple(found)


def _clip_of(config: DigitsConfig, combos: Sequence[Digit], index: int, seed: int) -> Example:
    return clip(config, index, seed, combos)


def _write(digit: Digit, rng: np.random.Generator, config: DigitsConfig) -> tuple[Glyph, float]:
    """The digit as it is written, and half its extent in pixels."""
    glyph = glyphs.write(glyphs.NAMES.index(digit.digit), rng, config.hand)
    return glyph, min(config.height, config.width) * rng.uniform(*config.size) / 2


def _apart(
    shown: Sequence[Digit], written: Sequence[tuple[Glyph, float]], rng: np.random.Generator, config: DigitsConfig
) -> list[tuple[Layer, int]]:
    """The digits on their ways, drawn anew until none has another at its place in many frames."""
    least, best = np.inf, []
    for _ in range(TRIES):
        found = [_layer(digit, *how, rng, config) for digit, how in zip(shown, written)]
        overlap = layers.crowding([layer for layer, _ in found])
        if overlap < least:
            least, best = overlap, found
        if overlap <= OVERLAP:
            break
    return best


def _layer(
    digit: Digit, glyph: Glyph, scale: float, rng: np.random.Generator, config: DigitsConfig
) -> tuple[Layer, int]:
    """A digit on a random way; and how often it meets a wall."""
    side = min(config.height, config.width)
    half = scale * np.array(glyph.half)
    angle = np.radians(rng.uniform(LEAST_ANGLE, 90 - LEAST_ANGLE))
    towards = np.array(HEADINGS[digit.heading or "upper left"])
    velocity = side * rng.uniform(*config.speed) * np.array([np.cos(angle), np.sin(angle)]) * towards
    length = np.array([config.width, config.height]) - 2 * half
    behind = length * rng.uniform(*START, size=2)
    start = np.where(towards > 0, behind, length - behind)
    way = start + velocity * (np.arange(config.frames)[:, None] / config.fps)  # [T, 2]
    folded = np.abs(way - 2 * length * np.round(way / (2 * length)))
    bounces = np.abs(np.floor(way[-1] / length)).sum()
    layer = Layer(
        colour=COLOURS[digit.colour],
        centres=half + folded,
        half=(float(half[0]), float(half[1])),
        distance=lambda x, y: glyph.distance(x, y, np.float32(scale)),
        anchor=tuple(scale * a for a in glyph.anchor),
    )
    return layer, int(bounces)
