"""Reads balls, tracks, meetings and broken laws off the pixels of a clip, real or generated.

A pixel goes to the colour of the palette that is nearest when brightness is divided out; a colour with enough pixels is
a ball, its place the centre of them.  With places p and the fall of a frame's time `g`, a ball flies freely at t if

    |p(t+1) - 2 p(t) + p(t-1) - g| <= TOLERANCE.

Where it does not, it must have met something between t - 1 and t + 1: the place foreseen for t + 1 from before, or for
t - 1 from after, lies in a wall or on the way of another ball.  If not, it swerved.  Other laws: balls never vanish or
appear, never overlap, are no faster than a fall can make them, and energy does not grow.

Shape legend: B clips, T frames, H height, W width, N balls.
"""

import dataclasses
import itertools

import numpy as np

from data_pipelines.worlds.bounce import world as bounce
from data_pipelines.worlds.bounce.world import COLOURS, BounceConfig
from data_pipelines.worlds.world import Example, pixels_of, right, wrong
from vdm_jax.media.figures import Figure

LAWS = ("presence", "inertia", "solidity", "energy")
FAINT = 0.06  # brightness from which a pixel belongs to a ball
TOLERANCE = (0.3, 0.006)  # pixels, and of the shorter side
NEAR, SURE = 1.0, 0.2  # pixels: what is foreseen to come so close may have met, and has
DEEP = (0.8, 0.12)  # balls that overlap by more, pixels and of their radii, are not solid
GAIN = 0.15  # of the energy: more must not be won
_PALETTE = np.array(list(COLOURS.values()), np.float32) / 255


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """What is to be seen in a clip.

    Attributes:
      colours: of the balls, in the order of the palette.
      tracks: [T, N, 2] centres in pixels, NaN where a ball is not seen.
      radii: [N] in pixels.
      collisions: pairs of colours that met.
      broken: (frame, law of `LAWS`, colour), in order; empty for a clip that obeys them.
    """

    colours: tuple[str, ...]
    tracks: np.ndarray
    radii: np.ndarray
    collisions: frozenset[frozenset[str]]
    broken: tuple[tuple[int, str, str], ...]


def read(videos: np.ndarray, config: BounceConfig) -> list[Reading]:
    """Reads a batch of clips.

    Args:
      videos: [B, T, H, W, 3], uint8, or float in [-1, 1] (values outside are clipped).
      config: the world, for colours, sizes, gravity and frame rate.

    Raises:
      ValueError: wrong shape or dtype.
    """
    return [_read(video, config) for video in pixels_of(videos)]


def lawful(reading: Reading, config: BounceConfig) -> bool:
    """Whether a clip shows as many balls as the world has, and they break no law."""
    return len(reading.colours) == config.balls and not reading.broken


def check(config: BounceConfig, clips: int = 256, seed: int = 0) -> list[Figure]:
    """Reads real clips, of which tracks and meetings must be right and no law may seem broken, and corrupted ones.

    Corruptions: each kind of violation (ghosts and new colours where the world can have them), frames in disorder,
    noise, and clips played backwards in which energy is lost, which then is won.

    Raises:
      ValueError: fewer frames than it takes to see a violation.
    """
    if config.frames < bounce.LEAST_FRAMES:
        raise ValueError(f"frames: {config.frames}; the laws are read in {bounce.LEAST_FRAMES} at least")
    config = dataclasses.replace(config, violations=0.0)
    made = [bounce.clip(config, i, seed) for i in range(clips)]
    videos = np.stack([e.video for e in made])
    readings = read(videos, config)
    pairs = [pair for r, e in zip(readings, made) for pair in _compared(r, e)]
    figures = [
        right(
            "colours",
            [set(r.colours) == {o["colour"] for o in e.attributes["objects"]} for r, e in zip(readings, made)],
        ),
        right("track", [far <= TOLERANCE[0] + TOLERANCE[1] * min(videos.shape[2:4]) for far, _ in pairs]),
        right("radius", [error <= 0.3 for _, error in pairs]),
        right("lawful", [lawful(r, config) for r in readings]),
    ]
    if config.balls > 1:
        figures.append(
            right("collisions", [said for r, e in zip(readings, made) for said in _pairs_right(r, e, config)])
        )
    rng = np.random.default_rng([seed, 0xC0DE])
    shuffled = np.stack([video[rng.permutation(config.frames)] for video in videos])
    corrupted = {"shuffled": shuffled, "noise": rng.integers(0, 256, videos.shape, np.uint8)}
    for kind in bounce.possible(config):
        few = max(clips // 2, 8)
        corrupted[kind] = np.stack([bounce.clip(config, i, seed + 1, kind).video for i in range(few)])
    losing = [k for k, e in enumerate(made) if _loss(e, config) > 2 * GAIN]
    if losing:
        corrupted["backwards"] = videos[losing, ::-1]
    for name, bad in corrupted.items():
        figures.append(wrong(name, [lawful(r, config) for r in read(bad, config)]))
    return figures


def _compared(reading: Reading, example: Example) -> list[tuple[float, float]]:
    """For each ball how far its track is off at most, and its radius, in pixels; infinite for one not found."""
    found = []
    for k, ball in enumerate(example.attributes["objects"]):
        if ball["colour"] not in reading.colours:
            found.append((np.inf, np.inf))
            continue
        n = reading.colours.index(ball["colour"])
        far = np.abs(reading.tracks[:, n] - example.fields["tracks"][:, k])
        found.append((float(np.nan_to_num(far, nan=np.inf).max()), abs(float(reading.radii[n]) - ball["radius"])))
    return found


def _pairs_right(reading: Reading, example: Example, config: BounceConfig) -> list[bool]:
    """For each pair of balls whether it was said rightly that they met; left out if only softly, or at either end."""
    names = [ball["colour"] for ball in example.attributes["objects"]]
    hard, soft = set(), set()
    for meeting in example.attributes["meetings"]:
        if meeting["wall"] is None:
            plain = (
                meeting["speed"] > 0.4 * min(example.video.shape[1:3]) and 1 <= meeting["frame"] <= config.frames - 2
            )
            (hard if plain else soft).add(frozenset(names[k - 1] for k in meeting["objects"]))
    pairs = map(frozenset, itertools.combinations(names, 2))
    return [(pair in reading.collisions) == (pair in hard) for pair in pairs if pair in hard or pair not in soft]


def _read(x: np.ndarray, config: BounceConfig) -> Reading:
    frames, height, width = x.shape[:3]
    side = min(height, width)
    brightness = x.max(-1)
    hue = x / np.maximum(brightness, 1e-3)[..., None]
    chosen = [list(COLOURS).index(name) for name in config.colours]
    nearest = ((hue[..., None, :] - _PALETTE[chosen]) ** 2).sum(-1).argmin(-1)
    least = 0.5 * np.pi * (config.radius[0] * side) ** 2
    colours, tracks, masses = [], [], []
    for k, name in enumerate(config.colours):
        alpha = np.where((nearest == k) & (brightness >= FAINT), brightness, 0)
        mass = alpha.sum((1, 2))
        if mass.max() < least:
            continue
        centre = np.stack([alpha.sum(1) @ (np.arange(width) + 0.5), alpha.sum(2) @ (np.arange(height) + 0.5)], -1)
        seen = mass >= least
        tracks.append(np.where(seen[:, None], centre / np.maximum(mass, 1e-6)[:, None], np.nan))
        masses.append(mass)
        colours.append(name)
    if not colours or len(colours) > 2 * config.balls:  # nothing, or no clip of this world
        return Reading((), np.empty((frames, 0, 2)), np.empty(0), frozenset(), ())
    places = np.stack(tracks, 1)
    radii = np.sqrt(np.quantile(np.stack(masses, 1), 0.8, axis=0) / np.pi)
    collisions, broken = _judge(places, radii, (width, height), config)
    named = tuple((t, law, colours[n]) for t, law, n in sorted(broken))
    pairs = frozenset(frozenset((colours[i], colours[j])) for i, j in collisions)
    return Reading(tuple(colours), places, radii, pairs, named)


def _judge(
    places: np.ndarray, radii: np.ndarray, size: tuple[int, int], config: BounceConfig
) -> tuple[set[tuple[int, int]], set[tuple[int, str, int]]]:
    """Pairs that met, and (frame, law, ball) for every law that was broken."""
    side = min(size)
    tolerance = TOLERANCE[0] + TOLERANCE[1] * side
    fall = np.array([0.0, config.gravity * side / config.fps**2])
    broken = {(int(t), "presence", int(n)) for t, n in zip(*np.nonzero(np.isnan(places[..., 0])))}
    with np.errstate(invalid="ignore"):
        bend = places[2:] - 2 * places[1:-1] + places[:-2] - fall
        bent = np.linalg.norm(bend, axis=-1) > tolerance  # [T - 2, N]; what is not seen does not bend
    ahead = 2 * places[1:-1] - places[:-2] + fall  # foreseen for t + 1
    behind = 2 * places[1:-1] - places[2:] + fall  # and for t - 1
    collisions: set[tuple[int, int]] = set()
    with np.errstate(invalid="ignore"):
        far = np.linalg.norm(np.diff(places, axis=0), axis=-1) > _fastest(radii, config) * side / config.fps
    broken |= {(int(t) + 1, "inertia", int(n)) for t, n in zip(*np.nonzero(far))}
    for k, n in zip(*np.nonzero(bent)):
        t = k + 1
        met = _at_wall(ahead[k, n], radii[n], size) or _at_wall(behind[k, n], radii[n], size)
        for other in range(len(radii)):
            if other == n:
                continue
            reach = radii[n] + radii[other] + (SURE if met else NEAR)  # where a wall explains it, a near miss is one
            if _on_the_way(places, ahead, behind, k, n, other, reach):
                collisions.add((min(n, other), max(n, other)))
                met = True
        if not met and not _in_a_crowd(places, bent, k, n, radii):
            broken.add((int(t), "inertia", int(n)))
    for i, j in itertools.combinations(range(len(radii)), 2):
        gap = np.linalg.norm(places[:, i] - places[:, j], axis=-1) - radii[i] - radii[j]
        with np.errstate(invalid="ignore"):
            deep = np.flatnonzero(gap < -(DEEP[0] + DEEP[1] * (radii[i] + radii[j])))
        broken |= {(int(t), "solidity", i) for t in deep}
    return collisions, broken | _won(places, radii, tolerance, size, config)


def _fastest(radii: np.ndarray, config: BounceConfig) -> float:
    """Shorter sides per second that no ball exceeds unless others give it much of their energy, and some."""
    return 1.3 * np.sqrt(config.speed[1] ** 2 + 2 * config.gravity) * float(radii.max() / radii.min())


def _at_wall(place: np.ndarray, radius: float, size: tuple[int, int]) -> bool:
    return bool((place < radius + NEAR).any() or (place > np.array(size) - radius - NEAR).any())


def _on_the_way(
    places: np.ndarray, ahead: np.ndarray, behind: np.ndarray, k: int, n: int, other: int, reach: float
) -> bool:
    """Whether ball `n` would come close to another on the ways foreseen from frame k + 1, forwards or backwards."""
    start = places[k + 1, n] - places[k + 1, other]
    for foreseen, then in ((ahead[k, n], (ahead[k, other], places[k + 2, other])),
                           (behind[k, n], (behind[k, other], places[k, other]))):  # fmt: skip
        for place in then:
            if _nearest(start, foreseen - place) <= reach:
                return True
    return False


def _in_a_crowd(places: np.ndarray, bent: np.ndarray, k: int, n: int, radii: np.ndarray) -> bool:
    """Whether a ball that is within reach of this one bends too: they may have met several times within a frame."""
    around = slice(max(k - 1, 0), k + 2)
    for other in np.flatnonzero(bent[around].any(0)):
        gaps = np.linalg.norm(places[k : k + 3, n] - places[k : k + 3, other], axis=-1) - radii[n] - radii[other]
        steps = np.linalg.norm(np.diff(places[k : k + 3, [n, other]], axis=0), axis=-1).max(0).sum()
        if other != n and gaps.min() <= steps / 2:
            return True
    return False


def _nearest(start: np.ndarray, end: np.ndarray) -> float:
    """Distance of the origin from a straight way."""
    way = end - start
    along = np.clip(-(start @ way) / max(float(way @ way), 1e-9), 0, 1)
    return float(np.linalg.norm(start + along * way))


def _energy(
    places: np.ndarray, radii: np.ndarray, floor: float, tolerance: float, config: BounceConfig, side: int
) -> np.ndarray:
    """Kinetic and potential energy of all balls at frames 1 .. T - 2, [T - 2]; NaN where not all fly freely."""
    gravity = config.gravity * side / config.fps**2
    bend = places[2:] - 2 * places[1:-1] + places[:-2] - np.array([0.0, gravity])
    speeds, height = (places[2:] - places[:-2]) / 2, floor - radii - places[1:-1, :, 1]
    total = (radii**2 * ((speeds**2).sum(-1) / 2 + gravity * height)).sum(-1)
    with np.errstate(invalid="ignore"):
        return np.where((np.linalg.norm(bend, axis=-1) <= tolerance).all(1), total, np.nan)


def _won(
    places: np.ndarray, radii: np.ndarray, tolerance: float, size: tuple[int, int], config: BounceConfig
) -> set[tuple[int, str, int]]:
    """Frames at which there is more energy than there was before."""
    side = min(size)
    total = _energy(places, radii, size[1], tolerance, config, side)
    free = np.flatnonzero(np.isfinite(total))
    if not len(free):
        return set()
    least = np.minimum.accumulate(total[free])
    unit = radii**2 @ np.full(len(radii), (bounce.NOTICED * side / config.fps) ** 2 / 2)  # balls as slow as count
    won = total[free] - least > GAIN * np.maximum(least, unit) + 0.5 * unit
    return {(int(t) + 1, "energy", 0) for t in free[won]}


def _loss(example: Example, config: BounceConfig) -> float:
    """Share of the energy that a real clip loses between the first and the last frames in which all fly freely."""
    radii = np.array([ball["radius"] for ball in example.attributes["objects"]])
    height, width = example.video.shape[1:3]
    tracks = example.fields["tracks"].astype(float)
    total = _energy(tracks, radii, height, 0.01, config, min(height, width))
    total = total[np.isfinite(total)]
    return float(1 - total[-1] / max(total[0], 1e-9)) if len(total) else 0.0
