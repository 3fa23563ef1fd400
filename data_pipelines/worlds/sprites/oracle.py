"""Reads colour, shape, direction and speed of sprites off the pixels of a clip, real or generated.

Analysis by synthesis, for all clips of a batch at once.  With pixels `x` in [0, 1]:

    background  b = median of x over T, H, W
    colour      v = mean of x - b over the pixels that stand out; the nearest of the palette after brightness is
                divided out, so that a dim red is red
    coverage    a = <x - b, v> / <v, v>, clipped to [0, 1]
    position    c_k = centroid of a in frame k;   size  r_s = sqrt(mean area / area of the unit shape s)
    shape       argmax_s  fit_s,   fit_s = 1 - |a - A_s|^2 / |a|^2,   A_s = shape s drawn at c_k with size r_s
    motion      least-squares line through c_k; its main axis gives the direction, its length the speed

`shapes.coverage` draws the templates, so position and size are sub-pixel.  A clip in which the best shape explains
too little, or which is too large, too small or away in too many frames holds nothing: every answer is None.

In worlds of several copies, or several events, `groups` reads shape and count, or the directions.

Shape legend: B clips, T frames, H height, W width, S shapes.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.worlds.drawing.shapes import AREA, CENTROID_DROP, coverage
from data_pipelines.worlds.sprites import groups
from data_pipelines.worlds.sprites import world as sprites
from data_pipelines.worlds.sprites.world import COLOURS, DIRECTIONS, SPEEDS, Sprite, SpritesConfig, parse_caption
from data_pipelines.worlds.world import pixels_of, right, wrong
from vdm_jax.media.figures import Figure

MIN_FIT = 0.6  # share of the coverage's energy that the best shape must explain
MIN_CONTRAST = 0.2  # of the brightest difference from the background
ANSWERS = ("colour", "shape", "direction", "speed")
_OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is to be seen in one clip; None where nothing can be told.

    Attributes:
      colour, shape, direction, speed: words of the world.
      confidence: fit of the best shape in [0, 1].
      margin: by how much it beats the second best, in [0, 1].
      count: how many of a kind there are.
      then: the directions that follow the first.
    """

    colour: str | None
    shape: str | None
    direction: str | None
    speed: str | None
    confidence: float
    margin: float
    count: int | None = None
    then: tuple[str, ...] | None = None


def read(videos: np.ndarray, config: SpritesConfig) -> list[Reading]:
    """Reads a batch of clips, 64 of 16x16x8 in some tens of milliseconds.

    Args:
      videos: [B, T, H, W, 3], uint8, or float in [-1, 1] (values outside are clipped).
      config: the world, for the values in use, sizes and travels.  H, W and T are taken from the clips.

    Returns:
      One reading per clip.

    Raises:
      ValueError: wrong shape or dtype, or a world of several objects.
    """
    if config.objects != 1:
        raise ValueError(f"objects: {config.objects}; the oracle reads worlds of one object")
    pixels = pixels_of(videos)
    alpha, colours, contrast = _coverage_of(pixels, _smallest(pixels, config))  # [B, T, H, W], [B] index, [B]
    side = min(alpha.shape[2:])
    mass = alpha.sum((2, 3))  # [B, T]
    centroid = _centroids(alpha, mass)  # [B, T, 2]
    counts = np.ones(len(alpha), int)
    if config.counts == (1,):
        fits, halves = _fits(alpha, mass, centroid, config)  # [B, S] each
    else:
        counts, fits, halves = groups.count_and_fit(alpha, mass, config)
    best = fits.argmax(1)
    rows = np.arange(len(alpha))
    fit, half = fits[rows, best], halves[rows, best] / side
    second = np.partition(fits, -2, axis=1)[:, -2] if fits.shape[1] > 1 else np.zeros(len(fits))
    present = (mass > 0.4 * np.median(mass, 1, keepdims=True)).mean(1)
    small, large = config.size
    found = (contrast >= MIN_CONTRAST) & (fit >= MIN_FIT) & (present >= 0.75)
    found &= (half > 0.3 * small) & (half < 0.75 * large)
    told = _told(centroid, mass, side, config)
    readings = []
    for i in rows:
        if not found[i]:
            readings.append(Reading(None, None, None, None, float(max(fit[i], 0.0)), 0.0))
            continue
        (direction, *then), speed = told[i][0] or (None,), told[i][1]
        margin = float(np.clip(fit[i] - second[i], 0, 1))
        colour, shape = list(COLOURS)[colours[i]], config.shapes[best[i]]
        more = (int(counts[i]) or None, tuple(then) if direction else None)
        readings.append(Reading(colour, shape, direction, speed, float(fit[i]), margin, *more))
    return readings


def agree(video: np.ndarray, caption: str | Sprite, config: SpritesConfig) -> dict[str, bool]:
    """Whether a clip shows what a caption says.

    Args:
      video: [T, H, W, 3], uint8, or float in [-1, 1].
      caption: a sentence of the world, or its attributes.  A speed that is not said agrees with any.
      config: the world.

    Returns:
      {"colour", "shape", "direction", "speed": bool, "overall": all of them but the speed agree}, and "count" and
      "then" where the world has several copies and several events.

    Raises:
      ValueError: as `read`; or a caption that is not of this world.
    """
    return _compare(read(video[None], config)[0], caption, config)


def agreement(videos: np.ndarray, captions: Sequence[str | Sprite], config: SpritesConfig) -> dict[str, float]:
    """Mean of `agree` over a batch.

    Args:
      videos: [B, T, H, W, 3].
      captions: B of them.
      config: the world.

    Returns:
      The answers of `agree`: share in [0, 1].

    Raises:
      ValueError: as `agree`; or the two lengths differ, or are zero.
    """
    if len(videos) != len(captions) or len(videos) == 0:
        raise ValueError(f"captions: {len(captions)} for {len(videos)} clips")
    rows = [_compare(r, c, config) for r, c in zip(read(videos, config), captions)]
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def check(config: SpritesConfig, clips: int = 256, seed: int = 0) -> list[Figure]:
    """Reads real clips, which must agree with their captions, and corrupted ones, which must not.

    Corruptions: the order of frames reversed (the directions are others, but of a story that goes to and fro), channels
    swapped (the colour is, unless it is white), the clip stands still, pixels scrambled in each frame, noise; one copy
    missing in worlds of several, motion that stops after the first event in worlds of stories.

    Raises:
      ValueError: a world of several objects, or of one frame, in which nothing moves.
    """
    if config.objects != 1 or config.frames < 2:
        raise ValueError(
            f"objects: the oracle reads one object that moves, not {config.objects} in {config.frames} frames"
        )
    made = [sprites.clip(config, i, seed) for i in range(clips)]
    videos, said = np.stack([e.video for e in made]), [parse_caption(e.caption) for e in made]
    rows = [_compare(r, s, config) for r, s in zip(read(videos, config), said)]
    figures = [right(key, [row[key] for row in rows]) for key in rows[0]]
    for name, (kept, bad) in _corrupted(videos, [e.fields["masks"] for e in made], said, config, seed).items():
        verdicts = [_compare(r, s, config)["overall"] for r, s in zip(read(bad, config), said)]
        figures.append(wrong(name, np.array(verdicts)[kept]))
    return figures


def _corrupted(
    videos: np.ndarray, masks: Sequence[np.ndarray], said: Sequence[Sprite], config: SpritesConfig, seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Corrupted clips by name, and of which of them the caption is no longer true, bool [B]."""
    rng = np.random.default_rng([seed, 0xC0DE])
    pixels = videos.reshape(*videos.shape[:2], -1, 3)
    every = np.ones(len(videos), bool)
    turned = np.array([tuple(map(_OPPOSITE.get, s.path[::-1])) != s.path for s in said])
    corrupted = {
        "reversed": (turned, videos[:, ::-1]),
        "swapped_channels": (np.array([s.colour != "white" for s in said]), videos[..., [1, 2, 0]]),
        "still": (every, np.repeat(videos[:, :1], config.frames, 1)),
        "scrambled": (every, rng.permuted(pixels, axis=2).reshape(videos.shape)),
        "noise": (every, rng.integers(0, 256, videos.shape, np.uint8)),
    }
    if config.counts != (1,):
        gone = np.pad(np.stack(masks) == 1, ((0, 0), (0, 0), (1, 1), (1, 1)))
        gone = gone[:, :, :-2] | gone[:, :, 1:-1] | gone[:, :, 2:]
        gone = gone[..., :-2] | gone[..., 1:-1] | gone[..., 2:]
        grey = np.uint8(round(255 * config.background))
        corrupted["one_missing"] = every, np.where(gone[..., None], grey, videos)
    if config.events != (1,):
        last = [round((config.frames - 1) / len(s.path)) for s in said]
        stops = [video[np.minimum(np.arange(config.frames), n)] for video, n in zip(videos, last)]
        corrupted["stops_early"] = np.array([bool(s.then) for s in said]), np.stack(stops)
    return corrupted


def _compare(reading: Reading, caption: str | Sprite, config: SpritesConfig) -> dict[str, bool]:
    said = parse_caption(caption) if isinstance(caption, str) else caption
    more = [key for key, numbers in (("count", config.counts), ("then", config.events)) if numbers != (1,)]
    result = {key: getattr(reading, key) == getattr(said, key) for key in (*ANSWERS, *more)}
    if said.speed is None:
        result["speed"] = reading.speed is not None
    result["overall"] = all(value for key, value in result.items() if key != "speed")
    return result


def _smallest(pixels: np.ndarray, config: SpritesConfig) -> float:
    """Share of the frame that the smallest sprite of a world covers."""
    height, width = pixels.shape[2:4]
    return min(AREA[shape] for shape in config.shapes) * (config.size[0] * min(height, width) / 2) ** 2 / height / width


def _coverage_of(x: np.ndarray, smallest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coverage [B, T, H, W], index of the colour [B] and contrast with the background [B].

    Args:
      x: pixels [B, T, H, W, 3] in [0, 1].
      smallest: share of the pixels that a sprite has at least.
    """
    batch = len(x)
    background = np.median(x.reshape(batch, -1, 3), axis=1)[:, None, None, None]
    difference = x - background
    salience = np.abs(difference).max(-1)  # [B, T, H, W]
    bright = max(0.98, 1 - smallest / 2)  # robust to single bright pixels
    peak = np.quantile(salience.reshape(batch, -1), bright, axis=1)
    inside = (salience >= 0.7 * peak[:, None, None, None]).astype(np.float32)
    mean = np.einsum("bthwc,bthw->bc", difference, inside) / np.maximum(inside.sum((1, 2, 3)), 1)[:, None]
    norm = np.maximum((mean**2).sum(-1), 1e-6)
    alpha = np.einsum("bthwc,bc->bthw", difference, mean) / norm[:, None, None, None]
    alpha = np.where(alpha < 0.1, 0, np.minimum(alpha, 1)).astype(np.float32)
    palette = np.array(list(COLOURS.values()), np.float32) / 255
    colour = np.maximum(mean + background[:, 0, 0, 0], 0)
    colour /= np.maximum(colour.max(-1, keepdims=True), 1e-6)
    nearest = ((colour[:, None] - palette) ** 2).sum(-1).argmin(1)
    return alpha, nearest, peak


def _centroids(alpha: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """(x, y) of the centre of mass in pixels, [B, T, 2]; the first pixel's centre is (0.5, 0.5)."""
    height, width = alpha.shape[2:]
    total = np.maximum(mass, 1e-6)
    x = alpha.sum(2) @ (np.arange(width, dtype=np.float32) + 0.5) / total
    y = alpha.sum(3) @ (np.arange(height, dtype=np.float32) + 0.5) / total
    return np.stack([x, y], -1)


def _fits(
    alpha: np.ndarray, mass: np.ndarray, centroid: np.ndarray, config: SpritesConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Explained share of the coverage's energy and half-size in pixels, for each shape: [B, S], [B, S]."""
    height, width = alpha.shape[2:]
    energy = np.maximum((alpha**2).sum((1, 2, 3)), 1e-6)
    fits, halves = [], []
    for shape in config.shapes:
        half = np.sqrt(np.median(mass, 1) / AREA[shape])[:, None]  # [B, 1]
        centre = centroid.copy()
        centre[..., 1] -= CENTROID_DROP.get(shape, 0.0) * half
        drawn = coverage(shape, centre, half, height, width)
        fits.append(1 - ((alpha - drawn) ** 2).sum((1, 2, 3)) / energy)
        halves.append(half[:, 0])
    return np.stack(fits, 1), np.stack(halves, 1)


def _travel(centroid: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Displacement (x, y) from first to last frame along the least-squares line, in pixels, [B, 2]."""
    frames = centroid.shape[1]
    weight = np.minimum(mass, np.median(mass, 1, keepdims=True))  # a frame without the sprite has no say
    weight = weight / np.maximum(weight.sum(1, keepdims=True), 1e-6)
    k = np.arange(frames, dtype=np.float32)
    k = k - (weight * k).sum(1, keepdims=True)  # [B, T]
    spread = np.maximum((weight * k * k).sum(1), 1e-6)
    return (frames - 1) * np.einsum("bt,bt,btd->bd", weight, k, centroid) / spread[:, None]


def _told(
    centroid: np.ndarray, mass: np.ndarray, side: int, config: SpritesConfig
) -> list[tuple[tuple[str, ...], str | None]]:
    """Directions and speed of each clip; () and None where none can be told."""
    if config.events != (1,):
        return groups.stories(centroid, mass, side, config)
    way = _travel(centroid, mass) / side  # [B, 2], fraction of the side between first and last frame
    return [_motion(one, centroid.shape[1], config) for one in way]


def _motion(way: np.ndarray, frames: int, config: SpritesConfig) -> tuple[tuple[str, ...], str | None]:
    """Direction and speed of a displacement in fractions of the side; () and None if it is too small or oblique."""
    slow, quick = config.travel
    along = int(np.abs(way).argmax())
    length = abs(float(way[along]))
    if frames < 2 or length < slow / 2 or length < 2 * abs(float(way[1 - along])):
        return (), None
    unit = [0, 0]
    unit[along] = int(np.sign(way[along]))
    direction = next(name for name, u in DIRECTIONS.items() if u == tuple(unit))
    return (direction,), SPEEDS[int(length > (slow + quick) / 2)]
