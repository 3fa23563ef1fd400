"""Flicker and flashes: what goes wrong with the light from one picture to the next.

With L_k the mean luma of picture k, log-ratios to the mean of its neighbours, `r_k = log L_k - (log L_{k-1} + log
L_{k+1}) / 2`, are small while light changes smoothly.  Flicker is their typical size, a flash one large r_k where the
light comes back.
"""

import dataclasses

import numpy as np

from data_pipelines.curation.scores.protocol import Column, Sample, rounded

DARK = 4.0  # luma; added, so that noise in the dark does not flicker
WHITE = 170.0  # mean luma of a flash at the very beginning or end, of which only one side is seen


@dataclasses.dataclass(frozen=True)
class Steadiness:
    """Flicker and flashes, from every decoded picture."""

    name: str = "steadiness"
    version: int = 2
    columns: tuple[Column, ...] = (
        Column(
            "flicker", "typical change of brightness against both neighbours", "share", "worse", 0.03, temporal=True
        ),
        Column("flash", "largest brightening that is gone again", "share of white", "worse", 0.15, temporal=True),
    )

    def score(self, sample: Sample) -> dict[str, float | str]:
        """See `Scorer`."""
        if len(sample.thumbs) < 3:
            return {}
        light = sample.thumbs.astype(np.float32).mean((1, 2))
        return rounded({"flicker": flicker(light), "flash": flash(light)})


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
