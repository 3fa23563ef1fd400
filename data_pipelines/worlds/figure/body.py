"""The body of the world `figure`: a skeleton in the plane, its actions, and how it is drawn.

A pose is a handful of angles; key points follow from them limb by limb, a limb of length l hanging at angle a from the
joint j ending at `j + l (sin a, cos a)` (0 is straight down, y points down).  Each part of the body is a capsule, all
points within a radius r of the segment between two key points a and b,

    phi(p) = |p - a - clip(<p - a, b - a> / |b - a|^2, 0, 1) (b - a)| - r,     coverage = clip(1/2 - phi, 0, 1),

painted from the farthest to the nearest.  Lengths never change, so a part moves rigidly from frame to frame:
`p -> b' + R (p - b)` with the turn R of its segment.  That is the flow of what is seen of it.

Lengths are fractions of the standing height.  Shape legend: T frames, H height, W width, J key points, P parts.
"""

import dataclasses

import numpy as np

KEYPOINTS = (
    *("head", "neck", "pelvis"),
    *("left elbow", "left hand", "right elbow", "right hand"),
    *("left knee", "left foot", "right knee", "right foot"),
)
GARMENTS = ("trousers", "shirt", "skin", "shoes")
NECK, TORSO, UPPER_ARM, FOREARM, THIGH, SHIN = 0.1, 0.3, 0.16, 0.15, 0.24, 0.24


@dataclasses.dataclass(frozen=True)
class Part:
    """A capsule between two key points, with a radius in standing heights, that belongs to a garment."""

    start: str
    end: str
    radius: float
    garment: str


PARTS = (  # from the farthest to the nearest
    Part("left elbow", "left hand", 0.03, "skin"),
    Part("neck", "left elbow", 0.036, "shirt"),
    Part("pelvis", "left knee", 0.05, "trousers"),
    Part("left knee", "left foot", 0.042, "trousers"),
    Part("left foot", "left foot", 0.05, "shoes"),
    Part("pelvis", "right knee", 0.05, "trousers"),
    Part("right knee", "right foot", 0.042, "trousers"),
    Part("right foot", "right foot", 0.05, "shoes"),
    Part("neck", "pelvis", 0.085, "shirt"),
    Part("head", "head", 0.085, "skin"),
    Part("neck", "right elbow", 0.036, "shirt"),
    Part("right elbow", "right hand", 0.03, "skin"),
)
ACTIONS = ("walks left", "walks right", "waves", "cheers", "jumps", "squats")


def pose(action: str, phase: np.ndarray) -> dict[str, np.ndarray]:
    """Angles in radians by limb, towards the right of the frame, and the height `lift` of the feet above the ground.

    Args:
      action: of `ACTIONS`.
      phase: float [T], in cycles of the action.
    """
    wave, zero = 2 * np.pi * phase, np.zeros_like(phase)
    still = {"left arm": -0.25, "left forearm": -0.15, "right arm": 0.25, "right forearm": 0.15}
    angles = {name: zero + angle for name, angle in (still | {"lift": 0.0}).items()} | _bent(zero)
    match action:
        case "walks left" | "walks right":
            angles |= _walking(wave, 1 if action.endswith("right") else -1)
        case "waves":
            angles |= {"right arm": zero + 2.3, "right forearm": 2.9 + 0.6 * np.sin(2 * wave)}
        case "cheers":
            pump = 0.3 * np.sin(2 * wave)
            angles |= {"left arm": -2.4 - pump, "left forearm": -2.8 - pump}
            angles |= {"right arm": 2.4 + pump, "right forearm": 2.8 + pump}
        case "jumps":
            angles |= _jumping(phase % 1)
        case "squats":
            depth = np.sin(wave / 2) ** 2
            angles |= _bent(1.15 * depth)
            angles |= {"left arm": 0.2 + 1.1 * depth, "left forearm": 0.2 + 1.3 * depth}
            angles |= {"right arm": 0.2 + 1.1 * depth, "right forearm": 0.2 + 1.3 * depth}
    return angles


def _walking(wave: np.ndarray, sign: int) -> dict[str, np.ndarray]:
    """Legs that swing against each other, arms against the legs; `sign` is 1 to the right."""
    swing = 0.55 * np.sin(wave)
    bend = [0.35 + 0.35 * np.cos(wave + shift) for shift in (0.0, np.pi)]
    return {
        "left thigh": sign * swing,
        "left shin": sign * (swing - bend[0]),
        "right thigh": -sign * swing,
        "right shin": sign * (-swing - bend[1]),
        "left arm": -sign * 0.8 * swing,
        "left forearm": sign * (0.35 - 0.8 * swing),
        "right arm": sign * 0.8 * swing,
        "right forearm": sign * (0.35 + 0.8 * swing),
    }


def _jumping(part: np.ndarray) -> dict[str, np.ndarray]:
    """A crouch, a parabola through the air and a crouch again, over the part [T] of the cycle, in [0, 1)."""
    air = np.clip((part - 0.3) / 0.5, 0, 1)
    before, after = (np.sin(np.pi * np.clip(u, 0, 1)) for u in (part / 0.3, part / 0.2 - 4))
    spread = 0.9 * np.sin(np.pi * air)
    return _bent(0.5 * np.maximum(before, after)) | {
        "lift": 0.22 * 4 * air * (1 - air),
        "left arm": -0.25 - spread,
        "right arm": 0.25 + spread,
    }


def _bent(angle: np.ndarray) -> dict[str, np.ndarray]:
    """Both knees bent so that the feet stay below the pelvis."""
    return {
        "left thigh": angle - 0.12,
        "left shin": -angle - 0.12,
        "right thigh": angle + 0.12,
        "right shin": -angle + 0.12,
    }


def keypoints(action: str, phase: np.ndarray, ground: np.ndarray, height: float) -> np.ndarray:
    """Where the key points are.

    Args:
      action: of `ACTIONS`.
      phase: float [T], in cycles of the action.
      ground: [T, 2], (x, y) in pixels of the place that the figure stands on.
      height: standing height in pixels.

    Returns:
      float64 [T, J, 2], (x, y) in pixels, in the order of `KEYPOINTS`.
    """
    angle = pose(action, phase)

    def hang(joint: np.ndarray, limb: str, length: float) -> np.ndarray:
        return joint + length * np.stack([np.sin(angle[limb]), np.cos(angle[limb])], -1)

    at = {"pelvis": np.zeros((len(phase), 2))}
    at["neck"] = at["pelvis"] - (0, TORSO)
    at["head"] = at["neck"] - (0, NECK)
    for side in ("left", "right"):
        at[f"{side} elbow"] = hang(at["neck"], f"{side} arm", UPPER_ARM)
        at[f"{side} hand"] = hang(at[f"{side} elbow"], f"{side} forearm", FOREARM)
        at[f"{side} knee"] = hang(at["pelvis"], f"{side} thigh", THIGH)
        at[f"{side} foot"] = hang(at[f"{side} knee"], f"{side} shin", SHIN)
    lowest = np.maximum(at["left foot"][:, 1], at["right foot"][:, 1]) + 0.05 + angle["lift"]
    points = np.stack([at[name] for name in KEYPOINTS], 1) - np.stack([np.zeros_like(lowest), lowest], -1)[:, None]
    return ground[:, None] + height * points


def distance(part: Part, points: np.ndarray, height: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance in pixels of places x, y [T, ...] from a part, negative inside."""
    a, b = (points[:, KEYPOINTS.index(name)].astype(np.float32) for name in (part.start, part.end))
    wide = (slice(None), *(None,) * (x.ndim - 1))
    px, py = x - a[:, 0][wide], y - a[:, 1][wide]
    way = b - a
    along = (px * way[:, 0][wide] + py * way[:, 1][wide]) / np.maximum((way * way).sum(-1), 1e-6)[wide]
    along = np.clip(along, 0, 1)
    return np.hypot(px - along * way[:, 0][wide], py - along * way[:, 1][wide]) - np.float32(part.radius * height)


def draw(background: np.ndarray, points: np.ndarray, height: float, colours: dict) -> tuple[np.ndarray, np.ndarray]:
    """Paints the figure.

    Args:
      background: float32 [T, H, W, 3], which is painted over.
      points: [T, J, 2].
      height: standing height in pixels.
      colours: garment -> RGB.

    Returns:
      RGB uint8 [T, H, W, 3]; int8 [T, H, W], the part that is seen at each pixel's centre, counted from 1, or 0.
    """
    x, y = _centres(background.shape[:3])
    parts = np.zeros(background.shape[:3], np.int8)
    for number, part in enumerate(PARTS, 1):
        phi = distance(part, points, height, x, y)
        colour = np.asarray(colours[part.garment], np.float32)
        background += np.clip(0.5 - phi, 0, 1)[..., None] * (colour - background)
        parts[phi <= 0] = number
    return (background + 0.5).astype(np.uint8), parts


def truth(points: np.ndarray, parts: np.ndarray, height: float) -> dict[str, np.ndarray]:
    """The fields `masks` (of garments), `flow`, `flow_visible`, `tracks` and `tracks_visible` (see `world.FIELDS`)."""
    garments = np.array([0, *(1 + GARMENTS.index(part.garment) for part in PARTS)], np.uint8)
    x, y = _centres((len(points) - 1, *parts.shape[1:]))
    flow = np.zeros((len(points) - 1, *parts.shape[1:], 2), np.float32)
    for number, part in enumerate(PARTS, 1):
        moved = _carried(part, points, x, y)
        np.copyto(flow, moved, where=(parts[:-1] == number)[..., None])
    there = x + flow[..., 0], y + flow[..., 1]
    inside = (there[0] >= 0) & (there[1] >= 0) & (there[0] < parts.shape[2]) & (there[1] < parts.shape[1])
    top = _top(points[1:], height, *there)
    tracks = points.astype(np.float32)
    shown = _top(points, height, points[..., 0].astype(np.float32), points[..., 1].astype(np.float32))
    own = np.array([[name in (part.start, part.end) for name in KEYPOINTS] for part in PARTS])
    size = np.array(parts.shape[:0:-1])
    visible = own[shown - 1, np.arange(len(KEYPOINTS))] & ((points >= 0) & (points < size)).all(-1)
    return {
        "masks": garments[parts],
        "flow": flow,
        "flow_visible": inside & (top == parts[:-1]),
        "tracks": tracks,
        "tracks_visible": visible,
    }


def _centres(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixels' centres, float32, broadcast to [T, H, W]."""
    x = np.arange(shape[2], dtype=np.float32) + np.float32(0.5)
    y = np.arange(shape[1], dtype=np.float32)[:, None] + np.float32(0.5)
    return np.broadcast_to(x, shape), np.broadcast_to(y, shape)


def _carried(part: Part, points: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Displacement of places x, y [T - 1, H, W] that move with a part to the next frame: [T - 1, H, W, 2]."""
    a, b = (points[:, KEYPOINTS.index(name)] for name in (part.start, part.end))
    angle = np.arctan2(*(b - a).T)  # from straight down, towards the right
    turn = -np.diff(angle)
    cos, sin = (f(turn).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    (ax, ay), (tx, ty) = a[:-1].astype(np.float32).T, a[1:].astype(np.float32).T
    px, py = x - ax[:, None, None], y - ay[:, None, None]
    moved = tx[:, None, None] + cos * px - sin * py - x, ty[:, None, None] + sin * px + cos * py - y
    return np.stack(moved, -1)


def _top(points: np.ndarray, height: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The nearest part, from 1, at places x, y [T, ...]; 0 where there is none."""
    top = np.zeros(x.shape, np.int8)
    for number, part in enumerate(PARTS, 1):
        top[distance(part, points, height, x, y) <= 0] = number
    return top
