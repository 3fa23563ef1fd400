"""Hears tones, sees where balls turn, and tells whether the two belong together, in clips real or generated.

Hearing.  For each pitch w the samples a are compared with a tone that begins at n; of one tone that begins at k that is

    y(n) = 2 sum_m a(n + m) e^(-m / D) e^(-i w m) / sum_m e^(-2 m / D) = A e^(-|n - k| / D) e^(i w (n - k)),

a peak with a sharp tip.  The highest tip is taken, the amplitudes of all that are taken are solved for together, what
they explain is removed, and so on while anything above `FAINT` is left.

Seeing.  A ball at p(t) that flies freely but for changes of speed by v_j at the times u_j, in frames, has

    p(k+1) - 2 p(k) + p(k-1) - g = sum_j v_j max(0, 1 - |k - u_j|)

exactly.  With the u_j that are heard, the v_j are solved for: what is left over is a turn that nobody heard, and a v_j
too small for its loudness is a tone without a cause.

Shape legend: T frames, H height, W width, S samples, M tones.
"""

import dataclasses

import numpy as np

from data_pipelines.worlds.bounce import oracle as bounce_oracle
from data_pipelines.worlds.sound import world as sound
from data_pipelines.worlds.sound.world import AUDIBLE, DECAY, LOUDEST, LOUDNESS, PITCHES, SoundConfig
from data_pipelines.worlds.world import Example, right, wrong
from vdm_jax.media.figures import Figure

FAINT = 0.06  # loudness from which on a tone is heard
MOST = 40  # tones of a pitch: hardly a clip has more, and noise may have any number
GRID = 2000  # beginnings that are tried in a second
EDGE = 0.1  # seconds before the end: a tone that begins there is too short to be told
LEAST_FRAMES = 6  # of clips that are checked
SOON = 0.012  # seconds between a tone that is heard and its label
ASIDE = (1.0, 0.06)  # pixels, and of the width: a tone is heard where its ball is
LEFT = (0.45, 2.0)  # pixels, and of what the softest audible meeting turns a ball: more is a turn
CAUSED = 0.2  # of the turn off a wall at the speed that the loudness tells: balls that are met turn less than at walls
WHOLE = 0.3  # how much of a tone's change of speed must lie between the first and the last frame


@dataclasses.dataclass(frozen=True)
class Heard:
    """One tone.

    Attributes:
      second: when it begins.
      colour: whose pitch it has.
      x: where it is, in pixels.
      loudness: as in `sound`.
    """

    second: float
    colour: str
    x: float
    loudness: float


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is heard and seen.

    Attributes:
      heard: all tones, in order of time.
      colours: of the balls that are seen.
      causeless: tones of balls that are not seen, do not turn then, or are elsewhere.
      unheard: (frame, colour) of turns without a tone.
    """

    heard: tuple[Heard, ...]
    colours: tuple[str, ...]
    causeless: tuple[Heard, ...]
    unheard: tuple[tuple[int, str], ...]

    @property
    def agrees(self) -> bool:
        """Whether each tone has a cause and each turn a tone, and there is a ball at all."""
        return bool(self.colours) and not self.causeless and not self.unheard


def hear(audio: np.ndarray, config: SoundConfig) -> tuple[Heard, ...]:
    """The tones of a clip.

    Args:
      audio: float [S, 2] in [-1, 1], left and right, of `config.rate` (values outside are clipped, what is no number
        becomes 0).
      config: the world, for pitches, rate and width.

    Raises:
      ValueError: wrong shape or dtype.
    """
    if audio.ndim != 2 or audio.shape[1] != 2 or not len(audio) or not np.issubdtype(audio.dtype, np.floating):
        raise ValueError(f"audio: expected float [S, 2], got {audio.dtype} {list(audio.shape)}")
    samples = np.nan_to_num(np.clip(audio.astype(np.float64), -1, 1))
    heard = []
    for colour in config.colours:
        for n, sides in zip(*_tips(samples, PITCHES[colour], config.rate)):
            left, right_ = np.abs(sides)
            x = 2 / np.pi * np.arctan2(right_, left) * config.width
            heard.append(Heard(n / config.rate, colour, float(x), float(np.hypot(left, right_))))
    last = len(audio) / config.rate - EDGE
    return tuple(sorted((one for one in heard if one.second <= last), key=lambda one: (one.second, one.colour)))


def read(video: np.ndarray, audio: np.ndarray, config: SoundConfig) -> Reading:
    """Reads one clip and its sound.

    Args:
      video: [T, H, W, 3], uint8, or float in [-1, 1].
      audio: see `hear`.
      config: the world.

    Raises:
      ValueError: wrong shape or dtype.
    """
    return _judged(hear(audio, config), bounce_oracle.read(video[None], config.motion())[0], config)


def _judged(heard: tuple[Heard, ...], seen: bounce_oracle.Reading, config: SoundConfig) -> Reading:
    """What is heard held against what is seen."""
    last = config.frames / config.fps - EDGE
    causeless = [one for one in heard if one.colour not in seen.colours]
    unheard: list[tuple[int, str]] = []
    for n, colour in enumerate(seen.colours):
        own = [one for one in heard if one.colour == colour]
        bad, turns = _compared(seen.tracks[:, n], own, config)
        causeless += bad
        unheard += [(int(frame), colour) for frame in turns if frame / config.fps <= last]
    return Reading(heard, seen.colours, tuple(causeless), tuple(sorted(unheard)))


def check(config: SoundConfig, clips: int = 256, seed: int = 0) -> list[Figure]:
    """Hears real clips, whose tones must be those of the labels and agree with what is seen, and corrupted ones.

    Corruptions: sound shifted by two to four frames, that of another clip, silence, left and right exchanged, noise.

    Raises:
      ValueError: a world of few frames, in which little is heard.
    """
    if config.frames < LEAST_FRAMES:
        raise ValueError(f"frames: {config.frames}; sounds are told in clips of at least {LEAST_FRAMES}")
    made = [sound.clip(config, i, seed) for i in range(clips)]
    rng = np.random.default_rng([seed, 0xC0DE])
    sounds = [example.fields["audio"] for example in made]
    heard = [hear(audio, config) for audio in sounds]
    seen = bounce_oracle.read(np.stack([example.video for example in made]), config.motion())
    judged = [(tones, _labels(example, config)) for example, tones in zip(made, heard)]
    steps = rng.choice((-1, 1), clips) * rng.uniform(2, 4, clips) * config.rate / config.fps
    corrupted = {
        "shifted": [np.roll(audio, round(step), 0) for audio, step in zip(sounds, steps)],
        "other_clip": sounds[1:] + sounds[:1],
        "silent": [np.zeros_like(audio) for audio in sounds],
        "exchanged_sides": [audio[:, ::-1] for audio in sounds],
        "noise": [rng.normal(0, 0.3, audio.shape).astype(np.float32) for audio in sounds],
    }
    return [
        right("pitches", [sorted(t.colour for t in tones) == sorted(t.colour for t in told) for tones, told in judged]),
        right("times", [_matched(one, told) for tones, told in judged for one in tones]),
        right("agrees", [_judged(tones, one, config).agrees for tones, one in zip(heard, seen)]),
        *(
            wrong(name, [_judged(hear(audio, config), one, config).agrees for audio, one in zip(bad, seen)])
            for name, bad in corrupted.items()
        ),
    ]


def _labels(example: Example, config: SoundConfig) -> list[Heard]:
    """The tones that should be heard."""
    names = [ball["colour"] for ball in example.attributes["objects"]]
    last = len(example.fields["audio"]) / config.rate - EDGE
    told = [Heard(s["second"], names[s["object"] - 1], s["x"], s["loudness"]) for s in example.attributes["sounds"]]
    return [one for one in told if one.second <= last]


def _matched(one: Heard, told: list[Heard]) -> bool:
    """Whether a tone has a label at its time and place."""
    return any(
        one.colour == label.colour and abs(one.second - label.second) <= SOON and abs(one.x - label.x) <= 1
        for label in told
    )


def _tips(samples: np.ndarray, pitch: float, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """First samples [M] of the tones of a pitch, and their amplitudes complex [M, 2]."""
    decay, turn = DECAY * rate, 2j * np.pi * pitch / rate
    m = np.arange(round(8 * decay))
    atom = np.exp(-m / decay - turn * m)
    size = 1 << (len(samples) + len(m)).bit_length()
    spectrum = np.fft.fft(samples, size, axis=0) * np.conj(np.fft.fft(atom.conj(), size))[:, None]
    every, taken = np.arange(0, len(samples), max(1, rate // GRID)), []
    y = 2 * np.fft.ifft(spectrum, axis=0)[every] / (np.abs(atom) ** 2).sum()
    shapes = np.empty((len(every), 0), complex)
    amplitudes, rest = np.empty((0, 2), complex), y
    while len(taken) < MOST:
        power = (np.abs(rest) ** 2).sum(-1)
        tip = int(power.argmax())
        if power[tip] < FAINT**2 or tip in taken:
            break
        taken.append(tip)
        away = every - every[tip]
        shapes = np.concatenate([shapes, np.exp(-np.abs(away) / decay + turn * away)[:, None]], 1)
        amplitudes = np.linalg.solve(shapes[taken], y[taken])
        rest = y - shapes @ amplitudes
    return every[taken], amplitudes


def _compared(track: np.ndarray, own: list[Heard], config: SoundConfig) -> tuple[list[Heard], np.ndarray]:
    """Tones of a ball without a cause, and the frames in which it turns without a tone."""
    frames = np.arange(1, len(track) - 1)
    side = min(config.height, config.width)
    step = side / config.fps  # of one side per second, in pixels per frame
    fall = np.array([0.0, config.gravity * step / config.fps])
    bend = track[2:] - 2 * track[1:-1] + track[:-2] - fall
    known = np.isfinite(bend).all(-1)
    times = np.array([one.second * config.fps for one in own])
    hats = np.maximum(0, 1 - np.abs(frames[:, None] - times))  # [T - 2, M]
    turned = np.linalg.lstsq(hats[known], bend[known], rcond=0.05)[0]
    left = np.linalg.norm(bend[known] - hats[known] @ turned, axis=-1)
    causeless = []
    for one, turn, whole in zip(own, turned, hats[known].sum(0)):
        speed = AUDIBLE + np.clip((one.loudness - LOUDNESS[0]) / (LOUDNESS[1] - LOUDNESS[0]), 0, 1) * (
            LOUDEST - AUDIBLE
        )
        least = CAUSED * (1 + config.restitution) * speed * step
        idle = whole >= WHOLE and np.linalg.norm(turn) < least
        x = np.interp(one.second * config.fps, np.arange(len(track)), track[:, 0])
        if idle or abs(x - one.x) > ASIDE[0] + ASIDE[1] * config.width:
            causeless.append(one)
    return causeless, frames[known][left > LEFT[0] + LEFT[1] * AUDIBLE * step]
