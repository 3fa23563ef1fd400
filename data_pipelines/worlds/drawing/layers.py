"""Flat objects that move without turning, one over the other: their pixels, and what is exactly known about them.

Object k has a centre c_k(t), a colour and a signed distance `phi_k(x, y)` from its outline in pixels, negative inside,
as a function of the place relative to the centre.  With coverage `a_k = clip(1/2 - phi_k, 0, 1)` the frame is painted
from the first object to the last, `v <- v + a_k (colour_k - v)`, rounded.  A pixel shows the last object whose outline
encloses its centre, p; that point is at `p + c_k(t + 1) - c_k(t)` in the next frame, and seen there unless it is
outside or a later object encloses it.  What shows the background stays where it is.

Shape legend: T frames, H height, W width, h and w of a window, N objects.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

MARGIN = 2.0  # pixels beyond the half-size from which on no object covers anything


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """One object.

    Attributes:
      colour: RGB, 0 to 255; or [T, 3], one for each frame.
      centres: [T, 2] float, (x, y) in pixels.
      half: (x, y), half the extent in pixels; the object is nowhere farther from its centre.
      distance: (x, y) relative to the centre, float32 arrays -> signed distance in pixels.
      anchor: (x, y), a point of the object, relative to the centre in pixels; the one that is tracked.
      there: bool [T], the frames in which it exists; None is all.
    """

    colour: tuple[float, float, float] | np.ndarray
    centres: np.ndarray
    half: tuple[float, float]
    distance: Callable[[np.ndarray, np.ndarray], np.ndarray]
    anchor: tuple[float, float] = (0.0, 0.0)
    there: np.ndarray | None = None


def paint(background: np.ndarray, layers: Sequence[Layer]) -> tuple[np.ndarray, np.ndarray]:
    """Draws a clip.

    Args:
      background: RGB uint8 [T, H, W, 3]; it is painted over.
      layers: from the farthest to the nearest.

    Returns:
      The clip, which is `background`, and uint8 [T, H, W]: 0 where the background is seen, k where the k-th layer is.
    """
    frames, height, width = background.shape[:3]
    masks = np.zeros((frames, height, width), np.uint8)
    for number, layer in enumerate(layers, 1):
        tops, lefts, h, w = _windows(layer, height, width)
        centres = np.asarray(layer.centres, np.float32)
        x = (lefts[:, None] + np.arange(w)).astype(np.float32)[:, None, :] + np.float32(0.5) - centres[:, None, None, 0]
        y = (tops[:, None] + np.arange(h)).astype(np.float32)[:, :, None] + np.float32(0.5) - centres[:, None, None, 1]
        phi = layer.distance(x, y)
        if layer.there is not None:
            phi[~layer.there] = np.inf
        alpha = np.clip(0.5 - phi, 0, 1)[..., None]
        colour = np.broadcast_to(np.asarray(layer.colour, np.float32), (frames, 3))[:, None, None]
        added, kept, inside = alpha * colour + np.float32(0.5), 1 - alpha, phi <= 0
        for t, (top, left) in enumerate(zip(tops, lefts)):
            there = background[t, top : top + h, left : left + w]
            there[...] = there * kept[t] + added[t]
            masks[t, top : top + h, left : left + w][inside[t]] = number
    return background, masks


def truth(masks: np.ndarray, layers: Sequence[Layer]) -> dict[str, np.ndarray]:
    """The fields `masks`, `flow`, `flow_visible`, `tracks` and `tracks_visible` (see `world.FIELDS`).

    Args:
      masks: as `paint` gives them.
      layers: those that were painted.
    """
    shown = masks[:-1]
    flow = np.zeros((*shown.shape, 2), np.float32)
    visible = (shown > 0) | (masks[1:] == 0)
    for number, layer in enumerate(layers, 1):
        t, i, j = np.nonzero(shown == number)
        step = np.diff(layer.centres, axis=0)[t]
        flow[t, i, j] = step
        points = np.stack([j + 0.5, i + 0.5], -1) + step
        visible[t, i, j] = seen(points, t + 1, layers[number:], masks.shape[1:])
        if layer.there is not None:
            visible[t, i, j] &= layer.there[t + 1]
    points = [layer.centres + np.asarray(layer.anchor) for layer in layers]
    tracks = np.array(points, float).reshape(len(layers), len(masks), 2).swapaxes(0, 1)
    every = np.arange(len(masks))
    shows = [seen(tracks[:, n], every, layers[n + 1 :], masks.shape[1:]) for n in range(len(layers))]
    shows = [shown if one.there is None else shown & one.there for shown, one in zip(shows, layers)]
    return {
        "masks": masks,
        "flow": flow,
        "flow_visible": visible,
        "tracks": tracks.astype(np.float32),
        "tracks_visible": np.array(shows, bool).reshape(len(layers), len(masks)).T,
    }


def seen(points: np.ndarray, frames: np.ndarray, above: Sequence[Layer], size: tuple[int, int]) -> np.ndarray:
    """Whether points are in the frame with nothing over them.

    Args:
      points: [M, 2] float, (x, y) in pixels.
      frames: [M] int, when.
      above: the objects that could hide them.
      size: (H, W).

    Returns:
      bool [M].
    """
    x, y = points[:, 0], points[:, 1]
    free = (x >= 0) & (y >= 0) & (x < size[1]) & (y < size[0])
    for layer in above:
        away = (points - layer.centres[frames]).astype(np.float32)
        near = (np.abs(away) <= np.asarray(layer.half) + MARGIN).all(-1)
        if layer.there is not None:
            near &= layer.there[frames]
        free[near] &= layer.distance(away[near, 0], away[near, 1]) > 0
    return free


def crowding(drawn: Sequence[Layer]) -> float:
    """Share of the frames in which the box of some object, the one with most of them, overlaps that of another."""
    centres, halves = np.stack([layer.centres for layer in drawn]), np.array([layer.half for layer in drawn])
    apart = np.abs(centres[:, None] - centres) >= (halves[:, None] + halves)[:, :, None]
    touches = ~apart.any(-1) & ~np.eye(len(drawn), dtype=bool)[..., None]
    return float(touches.any(1).mean(-1).max())


def _windows(layer: Layer, height: int, width: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """First row and column [T] of the pixels that the layer may cover, and how many of each; inside the frame."""
    corners = np.floor(np.asarray(layer.centres) - layer.half - MARGIN).astype(int)
    h, w = (min(int(2 * (half + MARGIN)) + 2, side) for half, side in zip(layer.half[::-1], (height, width)))
    return np.clip(corners[:, 1], 0, height - h), np.clip(corners[:, 0], 0, width - w), h, w
