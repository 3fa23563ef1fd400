"""What is known about a clip, drawn for people: flow as colours of a wheel, depth as brightness, masks in colours.

    flow     hue is the direction (right is red, down yellow-green, left cyan, up violet), saturation the length
             relative to the longest of the clip; white stands still
    depth    near is bright; the scale is that of inverse depth, from the nearest to the farthest point of the clip
    masks    one colour an object, the background dark
    before   as it is
    tracks   dots over the clip, larger where there are few, hollow where the point is hidden
    clean    as it is
    view     the views of the other cameras, as they are, numbered from 1
    audio    left above and right below: how loud it is along the clip, bright up to the frame
    events   blue where it became darker, red where brighter, white where nothing happened

Shape legend: T frames, H height, W width.
"""

from collections.abc import Callable, Mapping

import matplotlib
import numpy as np
from matplotlib.colors import hsv_to_rgb

from data_pipelines.worlds.world import Example
from vdm_jax.media.grid import upscale

DOTS_AT = 64  # a clip is enlarged to about this height before dots are drawn on it
FEW = 8  # dots that are drawn larger, with a rim
BLANK = 236  # of a frame that a field has not
_LEAST_FLOW = 1e-3  # pixels: below this the longest flow of a clip is no motion
_TABLE = np.asarray(matplotlib.colormaps["tab10"].colors)


def panels(example: Example) -> dict[str, np.ndarray]:
    """The clip and every field that can be drawn, by label: uint8 [T, H', W', 3] each.

    Fields between two frames (flow) are drawn at the first of them; the last frame is grey.
    """
    drawn = {"video": example.video}
    for name, draw in DRAWN.items():
        if name in example.fields:
            drawn[_LABELS.get(name, name)] = draw(example)
    for number, view in enumerate(example.fields.get("views", ()), 1):
        drawn[f"view {number}"] = view
    return drawn


def flow_colours(flow: np.ndarray, longest: float | None = None) -> np.ndarray:
    """Colours of a flow field.

    Args:
      flow: float [..., 2], (dx, dy) in pixels.
      longest: length that is drawn fully saturated; that of the longest vector by default.

    Returns:
      RGB uint8 [..., 3].
    """
    length = np.hypot(flow[..., 0], flow[..., 1])
    longest = longest or max(float(length.max(initial=0.0)), _LEAST_FLOW)
    hue = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1
    hsv = np.stack([hue, np.minimum(length / longest, 1), np.ones_like(hue)], -1)
    return _bytes(hsv_to_rgb(hsv))


def _flow(example: Example) -> np.ndarray:
    drawn = flow_colours(example.fields["flow"])
    seen = example.fields.get("flow_visible")
    if seen is not None:
        drawn[~seen] = drawn[~seen] // 2  # what comes out of sight is darker
    return np.concatenate([drawn, np.full_like(example.video[:1], BLANK)])


def _depth(example: Example) -> np.ndarray:
    inverse = 1 / example.fields["depth"]
    low, high = float(inverse.min()), float(inverse.max())
    grey = (inverse - low) / max(high - low, 1e-9)
    return _bytes(matplotlib.colormaps["inferno"](grey)[..., :3])


def _masks(example: Example) -> np.ndarray:
    masks = example.fields["masks"]
    colours = np.concatenate([[[0.12, 0.12, 0.14]], _TABLE[np.arange(max(int(masks.max()), 1)) % len(_TABLE)]])
    return _bytes(colours[masks])


def _tracks(example: Example) -> np.ndarray:
    factor = max(1, DOTS_AT // example.video.shape[1])
    canvas = upscale(example.video, factor) // 2
    tracks = example.fields["tracks"]
    seen = example.fields.get("tracks_visible", np.ones(tracks.shape[:2], bool))
    height, width = canvas.shape[1:3]
    cells = np.floor(np.nan_to_num(tracks * factor, nan=-1)).astype(int)
    rim = int(tracks.shape[1] <= FEW)
    for n in range(tracks.shape[1]):
        colour = _bytes(_TABLE[n % len(_TABLE)])
        for t in range(len(canvas)):
            x, y = cells[t, n]
            if 1 + rim <= x < width - 1 - rim and 1 + rim <= y < height - 1 - rim:
                if rim:
                    canvas[t, y - 2 : y + 3, x - 2 : x + 3] = 255
                canvas[t, y - 1 : y + 2, x - 1 : x + 2] = colour
                if not seen[t, n]:
                    canvas[t, y, x] = 0
    return canvas


def _clean(example: Example) -> np.ndarray:
    return example.fields["clean"]


def _events(example: Example) -> np.ndarray:
    counts = example.fields["event_counts"].astype(np.float32)
    strength = np.minimum(counts / max(float(np.quantile(counts, 0.995)), 1.0), 1)[..., None]
    drawn = 1 - strength[..., 0, :] * (0.9, 0.75, 0.1) - strength[..., 1, :] * (0.1, 0.8, 0.9)
    return np.concatenate([_bytes(np.clip(drawn, 0, 1)), np.full_like(example.video[:1], BLANK)])


def _audio(example: Example) -> np.ndarray:
    audio = np.abs(example.fields["audio"])
    frames, height, width = len(example.video), max(DOTS_AT, example.video.shape[1]), example.video.shape[2]
    width *= max(1, DOTS_AT // example.video.shape[1])
    loud = np.stack([piece.max(0, initial=0.0) for piece in np.array_split(audio, width)])  # [width, 2]
    tall = loud / max(float(loud.max()), 1e-6) * (height // 2 - 1)
    away = np.abs(np.arange(height) + 0.5 - height / 2)[:, None]
    lit = np.where(np.arange(height)[:, None] < height / 2, away < tall[:, 0], away < tall[:, 1])
    heard = (np.arange(width) + 0.5) / width < np.arange(1, frames + 1)[:, None] / frames
    light = np.where(lit, np.where(heard, 1.0, 0.4)[:, None], 0.1)
    return _bytes(light[..., None] * (0.5, 0.9, 1.0))


def _bytes(unit: np.ndarray) -> np.ndarray:
    return (unit * 255 + 0.5).astype(np.uint8)


def _before(example: Example) -> np.ndarray:
    return example.fields["before"]


_LABELS = {"event_counts": "events"}
DRAWN: Mapping[str, Callable[[Example], np.ndarray]] = {
    "before": _before,
    "flow": _flow,
    "depth": _depth,
    "masks": _masks,
    "tracks": _tracks,
    "clean": _clean,
    "event_counts": _events,
    "audio": _audio,
}
