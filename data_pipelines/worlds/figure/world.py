"""The world `figure`: a person in coloured clothes who walks, waves, cheers, jumps or squats on plain ground.

The body is that of `body`: key points, garments, and the exact flow of each limb.  What is drawn at random is
how tall the person is, where they stand, how fast they act and at which moment the clip begins; shirt and trousers
always differ.  The oracle that reads clothes, actions and the head back is `oracle`.

Shape legend: T frames.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence

import numpy as np

from data_pipelines.worlds.figure import body
from data_pipelines.worlds.figure.body import ACTIONS, GARMENTS, KEYPOINTS
from data_pipelines.worlds.splitting import divide
from data_pipelines.worlds.world import ClipFn, Example, check_size, check_words, generator
from vdm_jax.errors import did_you_mean

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 170, 50),
    "blue": (40, 70, 230),
    "yellow": (240, 220, 30),
    "magenta": (210, 40, 200),
    "white": (245, 245, 245),
}
SKIN, SHOES = (232, 176, 132), (12, 12, 12)
BACKDROP, GROUND = (60.0, 95.0), 0.75  # grey levels of the wall; the ground's relative to it
CYCLES = (1.0, 1.8)  # of an action in a clip
WAY = (0.3, 0.5)  # that a walk covers, of the width
MOST_FRAMES_OF_A_CYCLE = 32
_SENTENCE = re.compile(r"a person in an? (\w+) shirt and (\w+) trousers (.+)")


@dataclasses.dataclass(frozen=True)
class FigureConfig:
    """What the clips look like.

    Attributes:
      height, width: pixels, 16 to 128; the width is at least half the height.
      frames: frames of a clip, 1 to 128.
      fps: frames per second, which changes no pixel.
      actions: those in use, of `body.ACTIONS`.
      colours: of shirts and trousers, at least two.
      size: smallest and largest standing height, a fraction of the frame's height (or of the width, if that is less).
    """

    height: int = 64
    width: int = 64
    frames: int = 16
    fps: float = 8.0
    actions: tuple[str, ...] = ACTIONS
    colours: tuple[str, ...] = tuple(COLOURS)
    size: tuple[float, float] = (0.6, 0.72)

    def __post_init__(self):
        check_size(self)
        check_words("actions", self.actions, ACTIONS)
        check_words("colours", self.colours, COLOURS)
        if len(self.colours) < 2:
            raise ValueError(f"colours: {self.colours!r}; shirt and trousers need two")
        if not 0.4 <= self.size[0] <= self.size[1] <= 0.75:
            raise ValueError(f"size: {self.size!r} is not two rising fractions within 0.4..0.75")


@dataclasses.dataclass(frozen=True)
class Person:
    """What a caption says."""

    shirt: str
    trousers: str
    action: str

    def __post_init__(self):
        for name, allowed in (("shirt", COLOURS), ("trousers", COLOURS), ("action", ACTIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {did_you_mean(getattr(self, name), allowed)}")


@functools.lru_cache(maxsize=16)
def combinations(config: FigureConfig) -> tuple[Person, ...]:
    """All people of a world, in a fixed order (180 with the defaults)."""
    clothes = itertools.permutations(config.colours, 2)
    return tuple(Person(*pair, action) for pair, action in itertools.product(clothes, config.actions))


def clip(config: FigureConfig, index: int, seed: int = 0) -> Example:
    """Clip `index` of the endless, reproducible sequence of `seed`; the combinations take turns."""
    return _clip(config, combinations(config), index, seed)


def hold_out(config: FigureConfig, share: float, seed: int) -> tuple[ClipFn, ClipFn]:
    """Two sequences of clips: of people for training, and of combinations that are held out (see `splitting`)."""
    train, held_out = divide(combinations(config), share, seed)
    return functools.partial(_clip, config, train), functools.partial(_clip, config, held_out or train)


def caption(person: Person) -> str:
    """`a person in a red shirt and blue trousers walks left`."""
    return f"a person in a {person.shirt} shirt and {person.trousers} trousers {person.action}"


def parse_caption(text: str) -> Person:
    """The inverse of `caption`.

    Raises:
      ValueError: not such a sentence, or an unknown word.
    """
    match = _SENTENCE.fullmatch(" ".join(text.lower().split()).rstrip("."))
    if match is None:
        raise ValueError(f"caption: {text!r} is not of the form 'a person in a red shirt and blue trousers waves'")
    return Person(*match.groups())


def render(config: FigureConfig, person: Person, rng: np.random.Generator) -> Example:
    """Draws a clip of a person; `rng` decides size, place, pace and the first moment."""
    height = rng.uniform(*config.size) * min(config.height, config.width)
    cycles = max(rng.uniform(*CYCLES), config.frames / MOST_FRAMES_OF_A_CYCLE)
    time = np.linspace(0, 1, config.frames) if config.frames > 1 else np.zeros(1)
    phase = rng.uniform() + cycles * time
    ground = np.empty((config.frames, 2))
    ground[:, 1] = config.height * rng.uniform(0.88, 0.95)
    reach, wide = 0.32 * height, float(config.width)
    way = 0.0
    if person.action.startswith("walks"):
        way = rng.uniform(*WAY) * wide * (1 if person.action.endswith("right") else -1)
    low, high = reach + max(-way, 0), wide - reach - max(way, 0)
    start = rng.uniform(low, high) if low < high else (low + high) / 2
    ground[:, 0] = start + way * time
    points = body.keypoints(person.action, phase, ground, height)
    background = np.full((config.frames, config.height, config.width, 3), rng.uniform(*BACKDROP), np.float32)
    background[:, round(ground[0, 1] - 0.04 * height) :] *= GROUND
    colours = {"shirt": COLOURS[person.shirt], "trousers": COLOURS[person.trousers], "skin": SKIN, "shoes": SHOES}
    video, parts = body.draw(background, points, height, colours)
    said = dataclasses.asdict(person)
    attributes = said | {"objects": list(GARMENTS), "keypoints": list(KEYPOINTS), "standing_height": float(height)}
    return Example(video, caption(person), attributes, body.truth(points, parts, height))


def _clip(config: FigureConfig, people: Sequence[Person], index: int, seed: int) -> Example:
    return render(config, people[index % len(people)], generator(seed, index))
