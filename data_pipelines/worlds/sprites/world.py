"""The world `sprites`: coloured shapes that move over a plain background, with exact captions.

A clip is decided by its attributes and a random stream.  With frame size `S = min(H, W)`, half-size `r` and travel
`d` (fractions of S), direction `u` and frames k = 0..T-1, a sprite's centre is

    c_k = c_0 + d S u k / (T - 1),

`c_0` uniform among the starts from which the whole sprite stays in the frame from first to last.  Speed is thus the
way covered in the whole clip, so "quickly" means the same for every length.  Sprites are `layers` of `shapes`, drawn
anti-aliased at continuous positions, with exact masks, flow and tracks.

On request a sprite tells a story of several events ("a red square moves left, then up slowly"): the way is divided
evenly among them, in time and in length.  And it may be several of one kind ("three red squares move left slowly"):
equal copies that go the same way, apart from each other.  Each copy is an object of the attributes, masks and tracks.

Shape legend: T frames, H height, W width, N copies.  The oracle that reads attributes back is `oracle`.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds.drawing import layers
from data_pipelines.worlds.drawing.layers import Layer
from data_pipelines.worlds.drawing.shapes import SHAPES, distance
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

COUNTS: tuple[str, ...] = ("a", "two", "three", "four")  # from one on
MOST_EVENTS = 3
APART = 2.0  # pixels between copies at least: one that both leave free
EVENT_FRAMES = 2  # steps between frames that an event takes at least

_PLURALS = {f"{shape}es" if shape.endswith("s") else f"{shape}s": shape for shape in SHAPES}
_SENTENCE = re.compile(rf"(an|{'|'.join(COUNTS)}) (\w+) (\w+) moves? (\w+)((?:, then \w+)*)(?: (\w+))?")


@dataclasses.dataclass(frozen=True)
class SpritesConfig:
    """What the clips look like.

    Attributes:
      height, width: pixels, 16 to 128.
      frames: frames of a clip, 1 to 128.  With one frame nothing moves and no direction can be read.
      fps: frames per second written beside the clips; it changes no pixel.
      objects: kinds of sprites per clip, 1 to 4; later ones are drawn over earlier ones.
      shapes, colours: the values in use.
      size: smallest and largest extent of a sprite, a fraction of the shorter side.
      travel: way covered in the whole clip, slowly and quickly, a fraction of the shorter side.
      background: grey level of the background, 0 (black) to 0.3.
      counts: how many of a kind there may be, of 1 to 4.
      events: how many motions may follow each other, of 1 to 3.
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
    counts: tuple[int, ...] = (1,)
    events: tuple[int, ...] = (1,)

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
        for name, most in (("counts", len(COUNTS)), ("events", MOST_EVENTS)):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values) or not set(values) <= set(range(1, most + 1)):
                raise ValueError(f"{name}: {values!r} must be numbers within 1..{most}, each once, at least one")
        self._check_room()

    def _check_room(self) -> None:
        """Refuses stories for which there is no time, and counts for which there is no place."""
        events, count = max(self.events), max(self.counts)
        if events > 1 and self.frames <= EVENT_FRAMES * events:
            raise ValueError(f"frames: {self.frames!r}; {events} events take {EVENT_FRAMES * events + 1} at least")
        side = min(self.height, self.width)
        astray = max(n // 2 / n for n in self.events) * self.travel[1]  # across the axis with more room
        most = (1 - astray - (count - 1) * APART / side) / count
        if count > 1 and self.size[1] > most:
            raise ValueError(
                f"size: {self.size[1]} is too large for {count} of a kind; at most {max(most, 0):.3f} fits"
            )


@dataclasses.dataclass(frozen=True)
class Sprite:
    """The attributes of one sprite, or of several equal ones, in words.

    Attributes:
      colour, shape, direction: words of the world.
      speed: None in a caption that does not say it.
      count: how many there are.
      then: the directions that follow the first.
    """

    colour: str
    shape: str
    direction: str
    speed: str | None = "slowly"
    count: int = 1
    then: tuple[str, ...] = ()

    def __post_init__(self):
        pairs = (("colour", COLOURS), ("shape", SHAPES), ("direction", DIRECTIONS), ("speed", SPEEDS))
        for name, allowed in pairs:
            value = getattr(self, name)
            if value not in allowed and not (name == "speed" and value is None):
                raise ValueError(f"{name}: {did_you_mean(value, allowed)}")
        for before, value in itertools.pairwise(self.path):
            if value not in DIRECTIONS:
                raise ValueError(f"then: {did_you_mean(value, DIRECTIONS)}")
            if value == before:
                raise ValueError(f"then: {value!r} follows itself; say it once")
        if not 1 <= self.count <= len(COUNTS):
            raise ValueError(f"count: {self.count!r} is not within 1..{len(COUNTS)}")

    @property
    def path(self) -> tuple[str, ...]:
        """All directions, in order."""
        return self.direction, *self.then

    def words(self) -> dict[str, Any]:
        """As JSON values; `count` and `then` only where a caption would say them."""
        said = {name: getattr(self, name) for name in ("colour", "shape", "direction", "speed")}
        said |= {"count": self.count} if self.count > 1 else {}
        return said | ({"then": list(self.then)} if self.then else {})


def paths(config: SpritesConfig) -> tuple[tuple[str, ...], ...]:
    """All sequences of directions in use, in a fixed order; none follows itself."""
    every = itertools.chain.from_iterable(itertools.product(DIRECTIONS, repeat=n) for n in config.events)
    return tuple(path for path in every if all(a != b for a, b in itertools.pairwise(path)))


@functools.lru_cache(maxsize=16)
def combinations(config: SpritesConfig) -> tuple[Sprite, ...]:
    """All attribute combinations of one sprite, in a fixed order (256 with the defaults).

    Worlds of counts and stories have thousands; theirs are shuffled, so that the first clips already show every word.
    """
    product = itertools.product(config.colours, config.shapes, paths(config), SPEEDS, config.counts)
    every = [Sprite(colour, shape, path[0], speed, count, path[1:]) for colour, shape, path, speed, count in product]
    if (config.counts, config.events) != ((1,), (1,)):
        every = [every[i] for i in np.random.default_rng(0xC0B).permutation(len(every))]
    return tuple(every)


def split(held_out: float, seed: int, config: SpritesConfig) -> tuple[tuple[Sprite, ...], tuple[Sprite, ...]]:
    """Divides the combinations so that held-out captions never occur in training, but each of their words does.

    Args:
      held_out: share of the combinations to hold out, in [0, 1).
      seed: which ones.
      config: the values in use.

    Returns:
      (training, held-out) combinations, both in the order of `combinations`.

    Raises:
      ValueError: as `splitting.divide`.
    """
    return divide(combinations(config), held_out, seed)


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

    Its attributes are `{"objects": [the words of each Sprite]}`, once for each copy.
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
    drawn = [layer for sprite in sprites for layer in sprite_layers(sprite, rng, config)]
    grey = round(255 * config.background)
    background = np.full((config.frames, config.height, config.width, 3), grey, np.uint8)
    video, masks = layers.paint(background, drawn)
    objects = [sprite.words() for sprite in sprites for _ in range(sprite.count)]
    return Example(video, caption(sprites), {"objects": objects}, layers.truth(masks, drawn))


def caption(sprites: Sprite | Sequence[Sprite]) -> str:
    """`a red square moves left slowly`, `two red squares move left, then up slowly`; several are joined with "and"."""
    sprites = (sprites,) if isinstance(sprites, Sprite) else sprites
    plural = {shape: word for word, shape in _PLURALS.items()}
    phrases = []
    for s in sprites:
        article = "an" if s.colour[0] in "aeiou" else "a"
        who = f"{article} {s.colour} {s.shape} moves"
        if s.count > 1:
            who = f"{COUNTS[s.count - 1]} {s.colour} {plural[s.shape]} move"
        phrases.append(f"{who} {', then '.join(s.path)} {s.speed or ''}".rstrip())
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
        number, colour, shape, direction, then, speed = match.groups()
        count = 1 if number == "an" else COUNTS.index(number) + 1
        shape = _PLURALS.get(shape, shape) if count > 1 else shape
        sprites.append(Sprite(colour, shape, direction, speed, count, tuple(then.split(", then ")[1:])))
    return tuple(sprites)


def _clip_of(config: SpritesConfig, combos: Sequence[Sprite], index: int, seed: int) -> Example:
    return clip(config, index, seed, combos)


def route(path: Sequence[str], frames: int) -> np.ndarray:
    """Displacements [T, 2] since the first frame of what goes a way of 1 in all, each event an equal part of it."""
    steps = np.linspace(0, 1, frames) if frames > 1 else np.zeros(1)
    done = np.clip(steps[:, None] * len(path) - np.arange(len(path)), 0, 1)  # [T, events]
    return sum(done[:, n, None] * np.array(DIRECTIONS[word]) for n, word in enumerate(path)) / len(path)


def sprite_layers(sprite: Sprite, rng: np.random.Generator, config: SpritesConfig) -> list[Layer]:
    """The copies of a sprite, of random size on a random path; all of each is inside the frame all the time."""
    side = min(config.height, config.width)
    half = side * rng.uniform(*config.size) / 2
    way = side * config.travel[SPEEDS.index(sprite.speed or "slowly")]
    turns = np.array([(0, 0), *(DIRECTIONS[word] for word in sprite.path)]).cumsum(0) * (way / len(sprite.path))
    extent = np.array([config.width, config.height])
    low = half - turns.min(0)
    room = (extent - half - turns.max(0)) - low
    starts = rng.uniform(size=(sprite.count, 2))
    along, gap = int(room.argmax()), 2 * half + APART  # side by side where there is more room
    room[along] -= (sprite.count - 1) * gap
    starts[:, along].sort()
    starts = low + room * starts
    starts[:, along] += np.arange(sprite.count) * gap
    moved = way * route(sprite.path, config.frames)
    return [
        Layer(
            colour=COLOURS[sprite.colour],
            centres=start + moved,
            half=(half, half),
            distance=lambda x, y: distance(sprite.shape, x, y, np.float32(half)),
            anchor=(0.0, -0.72 * half if sprite.shape == "ring" else 0.0),  # a ring's centre is a hole
        )
        for start in starts
    ]
