"""Whether the events and the frames of a clip of the world `events` tell the same story, real or generated.

The levels that a sensor with threshold C remembers at frame k are known from the first frame and the events,

    R_k = log luminance of frame 0 + C (sum of the signs of all events up to k),

and a frame fits where its own logarithm is within C of that.  A clip fits if `SHARE` of its pixels do, among those that
change at all; the threshold itself is the least at which they do.

Shape legend: T frames, H height, W width, N events.
"""

import dataclasses

import numpy as np

from data_pipelines.worlds.events import world as events
from data_pipelines.worlds.events.world import EventsConfig
from data_pipelines.worlds.world import right, wrong
from vdm_jax.media.figures import Figure

SHARE, EXACT = 0.98, 0.998
ENOUGH = 1000  # events, to tell the threshold by
THRESHOLDS = np.geomspace(0.03, 1.5, 400)  # that are tried
SLACK = 1.02  # on the threshold: times and levels are rounded
CLOSE = 0.1  # relative error of a threshold that counts as right


@dataclasses.dataclass(frozen=True)
class Reading:
    """What events and frames say of each other.

    Attributes:
      fits: share of the pixels that change whose level is that of the events, over all frames after the first.
      threshold: the least at which they agree; None with too few events, or if they never do.
    """

    fits: float
    threshold: float | None


def remembered(video: np.ndarray, counts: np.ndarray, threshold: float) -> np.ndarray:
    """Levels that the events say, float32 [T, H, W].

    Args:
      video: uint8 [T, H, W, 3], of which the first frame is used.
      counts: [T - 1, H, W, 2], as `world.FIELDS["event_counts"]`.
      threshold: contrast of an event.
    """
    steps = counts[..., 1].astype(np.float32) - counts[..., 0]
    first = events.log_luminance(video[:1])
    return np.concatenate([first, first + threshold * np.cumsum(steps, 0)])


def read(video: np.ndarray, counts: np.ndarray, threshold: float) -> Reading:
    """Holds frames against events.

    Raises:
      ValueError: shapes that do not belong together.
    """
    if counts.shape != (len(video) - 1, *video.shape[1:3], 2):
        raise ValueError(f"counts: {list(counts.shape)} do not belong to a clip of {list(video.shape)}")
    levels = events.log_luminance(video)
    off = np.abs(levels - remembered(video, counts, threshold))[1:]
    moved = levels[1:] - levels[0]
    steps = np.cumsum(counts[..., 1].astype(np.float32) - counts[..., 0], 0)
    told = np.cumsum(counts.sum(-1), 0) > 0
    changes = told | (np.abs(moved) >= threshold)
    fits = float((off < SLACK * threshold)[changes].mean()) if changes.any() else 1.0
    if counts.sum() < ENOUGH:
        return Reading(fits, None)
    agreed = (np.mean(np.abs(moved - c * steps)[told] < SLACK * c) for c in THRESHOLDS)
    return Reading(fits, next((float(c) for c, share in zip(THRESHOLDS, agreed) if share >= EXACT), None))


def check(config: EventsConfig, clips: int = 128, seed: int = 0) -> list[Figure]:
    """Reads real pairs, which must fit, and corrupted ones, which must not.

    `order` is whether events come in order of time and add up to their counts.  Corruptions: signs exchanged, frames
    in reversed order, the events of another clip, events at shifted pixels, no events at all.

    Raises:
      ValueError: one frame, which has no events.
    """
    if config.frames < 2:
        raise ValueError(f"frames: {config.frames}; events are told of clips of at least 2")
    made = [events.clip(config, i, seed) for i in range(clips)]
    pairs = [(example.video, example.fields["event_counts"]) for example in made]
    readings = [read(*pair, config.threshold) for pair in pairs]
    corrupted = {
        "exchanged_signs": [(video, counts[..., ::-1]) for video, counts in pairs],
        "reversed": [(video[::-1], counts) for video, counts in pairs],
        "other_clip": [(video, pairs[k - 1][1]) for k, (video, _) in enumerate(pairs)],
        "shifted": [(video, np.roll(counts, (5, 3), (1, 2))) for video, counts in pairs],
        "silent": [(video, np.zeros_like(counts)) for video, counts in pairs],
    }
    ordered = [_in_order(e.fields["events"], e.fields["event_counts"]) for e in made]
    return [
        right("fits", [r.fits >= SHARE for r in readings]),
        right(
            "threshold",
            [_near(r.threshold, config.threshold) for r, (_, c) in zip(readings, pairs) if c.sum() >= ENOUGH],
        ),
        right("order", ordered),
        *(
            wrong(name, [read(*pair, config.threshold).fits >= SHARE for pair in bad])
            for name, bad in corrupted.items()
        ),
    ]


def _near(found: float | None, threshold: float) -> bool:
    return found is not None and abs(found - threshold) <= CLOSE * threshold


def _in_order(sent: np.ndarray, counts: np.ndarray) -> bool:
    return bool((np.diff(sent[:, 0]) >= 0).all() and len(sent) == counts.sum())
