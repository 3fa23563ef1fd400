"""The world `sound`: balls that ring whenever they hit a wall or each other, heard in stereo.

The motion is that of `balls`, exact.  A ball that meets something at time tau, at place x and at a speed of at least
`AUDIBLE`, rings with the pitch f of its colour:

    a(t) = g exp(-(t - tau) / DECAY) sin(2 pi f (t - tau)) (cos(p), sin(p)),   t >= tau,   p = (pi / 2) x / W,

left and right, of equal power wherever it is; the harder it hits the louder, g in `LOUDNESS`.  Where two balls meet,
both ring.  Frame k is at k / fps and sample n at n / rate; sound and picture are equally long.  Throws are repeated
until no ball rings twice within `APART`, if that can be had.  The oracle, which hears and sees, is `oracle`.

Shape legend: T frames, N balls, S samples.
"""

import dataclasses
import itertools

import numpy as np

from data_pipelines.worlds.bounce import balls
from data_pipelines.worlds.bounce import world as bounce
from data_pipelines.worlds.bounce.balls import Box, Meeting
from data_pipelines.worlds.drawing import layers
from data_pipelines.worlds.drawing.layers import Layer
from data_pipelines.worlds.world import Example, check_size, check_words, generator

PITCHES: dict[str, float] = {  # of the colours of `bounce`, in Hz: each a fourth above the one before
    "red": 440.0,
    "green": 587.0,
    "blue": 784.0,
    "yellow": 1047.0,
    "magenta": 1397.0,
    "white": 1865.0,
}
AUDIBLE = 0.12  # shorter sides per second: a softer meeting is silent
LOUDNESS = (0.15, 0.3)  # of the softest audible meeting, and of all at `LOUDEST` or more
LOUDEST = 1.5  # shorter sides per second
DECAY = 0.05  # seconds
APART = 0.08  # seconds
_TRIES = 60  # throws
_TIMES = ("is silent", "rings once", "rings twice", "rings three times", "rings four times", "rings five times")


@dataclasses.dataclass(frozen=True)
class SoundConfig:
    """What the clips look and sound like.

    Attributes:
      height, width: pixels, 16 to 128.
      frames: frames of a clip, 1 to 128.
      fps: frames per second.
      rate: samples per second, 4000 to 48000.
      balls: how many, 1 to 3.
      colours: the values in use, at least as many as there are balls.
      radius: smallest and largest, a fraction of the shorter side.
      speed: slowest and fastest at the start, in shorter sides per second.
      gravity: in shorter sides per second squared, 0 to 4.
      restitution: share of the speed left after a meeting, 0.5 to 1.
    """

    height: int = 32
    width: int = 32
    frames: int = 16
    fps: float = 12.0
    rate: int = 8000
    balls: int = 2
    colours: tuple[str, ...] = tuple(PITCHES)
    radius: tuple[float, float] = (0.1, 0.15)
    speed: tuple[float, float] = (0.4, 1.0)
    gravity: float = 1.5
    restitution: float = 0.9

    def __post_init__(self):
        check_size(self)
        check_words("colours", self.colours, PITCHES)
        if not isinstance(self.rate, int) or not 4000 <= self.rate <= 48000:
            raise ValueError(f"rate: {self.rate!r} is not a whole number within 4000..48000")
        if not 1 <= self.balls <= 3:
            raise ValueError(f"balls: {self.balls!r} is not within 1..3")
        self.motion()  # checks what they share

    def motion(self) -> bounce.BounceConfig:
        """The same balls without a sound."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "rate"}
        return bounce.BounceConfig(**shared)


@dataclasses.dataclass(frozen=True)
class Tone:
    """One ball rings.

    Attributes:
      time: in seconds.
      ball: its number from 0.
      struck: what it hits: a word of `balls.WALLS`, or the number of another ball.
      x: of its centre, in pixels.
      loudness: g of the top of this file.
    """

    time: float
    ball: int
    struck: int | str
    x: float
    loudness: float


def clip(config: SoundConfig, index: int, seed: int = 0) -> Example:
    """Clip `index` of the endless, reproducible sequence of `seed`.

    Attributes: `audio_rate` (samples per second), `objects` (colour, radius in pixels, pitch in Hz), `sounds` (second,
    object from 1, the wall or the other object that it hits, x in pixels, loudness), in order of time.
    """
    rng = generator(seed, index)
    names = [config.colours[k] for k in rng.permutation(len(config.colours))[: config.balls]]
    box, places, tones = _throw(rng, config)
    drawn = [_layer(names[n], places[:, n], float(radius)) for n, radius in enumerate(box.radii)]
    video, masks = layers.paint(np.zeros((config.frames, config.height, config.width, 3), np.uint8), drawn)
    attributes = {
        "audio_rate": config.rate,
        "objects": [
            {"colour": name, "radius": round(float(radius), 4), "pitch": PITCHES[name]}
            for name, radius in zip(names, box.radii)
        ],
        "sounds": [_described(tone) for tone in tones],
    }
    audio = ring(tones, [PITCHES[name] for name in names], config)
    return Example(video, _caption(names, tones), attributes, layers.truth(masks, drawn) | {"audio": audio})


def ring(tones: list[Tone], pitches: list[float], config: SoundConfig) -> np.ndarray:
    """The samples of tones, float32 [S, 2].

    Args:
      tones: in any order.
      pitches: [N] in Hz, of the balls.
      config: the world, for rate, length and width.
    """
    audio = np.zeros((round(config.rate * config.frames / config.fps), 2))
    for tone in tones:
        first = int(np.ceil(tone.time * config.rate))
        t = np.arange(first, len(audio)) / config.rate - tone.time
        wave = tone.loudness * np.exp(-t / DECAY) * np.sin(2 * np.pi * pitches[tone.ball] * t)
        pan = np.pi / 2 * tone.x / config.width
        audio[first:] += wave[:, None] * (np.cos(pan), np.sin(pan))
    return audio.astype(np.float32)


def _throw(rng: np.random.Generator, config: SoundConfig) -> tuple[Box, np.ndarray, list[Tone]]:
    """Throws balls until there is something to hear while there is something to see, each tone by itself.

    Returns:
      The box, places [T, N, 2] and the tones; of the throw with the fewest tones too close to one another, or with the
      most tones if there are none.
    """
    best, least = None, (np.inf, 0)
    for _ in range(_TRIES):
        box, places, tones = _thrown(rng, config)
        crowded = sum(b.time - a.time < APART for a, b in _neighbours(tones))
        heard = sum(1 <= tone.time * config.fps <= config.frames - 2 for tone in tones)
        badness = (crowded if heard else np.inf, -heard)
        if best is None or badness < least:
            best, least = (box, places, tones), badness
        if badness[0] == 0:
            break
    return best


def _thrown(rng: np.random.Generator, config: SoundConfig) -> tuple[Box, np.ndarray, list[Tone]]:
    side = min(config.height, config.width)
    radii = side * rng.uniform(*config.radius, config.balls)
    box = Box((config.width, config.height), radii, config.gravity * side, config.restitution)
    start, angles = bounce.scattered(rng, box), rng.uniform(0, 2 * np.pi, config.balls)
    speeds = side * rng.uniform(*config.speed, config.balls)[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    times = np.arange(config.frames + 1) / config.fps  # the sound goes on until the next frame would come
    places, _, meetings = balls.simulate(box, start, speeds, times)
    loud = [meeting for meeting in meetings if meeting.speed >= AUDIBLE * side]
    there = balls.simulate(box, start, speeds, [m.time for m in loud])[0] if loud else []
    return box, places[:-1], [tone for m, at in zip(loud, there) for tone in _tones(m, at[:, 0], side)]


def _tones(meeting: Meeting, x: np.ndarray, side: int) -> list[Tone]:
    """The tone of each ball that meets; x [N] of all balls."""
    share = (meeting.speed / side - AUDIBLE) / (LOUDEST - AUDIBLE)
    loudness = LOUDNESS[0] + (LOUDNESS[1] - LOUDNESS[0]) * min(share, 1.0)
    pairs = [(meeting.ball, meeting.other)]
    if isinstance(meeting.other, int):
        pairs.append((meeting.other, meeting.ball))
    return [Tone(meeting.time, ball, struck, float(x[ball]), loudness) for ball, struck in pairs]


def _neighbours(tones: list[Tone]) -> list[tuple[Tone, Tone]]:
    """Tones of one ball that follow one another."""
    pairs = []
    for ball in {tone.ball for tone in tones}:
        own = [tone for tone in tones if tone.ball == ball]
        pairs += itertools.pairwise(own)
    return pairs


def _layer(colour: str, centres: np.ndarray, radius: float) -> Layer:
    return Layer(
        colour=np.array(bounce.COLOURS[colour], np.float32),
        centres=centres,
        half=(radius, radius),
        distance=lambda x, y: np.sqrt(x * x + y * y) - np.float32(radius),
    )


def _described(tone: Tone) -> dict:
    wall = isinstance(tone.struck, str)
    return {
        "second": round(float(tone.time), 7),
        "object": tone.ball + 1,
        "wall": tone.struck if wall else None,
        "other": None if wall else tone.struck + 1,
        "x": round(tone.x, 4),
        "loudness": round(tone.loudness, 4),
    }


def _caption(names: list[str], tones: list[Tone]) -> str:
    counts = [sum(tone.ball == n for tone in tones) for n in range(len(names))]
    said = [_TIMES[count] if count < len(_TIMES) else f"rings {count} times" for count in counts]
    return " and ".join(f"a {name} ball {text}" for name, text in zip(names, said))
