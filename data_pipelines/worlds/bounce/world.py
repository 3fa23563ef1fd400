"""The world `bounce`: balls that fall, bounce off the walls and off each other, and sometimes break a law of physics.

The motion is exact (`balls`): parabolas between meetings, whose times, partners and speeds are among the attributes.  A
share of the clips, `violations`, holds one thing that cannot be, from some frame on, while a ball flies freely:

    teleport   it is elsewhere at once          swerve   it turns in mid-air       stop     it hangs in mid-air
    vanish     it is gone for some frames       recolour it has another colour     ghost    two go through one another

The oracle that reads tracks, meetings and violations back is `oracle`.

Shape legend: T frames, N balls.
"""

import dataclasses

import numpy as np

from data_pipelines.worlds.bounce import balls
from data_pipelines.worlds.bounce.balls import Box, Meeting
from data_pipelines.worlds.drawing import layers
from data_pipelines.worlds.drawing.layers import Layer
from data_pipelines.worlds.world import Example, check_size, check_words, generator

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 64, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "white": (255, 255, 255),
}
VIOLATIONS: dict[str, str] = {  # what a caption says
    "teleport": "the {ball} jumps elsewhere",
    "swerve": "the {ball} turns in mid-air",
    "stop": "the {ball} stops in mid-air",
    "vanish": "the {ball} is gone for a while",
    "recolour": "the {ball} turns {colour}",
    "ghost": "they go through one another",
}
LEAST_FRAMES = 8  # of a clip that can hold a violation
NOTICED = 0.35  # sides per second: a ball that swerves or stops was at least as fast
_TRIES = 400  # throws


@dataclasses.dataclass(frozen=True)
class BounceConfig:
    """What the clips look like.

    Attributes:
      height, width: pixels, 16 to 128.
      frames: frames of a clip, 1 to 128.
      fps: frames per second.
      balls: how many, 1 to 4.
      colours: the values in use, at least as many as there are balls.
      radius: smallest and largest, a fraction of the shorter side.
      speed: slowest and fastest at the start, in shorter sides per second.
      gravity: in shorter sides per second squared, 0 to 4.
      restitution: share of the speed left after a meeting, 0.5 to 1.
      violations: share of the clips that break a law of physics.
    """

    height: int = 32
    width: int = 32
    frames: int = 16
    fps: float = 12.0
    balls: int = 2
    colours: tuple[str, ...] = tuple(COLOURS)
    radius: tuple[float, float] = (0.11, 0.16)
    speed: tuple[float, float] = (0.4, 1.0)
    gravity: float = 1.5
    restitution: float = 0.9
    violations: float = 0.0

    def __post_init__(self):
        check_size(self)
        check_words("colours", self.colours, COLOURS)
        bounds = (("balls", 1, 4), ("gravity", 0, 4), ("restitution", 0.5, 1), ("violations", 0, 1))
        for name, low, high in bounds:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not within {low}..{high}")
        if len(self.colours) < self.balls:
            raise ValueError(f"colours: {self.colours!r} are too few for {self.balls} balls, each with its own")
        if not 0.05 <= self.radius[0] <= self.radius[1] <= 0.2:
            raise ValueError(f"radius: {self.radius!r} is not two rising fractions within 0.05..0.2")
        if not 0 < self.speed[0] <= self.speed[1]:
            raise ValueError(f"speed: {self.speed!r} is not two rising numbers")
        if self.violations and self.frames < LEAST_FRAMES:
            raise ValueError(
                f"violations: {self.violations!r} in clips of {self.frames} frames; {LEAST_FRAMES} at least"
            )


@dataclasses.dataclass(frozen=True)
class Violation:
    """What is wrong with a clip: its kind, from which frame on, and the ball's number from 0 (of ghosts the first)."""

    kind: str
    frame: int
    ball: int


@dataclasses.dataclass
class _Story:
    """What happens: places [T, N, 2], colours [T, N] as indices, presence [T, N], meetings, and what is wrong."""

    places: np.ndarray
    colours: np.ndarray
    there: np.ndarray
    meetings: list[Meeting]
    violation: Violation | None = None


def clip(config: BounceConfig, index: int, seed: int = 0, kind: str | None = None) -> Example:
    """Clip `index` of the endless, reproducible sequence of `seed`.

    Attributes: `objects` (colour, radius in pixels), `meetings` (frame as a float, objects from 1, wall or None, speed
    in pixels per second), `violation` (None, or kind, frame and object from 1).

    Args:
      config: the world.
      index: number of the clip, from 0.
      seed: of the sequence.
      kind: the violation that it shall hold, whatever `config.violations` says.

    Raises:
      ValueError: a violation that never finds a place in such a world.
    """
    rng = generator(seed, index)
    if kind is None and rng.uniform() < config.violations:
        kinds = possible(config)
        kind = kinds[rng.integers(len(kinds))]
    box, story = _throw(rng, config, kind)
    names = list(config.colours)
    drawn = [_layer(story, box, names, n) for n in range(config.balls)]
    video, masks = layers.paint(np.zeros((config.frames, config.height, config.width, 3), np.uint8), drawn)
    objects = [
        {"colour": names[story.colours[0, n]], "radius": round(float(box.radii[n]), 4)} for n in range(config.balls)
    ]
    attributes = {
        "objects": objects,
        "meetings": [_meeting(meeting, config.fps) for meeting in story.meetings],
        "violation": None if story.violation is None else _violation(story.violation),
    }
    return Example(video, _caption(story, names), attributes, layers.truth(masks, drawn))


def possible(config: BounceConfig) -> list[str]:
    """Kinds of violation that such a world can hold."""
    lacks = {"ghost": config.balls < 2, "recolour": len(config.colours) == config.balls}
    return [kind for kind in VIOLATIONS if not lacks.get(kind, False)]


def _throw(rng: np.random.Generator, config: BounceConfig, kind: str | None) -> tuple[Box, _Story]:
    """Throws the balls until the violation has a place in what follows."""
    for _ in range(_TRIES if kind is None or kind in possible(config) else 0):
        box, story = _story(rng, config, kind)
        if story is not None:
            return box, story
    raise ValueError(f"violations: there is no place for {kind!r} in clips of {config}")


def _story(rng: np.random.Generator, config: BounceConfig, kind: str | None) -> tuple[Box, _Story | None]:
    """One throw of the balls; no story if the violation has no place in it."""
    side = min(config.height, config.width)
    radii = side * rng.uniform(*config.radius, config.balls)
    box = Box((config.width, config.height), radii, config.gravity * side, config.restitution, ghosts=kind == "ghost")
    start = scattered(rng, box)
    angles = rng.uniform(0, 2 * np.pi, config.balls)
    speeds = side * rng.uniform(*config.speed, config.balls)[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    times = np.arange(config.frames) / config.fps
    colours = np.tile(rng.permutation(len(config.colours))[: config.balls], (config.frames, 1))
    places, velocities, meetings = balls.simulate(box, start, speeds, times)
    story = _Story(places, colours, np.ones(colours.shape, bool), meetings)
    if kind is None:
        return box, story
    if kind == "ghost":
        return box, _ghost(box, story)
    free = _free_moments(box, story, velocities, times, NOTICED * side)
    if not len(free):
        return box, None
    frame, ball = free[rng.integers(len(free))]
    return box, _broken(rng, box, story, velocities, times, Violation(kind, int(frame), int(ball)), len(config.colours))


def scattered(rng: np.random.Generator, box: Box) -> np.ndarray:
    """Places [N, 2] inside the box, none over another: one after the other, the whole anew if one finds no place."""
    size = np.array(box.size)
    while True:
        places = box.radii[:, None] + (size - 2 * box.radii[:, None]) * rng.uniform(size=(len(box.radii), 2))
        gaps = np.linalg.norm(places[:, None] - places, axis=-1) - (box.radii[:, None] + box.radii)
        if (gaps[~np.eye(len(places), dtype=bool)] > 1).all():
            return places


def _free_moments(
    box: Box, story: _Story, velocities: np.ndarray, times: np.ndarray, least: float
) -> list[tuple[int, int]]:
    """(frame, ball) in the middle of the clip at which a ball flies fast enough, with nothing near for two frames."""
    free, step = [], times[1]
    low, high = np.zeros(2), np.array(box.size)
    for frame in range(len(times) // 4, len(times) - len(times) // 4):
        for n, radius in enumerate(box.radii):
            place, speed = story.places[frame, n], velocities[frame, n]
            room = radius + 2 + 2 * step * np.abs(speed)
            met = any(abs(m.time - times[frame]) < 2.5 * step for m in story.meetings if n in (m.ball, m.other))
            others = np.delete(story.places[frame], n, 0)
            reach = np.delete(box.radii, n) + radius + 2 + 2 * step * np.linalg.norm(speed)
            clear = (np.linalg.norm(others - place, axis=-1) > reach).all()
            clear = clear and (place > low + room).all() and (place < high - room).all()
            if clear and not met and np.linalg.norm(speed) >= least:
                free.append((frame, n))
    return free


def _broken(
    rng: np.random.Generator,
    box: Box,
    story: _Story,
    velocities: np.ndarray,
    times: np.ndarray,
    violation: Violation,
    colours: int,
) -> _Story | None:
    """The story with something wrong from a frame on; None if there is no room for it."""
    frame, n = violation.frame, violation.ball
    if violation.kind == "vanish":
        story.there[frame : frame + max(2, len(times) // 6), n] = False
    elif violation.kind == "recolour":
        others = [c for c in range(colours) if c not in story.colours[0]]
        if not others:
            return None
        story.colours[frame:, n] = others[rng.integers(len(others))]
    elif violation.kind == "stop":
        story.places[frame:, n] = story.places[frame - 1, n]
    else:
        places, speeds = story.places[frame].copy(), velocities[frame].copy()
        if violation.kind == "teleport":
            places[n] = scattered(rng, box)[n]
        else:  # a sharp turn, backwards at most
            turn = rng.uniform(0.5, 1) * np.pi * rng.choice((-1, 1))
            cos, sin = np.cos(turn), np.sin(turn)
            speeds[n] = np.array([[cos, -sin], [sin, cos]]) @ speeds[n]
        gaps = np.linalg.norm(places - places[n], axis=-1) - box.radii - box.radii[n]
        far = np.linalg.norm(places[n] - story.places[frame, n]) >= 3 * box.radii[n]
        if (np.delete(gaps, n) <= 1).any() or (violation.kind == "teleport" and not far):
            return None
        later, _, meetings = balls.simulate(box, places, speeds, times[frame:] - times[frame])
        story.places[frame:] = later
        moved = [dataclasses.replace(m, time=m.time + times[frame]) for m in meetings]
        story.meetings = [m for m in story.meetings if m.time < times[frame]] + moved
    story.violation = violation
    return story


def _ghost(box: Box, story: _Story) -> _Story | None:
    """The story if two balls overlap much in some frame in the middle of the clip."""
    for i in range(len(box.radii)):
        for j in range(i + 1, len(box.radii)):
            gap = np.linalg.norm(story.places[:, i] - story.places[:, j], axis=-1) - box.radii[i] - box.radii[j]
            deep = np.flatnonzero(gap < -0.8 * min(box.radii[i], box.radii[j]))
            if len(deep) and 2 <= deep[0] < len(gap) - 2:
                story.violation = Violation("ghost", int(np.flatnonzero(gap < 0)[0]), i)
                return story
    return None


def _layer(story: _Story, box: Box, names: list[str], n: int) -> Layer:
    radius = np.float32(box.radii[n])
    return Layer(
        colour=np.array([COLOURS[names[c]] for c in story.colours[:, n]], np.float32),
        centres=story.places[:, n],
        half=(float(radius), float(radius)),
        distance=lambda x, y: np.sqrt(x * x + y * y) - radius,
        there=story.there[:, n],
    )


def _meeting(meeting: Meeting, fps: float) -> dict:
    pair = isinstance(meeting.other, int)
    return {
        "frame": round(float(meeting.time * fps), 4),
        "objects": [meeting.ball + 1, meeting.other + 1] if pair else [meeting.ball + 1],
        "wall": None if pair else meeting.other,
        "speed": round(meeting.speed, 4),
    }


def _violation(violation: Violation) -> dict:
    return {"kind": violation.kind, "frame": violation.frame, "object": violation.ball + 1}


def _caption(story: _Story, names: list[str]) -> str:
    words = [f"{names[c]} ball" for c in story.colours[0]]
    text = " and ".join(f"a {word}" for word in words) + (" bounce" if len(words) > 1 else " bounces")
    if len(words) > 1 and story.violation is None:
        met = any(isinstance(m.other, int) for m in story.meetings)
        text += " and collide" if met else " and never touch"
    if story.violation is not None:
        ball, colour = words[story.violation.ball], names[story.colours[-1, story.violation.ball]]
        text += ", but " + VIOLATIONS[story.violation.kind].format(ball=ball, colour=colour)
    return text
