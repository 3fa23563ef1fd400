"""Flicker, flashes and jumps: what goes wrong from one picture to the next.

With L_k the mean luma of picture k, log-ratios to the mean of its neighbours, `r_k = log L_k - (log L_{k-1} + log
L_{k+1}) / 2`, are small while light changes smoothly.  Flicker is their typical size, a flash one large r_k where the
light comes back.  A jump is a change between two pictures that is far larger than those round it and stays: a cut that
was not found, or pictures that were lost.
"""

import dataclasses

import numpy as np

from data_pipelines.curation.scores.protocol import Column, Sample, rounded

DARK = 4.0  # luma; added, so that noise in the dark does not flicker
NEAR = 4  # pictures on both sides that a jump is compared with
NOISE = 3.0  # mean difference of luma that is always to be expected
WHITE = 170.0  # mean luma of a flash at the very beginning or end, of which only one side is seen


@dataclasses.dataclass(frozen=True)
class Steadiness:
    """Flicker, flashes and jumps, from every decoded picture."""

    name: str = "steadiness"
    version: int = 1
    columns: tuple[Column, ...] = (
        Column(
            "flicker", "typical change of brightness against both neighbours", "share", "worse", 0.03, temporal=True
        ),
        Column("flash", "largest brightening that is gone again", "share of white", "worse", 0.15, temporal=True),
        Column("jump", "largest change of a picture, over those round it", "ratio", "worse", 6.0, temporal=True),
    )

    def score(self, sample: Sample) -> dict[str, float | str]:
        """See `Scorer`."""
        if len(sample.thumbs) < 3:
            return {}
        thumbs = sample.thumbs.astype(np.float32)
        light = thumbs.mean((1, 2))
        return rounded({"flicker": flicker(light), "flash": flash(light), "jump": jump(thumbs)})


def flicker(light: np.ndarray) -> float:
    """Median of |r_k| over pictures, float [N] of mean luma; every second picture may flicker, or every one."""
    log = np.log(light + DARK)
    return float(np.median(np.abs(log[1:-1] - (log[:-2] + log[2:]) / 2)))


def flash(light: np.ndarray) -> float:
    """How much lighter a picture (or two together) is than both sides of it, of 255; 0 if nothing flashes."""
    largest = 0.0
    for k in range(len(light)):
        before, after = light[max(0, k - 3) : k], light[k + 1 : k + 4]
        if len(before) and len(after):
            largest = max(largest, float(light[k] - max(before.min(), after.min())))
        elif len(light) > 3 and light[k] > WHITE:  # the first or the last picture
            largest = max(largest, float(light[k] - max(before.max(initial=0), after.max(initial=0))))
    return largest / 255


def jump(thumbs: np.ndarray) -> float:
    """The largest ratio of a step to the steps round it, of thumbs float32 [N, a, b] freed of brightness."""
    shapes = thumbs - thumbs.mean((1, 2), keepdims=True)
    steps = np.abs(np.diff(shapes, axis=0)).mean((1, 2))
    across = np.abs(shapes[2:] - shapes[:-2]).mean((1, 2))  # a flash is gone two steps on
    largest = 0.0
    for k, step in enumerate(steps):
        near = np.concatenate([steps[max(0, k - NEAR) : k], steps[k + 1 : k + 1 + NEAR]])
        stays = min([float(across[i]) for i in (k - 1, k) if 0 <= i < len(across)], default=0.0)
        if len(near):
            largest = max(largest, min(step, stays) / (np.median(near) + NOISE))
    return float(largest)
