"""How the picture of one frame of `scenes` lies in another: block matching, and one affine map for the camera.

A block of frame a is sought in frame b around where it is expected, by normalised correlation

    r(d) = <a - mean a, b(. + d) - mean b> / (|a - mean a| |b - mean b|),

which neither brightness nor contrast changes.  The camera's map is fitted to the best places of all blocks, weighted
so that blocks that move otherwise have no say.  Chained from frame to frame the maps tell where a block is many frames
later, and the correlation there whether it is still the same shot.

Shape legend: H height, W width, N blocks, S places sought.  Points are (x, y) in pixels.
"""

import dataclasses

import numpy as np
from PIL import Image
from scipy import ndimage

SIDE = 32  # pixels that frames are reduced to, about
BLOCK, STRIDE = 8, 4  # pixels of a reduced frame
REACH = 2  # of a reduced frame, that things move between two frames at most


@dataclasses.dataclass(frozen=True)
class Match:
    """Where blocks were found.

    Attributes:
      centres: float [N, 2], of the blocks in the first frame.
      found: float [N, 2], in the second.
      correlation: float [N], in [-1, 1].
    """

    centres: np.ndarray
    found: np.ndarray
    correlation: np.ndarray


def reduced(frames: np.ndarray) -> np.ndarray:
    """Frames `[T, H, W]` made so small that their shorter side is about `SIDE`, by means; float32."""
    factor = max(1, round(min(frames.shape[1:]) / SIDE))
    t, height, width = (frames.shape[0], *(side // factor for side in frames.shape[1:]))
    cells = frames[:, : height * factor, : width * factor].reshape(t, height, factor, width, factor)
    return cells.mean((2, 4), dtype=np.float32)


def usable(picture: np.ndarray) -> np.ndarray:
    """Pixels of reduced frames that are wholly of the picture; bool, of bool `[T, H, W]`."""
    return reduced(picture) > 0.9


def detail(frames: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Reduced frames without their slow changes, which would match anywhere.

    Args:
      frames: `[T, H, W]`.
      seen: bool, see `usable`; what is not of the picture is 0, and leaves no rim beside it, which would not move.
    """
    blur, small = (0, BLOCK / 2, BLOCK / 2), reduced(frames) * seen
    share = ndimage.gaussian_filter(seen.astype(np.float32), blur)
    return (small - ndimage.gaussian_filter(small, blur) / np.maximum(share, 1e-3)) * seen


def match(first: np.ndarray, second: np.ndarray, usable: np.ndarray, start: np.ndarray) -> Match:
    """Seeks the blocks of one frame in another, which is first drawn as the camera of the first saw it.

    Args:
      first, second: float32 [H, W], reduced.
      usable: bool [2, H, W], pixels of each that belong to the picture; a block with too few is left out.
      start: [2, 3], affine map that says where in `second` a point of `first` is expected.
    """
    drawn = _drawn(second, start)
    # what is not usable in either, or from outside the second frame, counts as nothing
    fits = usable[0] & (_drawn(usable[1].astype(np.float32), start) > 0.9)
    starts = corners(fits)
    a = np.lib.stride_tricks.sliding_window_view(first, (BLOCK, BLOCK))[starts[:, 1], starts[:, 0]]
    shifts = np.stack(np.meshgrid(*2 * [np.arange(-REACH, REACH + 1)]), -1).reshape(-1, 2)  # [S, 2]
    places = starts[:, None] + shifts + REACH  # [N, S, 2], in the padded frame
    padded = np.pad(drawn, REACH, mode="edge")
    b = np.lib.stride_tricks.sliding_window_view(padded, (BLOCK, BLOCK))[places[..., 1], places[..., 0]]
    score = _correlation(a[:, None], b)
    best, n = score.argmax(1), np.arange(len(starts))
    centres = starts + BLOCK / 2
    places = centres + shifts[best] + _between(score.reshape(-1, 2 * REACH + 1, 2 * REACH + 1), best)
    return Match(centres, places @ start[:, :2].T + start[:, 2], score[n, best])


def corners(fits: np.ndarray) -> np.ndarray:
    """The upper left corners (x, y), int [N, 2], of the blocks that are nearly all within `fits`, bool [H, W]."""
    height, width = fits.shape
    rows, columns = np.arange(0, height - BLOCK + 1, STRIDE), np.arange(0, width - BLOCK + 1, STRIDE)
    starts = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
    windows = np.lib.stride_tricks.sliding_window_view(fits, (BLOCK, BLOCK))
    return starts[windows[starts[:, 1], starts[:, 0]].mean((1, 2)) > 0.8]


def shift(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The translation, a map [3, 3], from most of a frame [H, W] to another: the top of the phase correlation."""
    cross = np.conj(np.fft.fft2(first)) * np.fft.fft2(second)
    score = np.fft.ifft2(cross / np.maximum(np.abs(cross), 1e-6)).real
    top = np.array(np.unravel_index(score.argmax(), score.shape))
    size = np.array(score.shape)
    way = (top + size // 2) % size - size // 2  # (down, right)
    found = np.eye(3)
    found[:2, 2] = way[::-1]
    return found


def _drawn(frame: np.ndarray, start: np.ndarray) -> np.ndarray:
    """What a frame shows where an affine map [2, 3] leads from each pixel; 0 outside."""
    size = frame.shape[1], frame.shape[0]
    coefficients = tuple(start.ravel())
    image = Image.fromarray(frame).transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(image)


def camera(matched: Match) -> tuple[np.ndarray, float]:
    """The affine map [2, 3] that most blocks follow, and the share of the blocks that do, to within half a pixel."""
    good = matched.correlation > 0.6
    if good.sum() < 4:
        return np.eye(2, 3), 0.0
    p = np.concatenate([matched.centres[good], np.ones((good.sum(), 1))], 1)
    q = matched.found[good]
    shift = np.median(q - p[:, :2], 0)
    fitted = np.eye(2, 3)
    fitted[:, 2] = shift
    for width in (2.0, 1.0, 0.5, 0.5):
        error = np.linalg.norm(q - p @ fitted.T, axis=1)
        weight = 1 / (1 + (error / width) ** 2) ** 2
        if len(q) < 8:  # too few for more than a shift
            fitted[:, 2] = np.average(q - p[:, :2], 0, weight)
            continue
        w = weight[:, None] * p
        fitted = np.linalg.solve(w.T @ p + 1e-3 * np.eye(3), w.T @ q + 1e-3 * np.eye(3, 2)).T
    return fitted, float((np.linalg.norm(q - p @ fitted.T, axis=1) < 0.5).mean() * good.mean())


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Normalised correlation of blocks [..., h, w]; 0 where one of them is flat."""
    a = a - a.mean((-2, -1), keepdims=True)
    b = b - b.mean((-2, -1), keepdims=True)
    norm = np.sqrt((a * a).sum((-2, -1)) * (b * b).sum((-2, -1)))
    return (a * b).sum((-2, -1)) / np.maximum(norm, 1e-3)


def _between(score: np.ndarray, best: np.ndarray) -> np.ndarray:
    """By how much (x, y) the top of a parabola through the best place and its neighbours is off it; [N, 2]."""
    count = score.shape[1]
    y, x = np.divmod(best, count)
    n = np.arange(len(best))
    off = np.zeros((len(best), 2))
    for axis, (i, dy, dx) in enumerate(((x, 0, 1), (y, 1, 0))):
        inner = (i > 0) & (i < count - 1)
        m, r, c = n[inner], y[inner], x[inner]
        low, mid, high = score[m, r - dy, c - dx], score[m, r, c], score[m, r + dy, c + dx]
        off[inner, axis] = 0.5 * (low - high) / np.minimum(low - 2 * mid + high, -1e-6)
    return np.clip(off, -0.5, 0.5)
