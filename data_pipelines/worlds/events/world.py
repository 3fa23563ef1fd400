"""The world `events`: what an event camera sees of a textured, moving scene, beside the frames of an ordinary one.

A shot of the world `scenes` is rendered at `substeps` pictures a frame.  With the logarithm of a pixel's luminance,
L = log(luma + 8), and the threshold C, the pixel remembers the level R at which it last spoke (at first, of the first
frame).  Between two pictures L is taken as linear; whenever it reaches R + p C, p = +-1, an event (t, x, y, p) is sent
and R becomes R + p C.  So at every frame

    |L - R| < C,   R = L(0) + C (sum of the p of the pixel's events so far):

events and frames say the same to within the threshold, which is what `oracle` asks.

Shape legend: T frames, H height, W width, M pictures, N events.
"""

import dataclasses

import numpy as np

from data_pipelines.worlds.drawing.pictures import luminance
from data_pipelines.worlds.scenes.labels import CAMERAS, ScenesConfig
from data_pipelines.worlds.scenes.shots import shoot
from data_pipelines.worlds.world import Example, check_size, generator

DARK_CURRENT = 8.0  # added to the luminance, so that black has a logarithm
_MOVES = CAMERAS | {"static": "stands still"}
_COUNTS = ("no", "one", "two", "three", "four")


@dataclasses.dataclass(frozen=True)
class EventsConfig:
    """What the clips look like.

    Attributes:
      height, width: pixels, 16 to 128.
      frames: frames of a clip, 1 to 128; one frame has no events.
      fps: frames per second.
      substeps: pictures that are rendered for each frame, 1 to 32.
      threshold: contrast at which a pixel speaks, of the logarithm of the luminance, 0.05 to 1.
      objects: most moving objects, 0 to 4.
    """

    height: int = 64
    width: int = 64
    frames: int = 8
    fps: float = 8.0
    substeps: int = 8
    threshold: float = 0.2
    objects: int = 3

    def __post_init__(self):
        check_size(self)
        for name, low, high in (("substeps", 1, 32), ("threshold", 0.05, 1.0), ("objects", 0, 4)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not within {low}..{high}")


def clip(config: EventsConfig, index: int, seed: int = 0) -> Example:
    """Clip `index` of the endless, reproducible sequence of `seed`."""
    rng = generator(seed, index)
    scenery = ScenesConfig(height=config.height, width=config.width, frames=config.frames, objects=config.objects)
    times = np.arange((config.frames - 1) * config.substeps + 1) / config.substeps
    fine = shoot(rng, scenery, times)
    frames = slice(None, None, config.substeps)
    shot = dataclasses.replace(fine, pixels=fine.pixels[frames], ids=fine.ids[frames], maps=fine.maps[:, frames])
    sent = sense(log_luminance(fine.pixels), times, config.threshold)
    flow, seen = shot.flow()
    fields = {
        "events": sent,
        "event_counts": count(sent, shot.ids.shape),
        "masks": shot.ids,
        "flow": flow[:-1],
        "flow_visible": seen[:-1],
    }
    objects = len(shot.maps) - 1
    attributes = {
        "camera": shot.camera,
        "objects": [f"object {n}" for n in range(1, objects + 1)],
        "threshold": config.threshold,
        "events": len(sent),
    }
    text = f"the camera {_MOVES[shot.camera]} over a scene with {_COUNTS[objects]} moving object{'s' * (objects != 1)}"
    return Example(shot.pixels, text, attributes, fields)


def log_luminance(pixels: np.ndarray) -> np.ndarray:
    """Logarithm of the luminance with the dark current: [..., 3] -> float32 [...]."""
    return np.log(luminance(pixels) + np.float32(DARK_CURRENT))


def sense(levels: np.ndarray, times: np.ndarray, threshold: float) -> np.ndarray:
    """The events of a sensor.

    Args:
      levels: float32 [M, H, W], logarithm of the luminance.
      times: [M], when, in frames.
      threshold: contrast of an event.

    Returns:
      float32 [N, 4], (t, x, y, p) in the order of time, then of rows and columns.
    """
    memory = levels[0].astype(np.float64)
    sent = []
    for k in range(1, len(levels)):
        before, after = levels[k - 1].astype(np.float64), levels[k].astype(np.float64)
        away = after - memory
        counts = np.floor(np.abs(away) / threshold + 1e-9).astype(int)
        i, j = np.nonzero(counts)
        if not len(i):
            continue
        n = counts[i, j]
        sign = np.sign(away[i, j])
        which = np.repeat(np.arange(len(i)), n)
        number = np.arange(len(which)) - np.repeat(np.cumsum(n) - n, n) + 1  # 1, 2 ... of each pixel
        crossed = memory[i, j][which] + sign[which] * threshold * number
        share = (crossed - before[i, j][which]) / (after - before)[i, j][which]
        time = times[k - 1] + np.clip(share, 0, 1) * (times[k] - times[k - 1])
        rows = np.stack([time, j[which], i[which], sign[which]], -1)
        sent.append(rows[np.lexsort((rows[:, 1], rows[:, 2], rows[:, 0]))])
        memory[i, j] += sign * threshold * n
    return np.concatenate([np.zeros((0, 4)), *sent]).astype(np.float32)


def count(sent: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Events (darker, brighter) of each pixel between frames: uint8 [T - 1, H, W, 2] for clips of [T, H, W]."""
    frames, height, width = shape
    counts = np.zeros((max(frames - 1, 0), height, width, 2), np.int64)
    if len(sent):
        gap = np.clip(np.ceil(sent[:, 0]).astype(int) - 1, 0, frames - 2)  # an event at a frame belongs before it
        np.add.at(counts, (gap, sent[:, 2].astype(int), sent[:, 1].astype(int), (sent[:, 3] > 0).astype(int)), 1)
    return np.minimum(counts, 255).astype(np.uint8)
