"""How steep luma is.

`cv2.magnitude` rounds otherwise where its arguments lie otherwise in memory, so the same picture may have another score
in another run; here derivatives and their squares are whole numbers, and nothing is rounded but the root.
"""

import numpy as np

from data_pipelines.curation.scores.opencv import import_opencv


def slope(grey: np.ndarray) -> np.ndarray:
    """Length of the gradient (Sobel) of luma uint8 [h, w]: float32 [h, w], luma a pixel."""
    cv2 = import_opencv()
    across, down = (cv2.Sobel(grey, cv2.CV_16S, *d, ksize=3).astype(np.float32) for d in ((1, 0), (0, 1)))
    return np.sqrt(across * across + down * down) * np.float32(0.125)
