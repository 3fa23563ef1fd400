"""A worse copy of the clip, what a restoration or super-resolution model is given: x = up(down(clip)) + noise."""

import dataclasses

import numpy as np
from PIL import Image

from data_pipelines.loading.fields.field import Cut


@dataclasses.dataclass(frozen=True)
class Degraded:
    """uint8 [T, H, W, 3]: means of `factor` x `factor` pixels, enlarged again (bicubic), with noise.

    Attributes:
      factor: pixels of a side that become one.
      noise: deviation of what is added, in units of 1/255; drawn by the clip's index.
    """

    factor: int = 4
    noise: float = 4.0
    name: str = "degraded"
    needs: tuple[str, ...] = ()
    whole_rate: bool = False

    def check(self) -> None:
        """Nothing has to be installed."""

    def compute(self, cut: Cut) -> np.ndarray:
        """See `Field.compute`."""
        height, width = cut.video.shape[1:3]
        small = max(1, width // self.factor), max(1, height // self.factor)
        worse = np.empty(cut.video.shape, np.float32)
        for k, frame in enumerate(cut.video):
            picture = Image.fromarray(np.ascontiguousarray(frame)).resize(small, Image.Resampling.BOX)
            worse[k] = picture.resize((width, height), Image.Resampling.BICUBIC)
        worse += self.noise * np.random.default_rng(cut.index).standard_normal(worse.shape, np.float32)
        return (worse.clip(0, 255) + 0.5).astype(np.uint8)
