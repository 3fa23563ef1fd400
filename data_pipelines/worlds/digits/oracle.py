"""Reads digits, colours, headings and tracks off the pixels of a clip, real or generated.

Every lit pixel goes to the colour of the palette that is nearest when brightness is divided out.  A colour with enough
pixels is a digit; frames in which it shows less than at best do not count: another digit lies over it there (or it is
none).  Of every other frame

    place    the box round the colour's pixels, between pixels by the coverage of its outermost rows and columns
    digit    the box scaled to 16 x 16, and the digit of the most similar ones in a bank of digits that the same hand
             wrote

and of the clip: the digit of most frames (unless they disagree), the track of places, and the heading, that of the
straight line folded at the walls which comes closest to the track (unless none comes close).

Shape legend: B clips, T frames, H height, W width, N digits of the bank.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_pipelines.worlds.digits import world as digits
from data_pipelines.worlds.digits.world import COLOURS, HEADINGS, MOST, Digit, DigitsConfig
from data_pipelines.worlds.drawing import glyphs
from data_pipelines.worlds.world import Example, pixels_of, right, wrong
from vdm_jax.media.figures import Figure

FAINT, LIT = 0.06, 0.3  # brightness from which a pixel belongs to a digit, and counts for its box
UNHIDDEN = 0.94  # of its largest area: a digit that shows less is partly hidden
SHRUNK, SELDOM = 0.8, 0.1  # a digit that is smaller than that with nothing over it, more often than that, is none
AGREE = 0.7  # of the frames must show the same digit
SIMILAR = 0.75  # cosine to the bank; below this a picture is no digit
FRAMES_READ = 9  # of a clip, at most
FOLLOWED = 16  # frames from which the heading is read
STRAYS = (0.4, 0.01)  # how far the track may be from the line: pixels, and of the shorter side
_SPEEDS, _STARTS = 40, 40  # lines that are tried
_GRID = 16
_BANK, _NEIGHBOURS = 80, 3  # digits of each kind in the bank; how many of the most similar vote
_PALETTE = np.array(list(COLOURS.values()), np.float32) / 255


@dataclasses.dataclass(frozen=True)
class Reading:
    """One digit that is to be seen in a clip; None where nothing can be told.

    Attributes:
      colour, digit, heading: words of the world.
      similarity: of its frames to digits of the bank, in [0, 1].
      track: [T, 2] centre of its box in pixels, NaN where it is hidden.
    """

    colour: str
    digit: str | None
    heading: str | None
    similarity: float
    track: np.ndarray


def read(videos: np.ndarray, config: DigitsConfig) -> list[list[Reading]]:
    """Reads a batch of clips.

    Args:
      videos: [B, T, H, W, 3], uint8, or float in [-1, 1] (values outside are clipped).
      config: the world, for the colours and sizes in use and the hand.

    Returns:
      For each clip its digits, in the order of the palette.

    Raises:
      ValueError: wrong shape or dtype.
    """
    return [_read(video, config) for video in pixels_of(videos)]


def agree(readings: Sequence[Reading], caption: str) -> bool:
    """Whether a clip shows what a caption says: these digits in these colours, no other, and headings where said."""
    said = {digit.colour: digit for digit in digits.parse_caption(caption)}
    if said.keys() != {reading.colour for reading in readings}:
        return False
    pairs = [(reading, said[reading.colour]) for reading in readings]
    return all(r.digit == s.digit and s.heading in (None, r.heading) for r, s in pairs)


def check(config: DigitsConfig, clips: int = 256, seed: int = 0) -> list[Figure]:
    """Reads real clips, which must agree with their captions, and corrupted ones, which must not.

    Corruptions: frames reversed (other headings) or in disorder, one colour as another, digits that turn into others in
    the middle of the clip, pixels scrambled in each frame, noise.
    """
    made = [digits.clip(config, i, seed) for i in range(clips)]
    videos, said = np.stack([e.video for e in made]), [e.caption for e in made]
    readings = read(videos, config)
    real = [[by.get(s.colour) for s in _said(c)] for by, c in zip(map(_by_colour, readings), said)]
    pairs = [(r, s) for row, c in zip(real, said) for r, s in zip(row, _said(c))]
    figures = [
        right("colour", [set(_by_colour(r)) == {s.colour for s in _said(c)} for r, c in zip(readings, said)]),
        right("digit", [r is not None and r.digit == s.digit for r, s in pairs]),
        right("track", [_near(r, e, k) for row, e in zip(real, made) for k, r in enumerate(row)]),
        right("overall", [agree(r, c) for r, c in zip(readings, said)]),
    ]
    rng = np.random.default_rng([seed, 0xC0DE])
    half, flat = config.frames // 2, videos.reshape(*videos.shape[:2], -1, 3)
    corrupted = {
        "swapped_channels": videos[..., [1, 2, 0]],
        "scrambled": rng.permuted(flat, axis=2).reshape(videos.shape),
        "noise": rng.integers(0, 256, videos.shape, np.uint8),
    }
    if config.frames > 1:
        figures.insert(2, right("heading", [r is not None and r.heading == s.heading for r, s in pairs]))
        turned = [digits.clip(config, i + 4 * (i % 9 + 1), seed).video for i in range(clips)]  # as many other digits
        other = [k for k, e in enumerate(made) if _other_when_reversed(e)]
        corrupted["reversed"] = videos[:, ::-1]
        corrupted["shuffled"] = np.stack([video[rng.permutation(config.frames)] for video in videos])
        corrupted["other_digits_later"] = np.concatenate([videos[:, :half], np.stack(turned)[:, half:]], 1)
    for name, bad in corrupted.items():
        verdicts = [agree(r, c) for r, c in zip(read(bad, config), said)]
        figures.append(wrong(name, [verdicts[k] for k in other] if name == "reversed" else verdicts))
    return figures


def _said(caption: str) -> tuple[Digit, ...]:
    return digits.parse_caption(caption)


def _by_colour(readings: Sequence[Reading]) -> dict[str, Reading]:
    return {reading.colour: reading for reading in readings}


def _other_when_reversed(example: Example) -> bool:
    """Whether some digit, played backwards, has another heading than forwards: unless all leave as they came."""
    steps = np.diff(example.fields["tracks"], axis=0)
    return bool((steps[0] * steps[-1] > 0.9 * steps[0] ** 2).any())  # no wall within the last step


def _near(reading: Reading | None, example: Example, number: int) -> bool:
    """Whether the places that were read are those of the digit, within half a pixel and 3 % of the side."""
    if reading is None:
        return False
    moved = reading.track - example.fields["tracks"][:, number]  # the anchor is another point: constant if all is well
    spread = np.nanmax(moved, 0) - np.nanmin(moved, 0)
    return bool((spread <= 2 * (0.5 + 0.03 * min(example.video.shape[1:3]))).all())


def _read(x: np.ndarray, config: DigitsConfig) -> list[Reading]:
    brightness = x.max(-1)
    hue = x / np.maximum(brightness, 1e-3)[..., None]
    chosen = [list(COLOURS).index(name) for name in config.colours]
    nearest = ((hue[..., None, :] - _PALETTE[chosen]) ** 2).sum(-1).argmin(-1)  # [T, H, W]
    least = 0.3 * (min(x.shape[1:3]) * config.size[0] / 2) ** 2  # pixels of the thinnest digit, and less
    alphas = [np.where((nearest == k) & (brightness >= FAINT), brightness, 0) for k in range(len(chosen))]
    masses = [alpha.sum((1, 2)) for alpha in alphas]
    present = [k for k, mass in enumerate(masses) if np.median(mass) >= least]
    readings = []
    if len(present) <= MOST:  # else it is no clip of this world
        for k in present:
            others = (nearest != k) & (brightness >= LIT)
            readings.append(_read_one(config.colours[k], alphas[k], masses[k], others, config))
    return readings


def _read_one(colour: str, alpha: np.ndarray, mass: np.ndarray, others: np.ndarray, config: DigitsConfig) -> Reading:
    alpha = _gathered(alpha, config)
    clear = np.flatnonzero((mass >= UNHIDDEN * np.quantile(mass, 0.95)) & (alpha >= LIT).any((1, 2)))
    if not len(clear):
        return Reading(colour, None, None, 0.0, np.full((len(alpha), 2), np.nan))
    boxes = np.full((len(alpha), 4), np.nan)
    boxes[clear] = [_box(alpha[t]) for t in clear]
    some = clear[np.unique(np.linspace(0, len(clear) - 1, FRAMES_READ).round().astype(int))]
    pictures = np.stack([_picture(alpha[t], boxes[t]) for t in some])
    kinds, similarity = _recognise(pictures, _size(alpha, config), config.hand)
    votes = np.bincount(kinds, minlength=10)
    small = np.flatnonzero(mass < SHRUNK * np.quantile(mass, 0.95))
    shrunk = sum(not _covered(alpha[t], others[t]) for t in small)
    certain = similarity >= SIMILAR and votes.max() >= AGREE * len(kinds) and shrunk <= SELDOM * len(alpha)
    track = (boxes[:, :2] + boxes[:, 2:]) / 2
    digit = glyphs.NAMES[votes.argmax()] if certain else None
    heading = _heading(track, np.nanmedian(boxes[:, 2:] - boxes[:, :2], 0), alpha.shape[1:], config)
    return Reading(colour, digit, heading, similarity, track)


def _gathered(alpha: np.ndarray, config: DigitsConfig) -> np.ndarray:
    """Without pixels far from the middle one of their frame: where two other digits meet, their mixture looks alike."""
    reach = 0.75 * config.size[1] * min(alpha.shape[1:])
    kept = np.ones(alpha.shape, bool)
    for axis, shape in ((2, (1, -1, 1)), (1, (1, 1, -1))):
        share = np.cumsum(alpha.sum(axis), 1)
        middle = (share >= share[:, -1:] / 2).argmax(1)  # [T]
        far = np.abs(np.arange(share.shape[1]) - middle[:, None]) > reach
        kept &= ~far.reshape(len(alpha), *shape[1:])
    return np.where(kept, alpha, 0)


def _covered(alpha: np.ndarray, others: np.ndarray) -> bool:
    """Whether other digits lie where one shows less than it should."""
    lit = alpha >= LIT
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    if not len(rows):
        return bool(others.any())
    window = slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)
    return bool(others[window].any())


def _heading(track: np.ndarray, extent: np.ndarray, size: tuple[int, int], config: DigitsConfig) -> str | None:
    """The heading of the folded line that is closest to a track; None if it is not close, or hidden."""
    clear = np.flatnonzero(~np.isnan(track[:, 0]))[:FOLLOWED]
    if len(clear) < 2:
        return None
    side = min(size)
    near, far = np.cos(np.radians([90 - digits.LEAST_ANGLE, digits.LEAST_ANGLE])) * config.speed * side
    speeds = np.linspace(0.9 * near, 1.1 * far, _SPEEDS)
    speeds = np.concatenate([-speeds, speeds])[:, None, None]
    signs = []
    for dim, limit in enumerate((size[1], size[0])):
        length = max(limit - extent[dim], 1.0)
        ways = np.linspace(0, length, _STARTS)[:, None] + speeds * clear / config.fps  # [speeds, starts, frames]
        lines = np.abs(ways - 2 * length * np.round(ways / (2 * length))) + extent[dim] / 2
        error = np.abs(lines - track[clear, dim]).mean(-1)
        best = np.unravel_index(error.argmin(), error.shape)
        if error[best] > STRAYS[0] + STRAYS[1] * side:
            return None
        signs.append(int(np.sign(speeds[best[0], 0, 0])))
    return next(name for name, towards in HEADINGS.items() if towards == tuple(signs))


def _box(alpha: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what is inked, between pixels."""
    sides = []
    for axis in (0, 1):
        inked = alpha.max(axis)
        lit = np.flatnonzero(inked >= LIT)
        first, last = lit[0], lit[-1]
        sides.append((first + 1 - inked[first], last + inked[last]))
    (left, right_), (top, bottom) = sides
    return left, top, right_, bottom


def _picture(alpha: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What is in the square round a box, as a vector of length 1."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    reach = max(box[2] - box[0], box[3] - box[1]) / 2 + 0.5
    padded = Image.fromarray(np.pad(alpha, 4).astype(np.float32))
    window = tuple(
        float(np.clip(v + 4, 0, limit))
        for v, limit in zip((x - reach, y - reach, x + reach, y + reach), padded.size * 2)
    )
    vector = np.asarray(padded.resize((_GRID, _GRID), Image.Resampling.BILINEAR, box=window)).reshape(-1)
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def _size(alpha: np.ndarray, config: DigitsConfig) -> float:
    """Half the extent of digits in pixels, in the middle of the range."""
    return min(alpha.shape[1:]) * sum(config.size) / 4


def _recognise(pictures: np.ndarray, scale: float, hand: glyphs.Hand) -> tuple[np.ndarray, float]:
    """The digit that each picture is most like, and the median likeness."""
    bank, kinds = _bank(scale, hand)
    likeness = pictures @ bank.T
    best = np.argsort(-likeness, 1)[:, :_NEIGHBOURS]
    scores = np.zeros((len(pictures), 10))
    np.add.at(scores, (np.arange(len(pictures))[:, None], kinds[best]), np.take_along_axis(likeness, best, 1))
    return scores.argmax(1), float(np.median(likeness.max(1)))


@functools.lru_cache(maxsize=8)
def _bank(scale: float, hand: glyphs.Hand) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of digits of about that size, [N, 256], and which they are [N]."""
    rng = np.random.default_rng(0xBA2C)
    side = int(2 * scale * 1.2) + 5
    x = np.arange(side, dtype=np.float32) + 0.5
    pictures, kinds = [], np.tile(np.arange(10), _BANK)
    for digit in kinds:
        glyph = glyphs.write(int(digit), rng, hand)
        cx, cy = side / 2 + rng.uniform(-0.5, 0.5, 2)
        drawn = scale * rng.uniform(0.9, 1.1)
        phi = glyph.distance((x - np.float32(cx))[None], (x - np.float32(cy))[:, None], np.float32(drawn))
        alpha = np.clip(0.5 - phi, 0, 1)
        alpha[alpha < LIT] = 0
        pictures.append(_picture(alpha, np.array(_box(alpha))))
    return np.stack(pictures), kinds
