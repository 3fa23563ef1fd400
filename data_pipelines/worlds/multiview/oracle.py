"""Tells whether views show one scene at one time, from where their cameras stand, and whether tracks do.

Tracks.  With cameras [R_1 | t_1] and [R_2 | t_2], R = R_2 R_1^T and t = t_2 - R t_1, a point seen at p_1 and p_2 obeys

    p_2^T F p_1 = 0,    F = K_2^-T [t]x R K_1^-1,

and |p_2^T F p_1| / |(F p_1)_xy| is how many pixels p_2 is away from its epipolar line.

Pixels.  A pixel of the clip, at its depth, is carried into each view that shows it at the same time.  The difference of
luminance

    e(d) = mean of min(|I_v(p' + d) - I(p)|, CAP)

must be clearly less at d = 0 than in the mean over eight d a few pixels away: of the room, and of each object that
moves, in each view.  A view of another time fails on what moves, one from elsewhere on everything.

Shape legend: V other views, T frames, H height, W width, N points, P pixels.
"""

import itertools

import numpy as np

from data_pipelines.worlds.drawing import pinhole
from data_pipelines.worlds.drawing.pictures import luminance
from data_pipelines.worlds.multiview import world as multiview
from data_pipelines.worlds.multiview.world import MultiviewConfig
from data_pipelines.worlds.planes.oracle import blurred, errors
from data_pipelines.worlds.world import Example, pixels_of, right, wrong
from vdm_jax.media.figures import Figure

NEAR = 0.05  # pixels from its epipolar line within which an exact point lies
AWAY = 0.09  # of the width, two pixels at least: how far places are that should fit less
CLEARLY = 0.66  # of their difference that may be left where it should fit
ENOUGH = 0.02  # of a frame's pixels: a smaller part of an object cannot be compared
MOMENTS = 6  # frames of a clip that are compared, evenly spread
LEAST_SIDE, LEAST_FRAMES, LEAST_BASELINE = 32, 4, 15.0  # of clips that are checked
_ROUND = np.array([step for step in itertools.product((-1, 0, 1), repeat=2) if any(step)], float)


def epipolar(
    first: np.ndarray, second: np.ndarray, cameras: tuple[np.ndarray, np.ndarray], matrix: np.ndarray
) -> np.ndarray:
    """Pixels [..., N] by which points of a second view miss the epipolar lines of those of the first.

    Args:
      first, second: places [..., N, 2] of the same points in both views.
      cameras: world to camera [..., 3, 4] of both.
      matrix: K [3, 3] of both.
    """
    one, two = (np.asarray(camera, np.float64) for camera in cameras)
    turn = two[..., :3] @ np.swapaxes(one[..., :3], -1, -2)
    x, y, z = np.moveaxis(two[..., 3] - (turn @ one[..., 3:])[..., 0], -1, 0)
    zero, back = np.zeros_like(x), np.linalg.inv(np.asarray(matrix, np.float64))
    cross = np.stack([np.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))], -2)
    fundamental = back.T @ cross @ turn @ back
    p, q = (np.concatenate([place, np.ones((*place.shape[:-1], 1))], -1) for place in (first, second))
    lines = p @ np.swapaxes(fundamental, -1, -2)
    return np.abs((lines * q).sum(-1)) / np.maximum(np.hypot(lines[..., 0], lines[..., 1]), 1e-12)


def fits(
    video: np.ndarray,
    views: np.ndarray,
    cameras: np.ndarray,
    depth: np.ndarray,
    masks: np.ndarray,
    visible: np.ndarray,
    matrix: np.ndarray,
) -> np.ndarray:
    """What is left of the difference where views should fit, of that around: float [V, 1 + objects].

    Args:
      video: [T, H, W, 3], uint8, or float in [-1, 1] (values outside are clipped).
      views: [V, T, H, W, 3], likewise.
      cameras: world to camera [1 + V, T, 3, 4], of the video and of the views.
      depth, masks: [T, H, W] of the video, as in `world.FIELDS`.
      visible: [V, T, H, W], what of the video is seen in each view, as `matches_visible`.
      matrix: K [3, 3] of all.

    Returns:
      Of the room, then of each object; NaN where too little of it is seen.

    Raises:
      ValueError: wrong shape or dtype.
    """
    if views.ndim != 5 or views.shape[1:] != video.shape or cameras.shape != (1 + len(views), len(video), 3, 4):
        raise ValueError(
            f"views: {list(views.shape)} with video {list(video.shape)} and cameras {list(cameras.shape)}; "
            "expected [V, T, H, W, 3], [T, H, W, 3] and [1 + V, T, 3, 4]"
        )
    clip, others = luminance(pixels_of(video[None])), luminance(pixels_of(views))
    height, width = masks.shape[1:]
    around = _ROUND * max(2.0, AWAY * width)
    objects = int(masks.max())
    total = np.zeros((len(views), 1 + objects, 2))
    frames = np.unique(np.linspace(0, len(video) - 1, MOMENTS).round().astype(int))
    places = pinhole.grid(height, width)
    flat = np.concatenate([(places - matrix[:2, 2]) / matrix[0, 0], np.ones((len(places), 1))], -1)
    for t in frames:
        own = cameras[0, t].astype(float)
        points = (flat * depth[t].reshape(-1, 1) - own[:, 3]) @ own[:, :3]
        there, _ = pinhole.project(points, cameras[1:, t].astype(float), matrix)  # [V, P, 2]
        values = blurred(clip[0, t : t + 1])[0].reshape(-1)
        for v, k in itertools.product(range(len(views)), range(1 + objects)):
            chosen = (visible[v, t] & (masks[t] == k)).reshape(-1)
            if chosen.sum() < ENOUGH * len(places):
                continue
            grey = blurred(others[v, t : t + 1])[0]
            total[v, k, 0] += errors(grey, there[v, chosen], values[chosen])
            total[v, k, 1] += errors(grey, there[v, chosen] + around[:, None], values[chosen]).mean()
    with np.errstate(invalid="ignore"):
        return total[..., 0] / total[..., 1]


def agrees(left: np.ndarray) -> bool:
    """Whether everything fits, of what `fits` gives; at least the room must be seen."""
    return bool(np.isfinite(left[:, 0]).all() and np.nanmax(left) <= CLEARLY)


def check(config: MultiviewConfig, clips: int = 128, seed: int = 0) -> list[Figure]:
    """Compares real clips, whose tracks and pixels must fit their cameras, and corrupted ones.

    Corruptions: views of another time (played backwards), cameras exchanged, the views of another clip, the video
    itself as each view, noise.

    Raises:
      ValueError: a world of few frames or pixels, in which other times look alike, or of cameras too close together.
    """
    if config.frames < LEAST_FRAMES or min(config.height, config.width) < LEAST_SIDE:
        size = f"{config.frames} of {config.height}x{config.width}"
        raise ValueError(f"frames: {size}; views are compared in {LEAST_FRAMES} of {LEAST_SIDE} pixels a side at least")
    if config.baseline < LEAST_BASELINE:
        raise ValueError(f"baseline: {config.baseline!r}; views are told apart from {LEAST_BASELINE} degrees on")
    made = [multiview.clip(config, i, seed) for i in range(clips)]
    views = [example.fields["views"] for example in made]
    cameras = [_cameras(example) for example in made]
    rng = np.random.default_rng([seed, 0xC0DE])
    figures = [
        right("tracks", [_tracked(e, e.fields["views_tracks"], c) for e, c in zip(made, cameras)]),
        right("agrees", [_agrees(e, v, c) for e, v, c in zip(made, views, cameras)]),
        wrong(
            "another_time/tracks", [_tracked(e, e.fields["views_tracks"][:, ::-1], c) for e, c in zip(made, cameras)]
        ),
        wrong(
            "swapped_cameras/tracks", [_tracked(e, e.fields["views_tracks"], c[::-1]) for e, c in zip(made, cameras)]
        ),
        wrong("swapped_cameras", [_agrees(e, v, c[::-1]) for e, v, c in zip(made, views, cameras)]),
    ]
    corrupted = {
        "another_time": [view[:, ::-1] for view in views],
        "other_clip": views[1:] + views[:1],
        "one_view": [np.broadcast_to(e.video, e.fields["views"].shape) for e in made],
        "noise": [rng.integers(0, 256, view.shape, np.uint8) for view in views],
    }
    for name, bad in corrupted.items():
        figures.append(wrong(name, [_agrees(e, v, c) for e, v, c in zip(made, bad, cameras)]))
    return figures


def _cameras(example: Example) -> np.ndarray:
    return np.concatenate([example.fields["camera"][None], example.fields["views_camera"]])


def _agrees(example: Example, views: np.ndarray, cameras: np.ndarray) -> bool:
    fields = example.fields
    matrix = fields["intrinsics"][0].astype(float)
    return agrees(
        fits(example.video, views, cameras, *(fields[k] for k in ("depth", "masks", "matches_visible")), matrix)
    )


def _tracked(example: Example, tracks: np.ndarray, cameras: np.ndarray) -> bool:
    """Whether tracks in the views lie on the epipolar lines of those in the clip, wherever both cameras see them."""
    fields = example.fields
    own, matrix = fields["tracks"].astype(float), fields["intrinsics"][0]
    off = [epipolar(own, track.astype(float), (cameras[0], one), matrix) for track, one in zip(tracks, cameras[1:])]
    both = fields["tracks_visible"] & fields["views_tracks_visible"]
    return bool((np.array(off)[both] <= NEAR).all())
