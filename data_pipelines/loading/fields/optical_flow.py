"""Dense optical flow of the pixels, where no world knows the exact one: Farneback's, by OpenCV.

G. Farneback, "Two-Frame Motion Estimation Based on Polynomial Expansion", SCIA 2003.  Of the frames as they are in the
batch, so at any rate and size; good to about a pixel where there is texture, and zero where there is none.
"""

import dataclasses

import numpy as np

from data_pipelines.loading.fields.field import Cut
from vdm_jax.errors import RunError


@dataclasses.dataclass(frozen=True)
class OpticalFlow:
    """float32 [T - 1, H, W, 2]: (dx, dy) in pixels from frame t to t + 1."""

    name: str = "optical_flow"
    needs: tuple[str, ...] = ()
    whole_rate: bool = False

    def check(self) -> None:
        """Needs OpenCV."""
        try:
            import cv2  # noqa: F401  (only who asks for the field needs it)
        except ImportError:
            raise ValueError(f"fields: {self.name!r} needs OpenCV: pip install 'vdm_jax[curate]'") from None

    def compute(self, cut: Cut) -> np.ndarray:
        """See `Field.compute`."""
        import cv2  # see `check`

        cv2.setNumThreads(1)  # the read threads fill the cores already
        grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in cut.video]
        flow = np.zeros((max(0, len(grey) - 1), *cut.video.shape[1:3], 2), np.float32)
        for k in range(len(flow)):
            flow[k] = cv2.calcOpticalFlowFarneback(
                grey[k], grey[k + 1], None, pyr_scale=0.5, levels=3, winsize=9, iterations=3, poly_n=5, poly_sigma=1.1,
                flags=0,
            )  # fmt: skip
        if not np.isfinite(flow).all():
            raise RunError(f"field {self.name!r}: not finite for clip {cut.index}")
        return flow
