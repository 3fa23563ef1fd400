"""Reads clothes, action and the head of the world `figure` off the pixels of a clip, real or generated.

Each pixel is given to the nearest of the palette, skin, shoes and the greys behind.  With S the standing height that
the config says, in the frames k:

    clothes    the two colours with most pixels; the upper one is the shirt
    walks      the clothes' middle moves along x by more than an eighth of the width, and that way
    jumps      the lowest pixel of the figure rises by more than 0.1 S
    squats     else, the middle of the shirt sinks and rises by more than 0.1 S
    waves      else, skin above the head's centre and away from the head on one side, in many frames
    cheers     on both sides
    head       the disc of the head's radius with most skin in it, and the middle of the skin there

What does not move at all does nothing, and where little is of the colours of clothes there is nobody: None.

Shape legend: B clips, T frames, H height, W width, N colours.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from data_pipelines.worlds.figure import world as figure
from data_pipelines.worlds.figure.body import KEYPOINTS
from data_pipelines.worlds.figure.world import COLOURS, SHOES, SKIN, FigureConfig, Person, parse_caption
from data_pipelines.worlds.world import pixels_of, right, wrong
from vdm_jax.media.figures import Figure

LEAST_CLOTHES = 0.01  # of the frame, for each of the two
HEAD = 0.085  # radius, of the standing height
JOINED = 0.4  # share of the clothes' pixels with another to the right: they lie together
ANSWERS = ("shirt", "trousers", "action")
FAR = 0.35  # of the range of pixels: what is farther from all colours is of none


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is to be seen in one clip; None where nothing can be told.

    Attributes:
      shirt, trousers, action: words of the world.
      head: float [T, 2], (x, y) of the head's centre in pixels; NaN where there is none.
    """

    shirt: str | None
    trousers: str | None
    action: str | None
    head: np.ndarray


def read(videos: np.ndarray, config: FigureConfig) -> list[Reading]:
    """Reads a batch of clips.

    Args:
      videos: [B, T, H, W, 3], uint8, or float in [-1, 1].
      config: the world.

    Raises:
      ValueError: wrong shape or dtype.
    """
    return [_read_one(clip, config) for clip in pixels_of(videos)]


def agree(reading: Reading, said: Person | str) -> dict[str, bool]:
    """Whether a reading is what a caption says: {"shirt", "trousers", "action", "overall": bool}."""
    said = parse_caption(said) if isinstance(said, str) else said
    result = {key: getattr(reading, key) == getattr(said, key) for key in ANSWERS}
    return result | {"overall": all(result.values())}


def agreement(videos: np.ndarray, captions: Sequence[Person | str], config: FigureConfig) -> dict[str, float]:
    """Mean of `agree` over a batch.

    Raises:
      ValueError: as `read`; or the two lengths differ, or are zero.
    """
    if len(videos) != len(captions) or len(videos) == 0:
        raise ValueError(f"captions: {len(captions)} for {len(videos)} clips")
    rows = [agree(reading, said) for reading, said in zip(read(videos, config), captions)]
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def check(config: FigureConfig, clips: int = 256, seed: int = 0) -> list[Figure]:
    """Reads real clips, which must agree with their captions, and corrupted ones, which must not.

    `head` is the share of frames whose head is read to within its radius.  Corruptions: walks played
    backwards, channels swapped, the clip standing still, turned upside down, pixels scrambled, noise.

    Raises:
      ValueError: fewer than 8 frames, or a side of less than 48 pixels, in which not everything can be told.
    """
    for name, least in (("frames", 8), ("height", 48), ("width", 48)):
        if getattr(config, name) < least:
            raise ValueError(f"{name}: {getattr(config, name)}; the oracle of figure needs at least {least}")
    made = [figure.clip(config, i, seed) for i in range(clips)]
    videos, said = np.stack([e.video for e in made]), [parse_caption(e.caption) for e in made]
    readings = read(videos, config)
    rows = [agree(r, s) for r, s in zip(readings, said)]
    heads = np.stack([e.fields["tracks"][:, KEYPOINTS.index("head")] for e in made])
    tall = np.array([e.attributes["standing_height"] for e in made])[:, None]
    off = np.linalg.norm(np.stack([r.head for r in readings]) - heads, axis=-1)
    figures = [right(key, [row[key] for row in rows]) for key in (*ANSWERS, "overall")]
    figures.append(right("head", off < HEAD * tall))
    walks = np.array([s.action.startswith("walks") for s in said])
    rng = np.random.default_rng([seed, 0xC0DE])
    corrupted = {
        "swapped_channels": videos[..., [1, 2, 0]],
        "still": np.repeat(videos[:, :1], config.frames, 1),
        "upside_down": videos[:, :, ::-1],
        "scrambled": rng.permuted(videos.reshape(clips, config.frames, -1, 3), axis=2).reshape(videos.shape),
        "noise": rng.integers(0, 256, videos.shape, np.uint8),
    }
    for name, bad in corrupted.items():
        figures.append(wrong(name, [agree(r, s)["overall"] for r, s in zip(read(bad, config), said)]))
    if walks.any():
        backwards = read(videos[walks][:, ::-1], config)
        told = [agree(r, s)["overall"] for r, s in zip(backwards, np.array(said, object)[walks])]
        figures.append(wrong("reversed_walks", told))
    return figures


def _read_one(x: np.ndarray, config: FigureConfig) -> Reading:
    """Reads [T, H, W, 3] in [0, 1]."""
    frames = len(x)
    nobody = Reading(None, None, None, np.full((frames, 2), np.nan))
    names = list(config.colours)
    near = _nearest(x, names)  # [T, H, W]
    counts = np.array([(near == n).sum() for n in range(len(names))])
    first, second = np.argsort(counts)[::-1][:2]
    if counts[second] < LEAST_CLOTHES * near.size:
        return nobody
    y = np.arange(near.shape[1])
    heights = [((near == n).sum(2) @ y).sum() / counts[n] for n in (first, second)]
    shirt, trousers = (first, second) if heights[0] < heights[1] else (second, first)
    tall = np.mean(config.size) * min(config.height, config.width)
    skin, shoes = len(names), len(names) + 1
    body = (near == shirt) | (near == trousers)
    if (body[:, :, 1:] & body[:, :, :-1]).sum() < JOINED * body.sum():
        return nobody
    head = _head(near == skin, HEAD * tall)
    action = _action(near == shirt, body, near == shoes, near == skin, head, tall)
    return Reading(names[shirt], names[trousers], action, head)


def _nearest(x: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Index of the colour of each pixel: those named, then skin, shoes and any of the greys; -1 is none of them."""
    palette = np.array([*(COLOURS[name] for name in names), SKIN, SHOES], np.float32) / 255
    grey = np.clip(x.mean(-1), 0.16, 0.42)[..., None]
    apart = np.stack([*(((x - colour) ** 2).sum(-1) for colour in palette), ((x - grey) ** 2).sum(-1)])
    return np.where(apart.min(0) > FAR**2, -1, apart.argmin(0))


def _middle(mask: np.ndarray) -> np.ndarray:
    """(x, y) of the middle of masks [T, H, W]: [T, 2], NaN where they are empty."""
    total = mask.sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        x = mask.sum(1) @ (np.arange(mask.shape[2]) + 0.5) / total
        y = mask.sum(2) @ (np.arange(mask.shape[1]) + 0.5) / total
    return np.stack([x, y], -1)


def _action(
    shirt: np.ndarray, body: np.ndarray, shoes: np.ndarray, skin: np.ndarray, head: np.ndarray, tall: float
) -> str | None:
    """One of `body.ACTIONS`, or None if there is no body in some frames, or no motion."""
    middle, torso = _middle(body), _middle(shirt)
    rows = (body | shoes).any(2)
    if np.isnan(middle).mean() > 0.1 or np.isnan(torso).mean() > 0.1 or not rows.any(1).all():
        return None
    if sum((part[1:] ^ part[:-1]).mean() for part in (shirt, body, skin)) < 2e-4:
        return None
    way = np.polyfit(np.linspace(0, 1, len(middle)), np.nan_to_num(middle[:, 0], nan=np.nanmean(middle[:, 0])), 1)[0]
    if abs(way) > shirt.shape[2] / 8:
        return "walks right" if way > 0 else "walks left"
    lowest = rows.shape[1] - rows[:, ::-1].argmax(1)
    if np.ptp(lowest) > 0.1 * tall:
        return "jumps"
    if np.nanquantile(torso[:, 1], 0.95) - np.nanquantile(torso[:, 1], 0.05) > 0.1 * tall:
        return "squats"
    x, y = np.arange(skin.shape[2]) + 0.5, np.arange(skin.shape[1])[:, None] + 0.5
    above = skin & (y < head[:, 1, None, None] - 0.02 * tall)
    beside = x - head[:, 0, None, None]
    raised = [(above & (side * beside > 0.1 * tall)).any((1, 2)).mean() > 0.4 for side in (-1, 1)]
    return (None, "waves", "cheers")[sum(raised)]


def _head(skin: np.ndarray, radius: float) -> np.ndarray:
    """Centre of the head in each frame, [T, 2]; hands are too small to be one."""
    size = int(np.ceil(radius))
    y, x = np.mgrid[-size : size + 1, -size : size + 1]
    disc = (x * x + y * y <= radius * radius).astype(np.float32)
    centres = np.full((len(skin), 2), np.nan)
    for k, frame in enumerate(skin.astype(np.float32)):
        filled = ndimage.correlate(frame, disc, mode="constant")
        if filled.max() < 0.5 * disc.sum():
            continue
        row, column = np.unravel_index(filled.argmax(), filled.shape)
        i, j = np.nonzero(frame)
        for _ in range(2):
            near = np.hypot(i - row, j - column) <= radius + 0.3
            row, column = i[near].mean(), j[near].mean()
        centres[k] = column + 0.5, row + 0.5
    return centres
