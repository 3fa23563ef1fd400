"""Pictures and clips as the autoencoders of published pipelines want them."""

import numpy as np
from PIL import Image


def fitted(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Stretches pictures to a size, as diffusers' `VideoProcessor` does (Lanczos, 8 bits).

    Args:
      pictures: uint8 `[N, H, W, 3]`.
      height, width: in pixels.

    Returns:
      float32 `[N, height, width, 3]` in [-1, 1].

    Raises:
      ValueError: other pictures.
    """
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8:
        raise ValueError(f"pictures: {pictures.dtype} {pictures.shape} are not uint8 [N, H, W, 3]")
    stretched = [Image.fromarray(each).resize((width, height), Image.Resampling.LANCZOS) for each in pictures]
    return np.stack(stretched).astype(np.float32) / np.float32(255.0) * np.float32(2.0) - np.float32(1.0)
