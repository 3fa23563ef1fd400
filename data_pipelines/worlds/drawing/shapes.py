"""Flat shapes drawn anti-aliased at positions between pixels.

With `phi` the signed distance of a pixel's centre from the outline, in pixels and negative inside, the pixel is covered
to the share `clip(1/2 - phi, 0, 1)`.  A pixel belongs to a shape whose coverage there is at least one half.

Shape legend: H height, W width.
"""

import numpy as np

SHAPES: tuple[str, ...] = ("square", "circle", "triangle", "cross", "diamond", "ring")
AREA = {  # of a shape with half-size 1
    "square": 4.0,
    "circle": np.pi,
    "triangle": 2.0,
    "cross": 20 / 9,
    "diamond": 2.0,
    "ring": np.pi * (1 - 0.44**2),
}
CENTROID_DROP = {"triangle": 1 / 3}  # how far below its box's centre the centroid lies, for half-size 1


def coverage(shape: str, centres: np.ndarray, half: np.ndarray | float, height: int, width: int) -> np.ndarray:
    """Share of each pixel that a shape covers.

    Args:
      shape: one of `SHAPES`.
      centres: [..., 2] float, (x, y) of the bounding box's centre in pixels; the first pixel's centre is (0.5, 0.5).
      half: half the extent in pixels, broadcast against `centres[..., 0]`.
      height, width: of the frame.

    Returns:
      float32 [..., H, W] in [0, 1].
    """
    centres = np.asarray(centres, np.float32)
    r = np.broadcast_to(np.asarray(half, np.float32), centres.shape[:-1])[..., None, None]
    x = np.arange(width, dtype=np.float32) + 0.5 - centres[..., None, None, 0]  # [..., 1, W]
    y = np.arange(height, dtype=np.float32)[:, None] + 0.5 - centres[..., None, None, 1]  # [..., H, 1]
    return np.clip(0.5 - distance(shape, x, y, r), 0.0, 1.0)


def distance(shape: str, x: np.ndarray, y: np.ndarray, r: np.ndarray | float) -> np.ndarray:
    """Signed distance to the outline in pixels (exact near edges, not beyond corners); y points down."""
    ax, ay = np.abs(x), np.abs(y)
    match shape:
        case "square":
            return np.maximum(ax, ay) - r
        case "circle":
            return np.sqrt(x * x + y * y) - r
        case "triangle":  # corners (0, -r), (r, r), (-r, r)
            return np.maximum((2 * ax - y - r) / np.float32(5**0.5), y - r)
        case "cross":  # a plus sign with arms a third as wide as long
            arm = r / 3
            return np.minimum(np.maximum(ax - r, ay - arm), np.maximum(ax - arm, ay - r))
        case "diamond":
            return (ax + ay - r) / np.float32(2**0.5)
        case "ring":
            return np.abs(np.sqrt(x * x + y * y) - np.float32(0.72) * r) - np.float32(0.28) * r
    raise AssertionError(shape)
