"""Exposure: how light the picture is, and how much of it is lost in black and white.

A clip is under-exposed if even its highlights are dark, over-exposed if much of it is clipped.  Values hold for the
worse quarter of the pictures, so that what lasts counts and a flash does not.
"""

import dataclasses

import numpy as np

from data_pipelines.curation.scores.bars import inside
from data_pipelines.curation.scores.protocol import Column, Sample, rounded

WHITE, BLACK = 250, 5  # clipped from here on
WORSE = 75  # percentile over the pictures


@dataclasses.dataclass(frozen=True)
class Exposure:
    """Brightness, contrast, highlights and clipping, of the picture inside bars."""

    name: str = "exposure"
    version: int = 1
    columns: tuple[Column, ...] = (
        Column("brightness", "mean luma", "share of white"),
        Column("contrast", "luma from the 5th to the 95th percentile of pixels", "share of white", "better"),
        Column("highlights", "luma of the lightest twentieth; low if under-exposed", "share of white", "better", 0.3),
        Column("clipped_white", "pixels of which a colour is clipped", "share of the picture", "worse", 0.3),
        Column("clipped_black", "pixels that are black", "share of the picture", "worse", 0.5),
    )

    def score(self, sample: Sample) -> dict[str, float | str]:
        """See `Scorer`."""
        low, high, lost = [], [], []
        for grey, colour in zip(inside(sample, sample.grey), inside(sample, sample.frames)):
            low_, high_ = np.percentile(grey[::2, ::2], (5, 95))
            low.append(low_)
            high.append(high_)
            lost.append(((colour[::2, ::2].max(-1) >= WHITE).mean(), (grey[::2, ::2] <= BLACK).mean()))
        white, black = np.percentile(lost, WORSE, axis=0)
        return rounded(
            {
                "brightness": inside(sample, sample.grey).mean() / 255,
                "contrast": np.mean(np.subtract(high, low)) / 255,
                "highlights": np.percentile(high, 100 - WORSE) / 255,
                "clipped_white": white,
                "clipped_black": black,
            }
        )
