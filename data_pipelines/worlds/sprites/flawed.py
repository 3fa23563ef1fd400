"""A corpus of sprites in which something is wrong with a known part of the clips, for studies of curation.

still      the first frame again and again
cut        hidden inside: joined from two clips, neither of them shorter than two frames
digits     four white ones over the lower part of every frame
caption    that of another clip

All is drawn from one seed, and each kind has exactly its share.  `flaws` reads the first three back off pixels, also
of samples of a model.

Shape legend: N clips, T frames, H height, W width.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.worlds.sprites.world import Sprite, SpritesConfig, clip, combinations
from data_pipelines.worlds.world import pixels_of
from vdm_jax.errors import did_you_mean

KINDS = ("still", "cut", "digits", "caption")
FONT = (0x7B6F, 0x2C97, 0x73E7, 0x73CF, 0x5BC9, 0x79CF, 0x79EF, 0x7249, 0x7BEF, 0x7BCF)  # 3 x 5, the first bit above
ROWS, COLUMNS, NUMBERS = 5, 3, 4  # cells of a digit, digits
CELLS = 16  # along the shorter side of the frame
CHANGED, STANDS = 0.3, 0.03  # of the brightness of a pixel; of the pixels of a clip that stands still, at most
JUMP, RECOLOURED = 0.16, 0.4  # from frame to frame: of the shorter side, and of the brightness of a channel
INKED = 0.5  # of the cells of the lightest number


@dataclasses.dataclass(frozen=True)
class Flawed:
    """Clips with what is wrong in them.

    Attributes:
      video: uint8 [N, T, H, W, 3].
      said: what the captions say.
      kind: str [N], of `KINDS`, "" for nothing.
      cut: int [N], the first frame after the hidden cut; 0 for none.
    """

    video: np.ndarray
    said: Sequence[Sprite]
    kind: np.ndarray
    cut: np.ndarray


def flawed(config: SpritesConfig, count: int, shares: Mapping[str, float], seed: int = 0) -> Flawed:
    """A corpus.

    Args:
      config: the world; clips of at least 4 frames and of room for four digits.
      count: of clips.
      shares: kind -> share of the clips.
      seed: of everything.

    Raises:
      ValueError: an unknown kind, shares of more than everything, or clips that are too short or too small.
    """
    for kind in shares:
        if kind not in KINDS:
            raise ValueError(f"shares: {did_you_mean(kind, KINDS)}")
    if min(shares.values(), default=0.0) < 0 or sum(shares.values()) > 1:
        raise ValueError(f"shares: {dict(shares)} must be 0 or more, and 1 at most together")
    if config.frames < 4:
        raise ValueError(f"frames: {config.frames} leave no room for a cut; at least 4")
    rng, every = np.random.default_rng([seed, 0xF1A]), combinations(config)
    made = [clip(config, index, seed).video for index in range(count)]
    video, said = np.stack(made), [every[index % len(every)] for index in range(count)]
    kinds = [kind for kind, share in shares.items() for _ in range(round(share * count))]
    kind = rng.permutation(np.array([*kinds, *[""] * (count - len(kinds))]))
    cut, others = np.zeros(count, int), (np.arange(count) + rng.integers(1, max(2, count), count)) % count
    for i, other in enumerate(others):
        match kind[i]:
            case "still":
                video[i] = video[i, :1]
            case "cut":
                cut[i] = rng.integers(2, config.frames - 1)
                video[i, cut[i] :] = made[other][cut[i] :]
            case "digits":
                video[i][:, ink(rng.integers(10, size=NUMBERS), config.height, config.width)] = 255
            case "caption":
                said[i] = every[(i + rng.integers(1, len(every))) % len(every)]
    return Flawed(video, said, kind, cut)


def ink(number: Sequence[int], height: int, width: int) -> np.ndarray:
    """Where the ink of a number's digits is, bool [H, W]: a line just above the lower edge, of any size of frame.

    Raises:
      ValueError: a frame in which a cell would be less than a pixel, or the sides are not whole numbers of them.
    """
    side = min(height, width) // CELLS
    if side < 1 or height % side or width % side:
        raise ValueError(f"height, width: {height} x {width} are not {CELLS} cells and more, of whole pixels")
    cells = np.zeros((height // side, width // side), bool)
    for place, digit in enumerate(number):
        bits = np.array([FONT[digit] >> bit & 1 for bit in reversed(range(ROWS * COLUMNS))], bool)
        left = place * (COLUMNS + 1)
        cells[-ROWS - 1 : -1, left : left + COLUMNS] = bits.reshape(ROWS, COLUMNS)
    return cells.repeat(side, 0).repeat(side, 1)


def flaws(videos: np.ndarray) -> dict[str, np.ndarray]:
    """What is wrong in clips, read off their pixels.

    Args:
      videos: [N, T, H, W, 3], uint8, or float in [-1, 1] (values outside are clipped).

    Returns:
      bool [N] of `still`, `cut` (the sprite jumps, or has another colour) and `digits`.

    Raises:
      ValueError: wrong shape or dtype.
    """
    pixels = pixels_of(videos)
    moved = (np.abs(pixels[:, -1] - pixels[:, 0]).max(-1) > CHANGED).mean((1, 2))
    step = np.linalg.norm(np.diff(_centres(pixels), axis=1), axis=-1).max(1)
    light = (pixels * (pixels.max(-1, keepdims=True) > CHANGED)).sum((2, 3))  # [N, T, 3]
    colour = light / np.maximum(light.max(-1, keepdims=True), 1e-3)
    recoloured = np.abs(np.diff(colour, axis=1)).max((1, 2))
    cell = min(pixels.shape[2:4]) / CELLS
    lines = pixels[:, :, -round((ROWS + 1) * cell) :]
    white = lines.min((1, -1)).sum((1, 2))  # in all frames; of small clips, in which ink is grey, the same in all
    least = NUMBERS * min(font.bit_count() for font in FONT) * cell**2
    return {
        "still": moved < STANDS,
        "cut": (step > JUMP * min(pixels.shape[2:4])) | (recoloured > RECOLOURED),
        "digits": white >= INKED * least,
    }


def _centres(pixels: np.ndarray) -> np.ndarray:
    """Centre of what is bright in each frame, [N, T, 2] in pixels."""
    bright = pixels.max(-1)
    bright = np.where(bright > CHANGED, bright, 0)
    total = np.maximum(bright.sum((2, 3)), 1e-3)
    ways = bright.sum(2), bright.sum(3)
    return np.stack([way @ (np.arange(way.shape[-1]) + 0.5) / total for way in ways], -1)
