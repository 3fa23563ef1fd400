"""The world `sprites`: coloured shapes that move in a straight line over a plain background, with exact captions.

A clip is decided by its attributes and a random stream.  With frame size `S = min(H, W)`, half-size `r` and travel
`d` (fractions of S), direction `u` and frames k = 0..T-1, a sprite's centre is

    c_k = c_0 + d S u k / (T - 1),

`c_0` uniform among the starts from which the whole sprite stays in the frame from first to last.  Speed is thus the
way covered in the whole clip, so "quickly" means the same for every length.  Coverage of a pixel at distance `phi`
(signed, in pixels) from the outline is `clip(1/2 - phi, 0, 1)`: anti-aliased, and positions are continuous.

Shape legend: T frames, H height, W width.  The oracle that reads attributes back is `sprites_oracle`.
"""

import dataclasses
import itertools
import re
from collections.abc import Sequence

import numpy as np

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
SHAPES: tuple[str, ...] = ("square", "circle", "triangle", "cross", "diamond", "ring")
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
        bounds = (("height", 16, 128), ("width", 16, 128), ("frames", 1, 128), ("objects", 1, 4))
        for name, low, high in bounds:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not within {low}..{high}")
        if not self.fps > 0:
            raise ValueError(f"fps: {self.fps!r} is not positive")
        for name, allowed in (("shapes", SHAPES), ("colours", COLOURS)):
            values = getattr(self, name)
            for value in values:
                if value not in allowed:
                    raise ValueError(f"{name}: {did_you_mean(value, allowed)}")
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}: {values!r} must be at least one value, each once")
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
      ValueError: a fraction out of range, or so large that some single value would be missing in training.
    """
    if not 0 <= fraction_held_out < 1:
        raise ValueError(f"fraction_held_out: {fraction_held_out!r} is not within [0, 1)")
    combos = combinations(config)
    wanted = round(fraction_held_out * len(combos))
    left: dict[tuple[str, str], int] = {}
    for value in itertools.chain.from_iterable(map(_values, combos)):
        left[value] = left.get(value, 0) + 1
    held_out: set[Sprite] = set()
    for i in np.random.default_rng([seed, 0x5EED]).permutation(len(combos)):
        values = _values(combos[i])
        if len(held_out) < wanted and all(left[v] > 1 for v in values):
            held_out.add(combos[i])
            for v in values:
                left[v] -= 1
    if len(held_out) < wanted:
        raise ValueError(
            f"fraction_held_out: {fraction_held_out!r} leaves some colour, shape, direction or speed untaught"
        )
    return tuple(c for c in combos if c not in held_out), tuple(c for c in combos if c in held_out)


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


def clip(
    index: int, config: SpritesConfig, combos: Sequence[Sprite] | None = None, seed: int = 0
) -> tuple[np.ndarray, tuple[Sprite, ...]]:
    """Clip `index` of the endless, reproducible sequence of `seed`: (uint8 [T, H, W, 3], its sprites)."""
    sprites = attributes(index, config, combos)
    return render(sprites, np.random.default_rng([seed, index]), config), sprites


def render(sprites: Sprite | Sequence[Sprite], rng: np.random.Generator, config: SpritesConfig) -> np.ndarray:
    """Draws a clip.

    Args:
      sprites: what is to be seen; a speed of None is drawn slowly.
      rng: decides sizes and start positions, nothing else.
      config: the world.

    Returns:
      RGB uint8 [T, H, W, 3].
    """
    sprites = (sprites,) if isinstance(sprites, Sprite) else sprites
    shape = (config.frames, config.height, config.width, 3)
    video = np.full(shape, 255 * config.background, np.float32)
    for sprite in sprites:
        centres, half = _path(sprite, rng, config)
        alpha = coverage(sprite.shape, centres, half, config.height, config.width)[..., None]
        video += alpha * (np.asarray(COLOURS[sprite.colour], np.float32) - video)
    return (video + 0.5).astype(np.uint8)


def coverage(shape: str, centres: np.ndarray, half: np.ndarray | float, height: int, width: int) -> np.ndarray:
    """Share of each pixel that a shape covers.

    Args:
      shape: one of `SHAPES`.
      centres: [..., 2] float, (x, y) of the bounding box's centre in pixels; the first pixel's centre is (0.5, 0.5).
      half: half the extent in pixels, broadcast against `centres[..., 0]`.
      height, width: of the frame.

    Returns:
      float32 [..., H, W] in [0, 1].
    """
    centres = np.asarray(centres, np.float32)
    r = np.broadcast_to(np.asarray(half, np.float32), centres.shape[:-1])[..., None, None]
    x = np.arange(width, dtype=np.float32) + 0.5 - centres[..., None, None, 0]  # [..., 1, W]
    y = np.arange(height, dtype=np.float32)[:, None] + 0.5 - centres[..., None, None, 1]  # [..., H, 1]
    return np.clip(0.5 - _distance(shape, x, y, r), 0.0, 1.0)


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


def _values(sprite: Sprite) -> tuple[tuple[str, str], ...]:
    return tuple(dataclasses.asdict(sprite).items())


def _path(sprite: Sprite, rng: np.random.Generator, config: SpritesConfig) -> tuple[np.ndarray, float]:
    """Centres [T, 2] and the half-size, in pixels; the whole sprite is inside the frame all the time."""
    side = min(config.height, config.width)
    half = side * rng.uniform(*config.size) / 2
    way = side * config.travel[SPEEDS.index(sprite.speed or "slowly")] * np.array(DIRECTIONS[sprite.direction])
    extent = np.array([config.width, config.height])
    low = half + np.maximum(-way, 0)
    high = extent - half - np.maximum(way, 0)
    start = low + (high - low) * rng.uniform(size=2)
    steps = np.linspace(0, 1, config.frames) if config.frames > 1 else np.zeros(1)
    return start + steps[:, None] * way, half


def _distance(shape: str, x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Signed distance to the outline in pixels (exact near edges, not beyond corners); y points down."""
    ax, ay = np.abs(x), np.abs(y)
    match shape:
        case "square":
            return np.maximum(ax, ay) - r
        case "circle":
            return np.sqrt(x * x + y * y) - r
        case "triangle":  # corners (0, -r), (r, r), (-r, r)
            return np.maximum((2 * ax - y - r) / np.float32(5**0.5), y - r)
        case "cross":  # a plus sign with arms a third as wide as long
            arm = r / 3
            return np.minimum(np.maximum(ax - r, ay - arm), np.maximum(ax - arm, ay - r))
        case "diamond":
            return (ax + ay - r) / np.float32(2**0.5)
        case "ring":
            return np.abs(np.sqrt(x * x + y * y) - np.float32(0.72) * r) - np.float32(0.28) * r
    raise AssertionError(shape)
