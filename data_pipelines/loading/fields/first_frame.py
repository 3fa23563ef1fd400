"""The first frame of the clip, as an image-to-video model is given it."""

import dataclasses

import numpy as np

from data_pipelines.loading.fields.field import Cut


@dataclasses.dataclass(frozen=True)
class FirstFrame:
    """uint8 [H, W, 3]."""

    name: str = "first_frame"
    needs: tuple[str, ...] = ()
    whole_rate: bool = False

    def check(self) -> None:
        """Nothing has to be installed."""

    def compute(self, cut: Cut) -> np.ndarray:
        """See `Field.compute`."""
        return np.ascontiguousarray(cut.video[0])
