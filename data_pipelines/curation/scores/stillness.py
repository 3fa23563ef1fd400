"""Stillness: how much of a clip shows nothing happen, and for how long at a stretch.

Two pictures are the same if no block of them differs by more than what noise, compression and a change of the light
explain.  Half a second apart, that says which share of the clip stands still (stills, slides); from one decoded
picture to the next, how long a picture is held (a freeze).
"""

import dataclasses

import numpy as np

from data_pipelines.curation.scores.bars import inside
from data_pipelines.curation.scores.opencv import import_opencv
from data_pipelines.curation.scores.protocol import Column, Sample, rounded

GRID = 16  # blocks along the longer side
CHANGED = 2.5  # mean difference of luma in a block that is not noise
QUIET = 10  # percentile of the blocks that show noise alone
NOISES = 3.5  # standard deviations of noise that a block may differ by
SHARE = 0.01  # of the blocks may change by chance


@dataclasses.dataclass(frozen=True)
class Stillness:
    """Share of the time that stands still, and the longest stretch."""

    name: str = "stillness"
    version: int = 1
    columns: tuple[Column, ...] = (
        Column("still", "time in which nothing changes", "share of the clip", "worse", 0.6, temporal=True),
        Column("held", "longest time in which the picture stands still", "seconds", "worse", 1.0, temporal=True),
    )

    def score(self, sample: Sample) -> dict[str, float | str]:
        """See `Scorer`."""
        pairs = sample.pairs()
        if not pairs:
            return {}
        grey = inside(sample, sample.grey)
        blocks, limit = block_means(grey), limit_of(grey)
        still = np.mean([same(blocks[k], blocks[k + 1], limit) for k in pairs])
        return rounded({"still": still, "held": held(sample.thumbs, sample.thumb_times)})


def limit_of(grey: np.ndarray) -> float:
    """The mean difference of blocks that noise explains, of luma uint8 [T, h, w].

    Noise changes every pixel from picture to picture, also where nothing moves: it is what the quietest blocks show.
    """
    size = max(1, max(grey.shape[1:]) // GRID)
    rows, columns = grey.shape[1] // size * size, grey.shape[2] // size * size
    change = np.diff(grey[:, :rows, :columns].astype(np.float32), axis=0) ** 2
    power = change.reshape(len(change), rows // size, size, columns // size, size).mean((2, 4))
    return max(CHANGED, NOISES * float(np.sqrt(np.percentile(power, QUIET))) / size)


def block_means(grey: np.ndarray) -> np.ndarray:
    """Mean luma of the blocks of a grid, float32 [T, a, b], from uint8 [T, h, w]."""
    cv2 = import_opencv()
    scale = min(1, GRID / max(grey.shape[1:]))
    size = max(1, round(grey.shape[2] * scale)), max(1, round(grey.shape[1] * scale))
    return np.stack([cv2.resize(g, size, interpolation=cv2.INTER_AREA) for g in grey.astype(np.float32)])


def same(a: np.ndarray, b: np.ndarray, limit: float = CHANGED) -> bool:
    """Whether two pictures of block means show the same, whatever their brightness, up to `limit`."""
    gain = (b.mean() + 1) / (a.mean() + 1)
    change = np.abs(b + 1 - gain * (a + 1)) / max(1.0, gain)
    return bool((change > limit).mean() <= SHARE)


def held(thumbs: np.ndarray, times: np.ndarray) -> float:
    """Seconds of the longest stretch of thumbs [N, a, b] that show the same as its first."""
    blocks, limit = block_means(thumbs), limit_of(thumbs)
    longest, first = 0.0, 0
    for k in range(1, len(blocks)):
        if same(blocks[first], blocks[k], limit):
            longest = max(longest, float(times[k] - times[first]))
        else:
            first = k
    return longest
