"""Balls in a box under gravity, simulated from event to event without a time step.

Between events ball i moves as `x_i(t) = x_i + v_i t + g t^2 / 2`.  All fall alike, so two balls move straight relative
to each other: they meet at the smaller root of `|dx + dv t| = r_i + r_j`, and a ball meets a wall at a root of a
quadratic.  At a meeting the speeds along the line of centres n change by the impulse of masses `m = r^2`,

    J = (1 + e) <v_i - v_j, n> m_i m_j / (m_i + m_j),     v_i <- v_i - J n / m_i,   v_j <- v_j + J n / m_j,

and at a wall `v_n <- -e v_n`.  Meetings slower than `SLOW` lose nothing, so that a ball comes to rest in hops too small
to be seen, not in infinitely many of them.  Lengths are pixels, times seconds, y points down.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

SLOW = 0.05  # of the speed of a fall through the box: meetings below it are elastic
WALLS = ("left", "right", "top", "bottom")
_EVENTS = 20_000  # of a clip; far more than there can be


@dataclasses.dataclass(frozen=True)
class Meeting:
    """Two balls, or a ball and a wall, touch.

    Attributes:
      time: in seconds.
      ball: number of the first ball, from 0.
      other: number of the second, or a word of `WALLS`.
      speed: at which they approach along the line between them.
    """

    time: float
    ball: int
    other: int | str
    speed: float


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """What stays the same.

    Attributes:
      size: (x, y) of the box.
      radii: [N] of the balls.
      gravity: downwards.
      restitution: e, the share of the speed that is left after a meeting.
      ghosts: whether balls go through one another, which no real ball does.
    """

    size: tuple[float, float]
    radii: np.ndarray
    gravity: float
    restitution: float
    ghosts: bool = False


def simulate(
    box: Box, places: np.ndarray, speeds: np.ndarray, times: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, list[Meeting]]:
    """Moves balls.

    Args:
      box: see there.
      places, speeds: [N, 2] at time 0; no two balls overlap, all are inside.
      times: ascending, from 0 on.

    Returns:
      Places and speeds [T, N, 2] at these times, and all meetings until the last.
    """
    x, v = np.array(places, float), np.array(speeds, float)
    now, meetings, rows = 0.0, [], []
    slow = SLOW * np.sqrt(2 * max(box.gravity, 1e-9) * box.size[1])
    pending = _next(box, x, v)
    for time in times:
        while now + pending[0] <= time and len(meetings) < _EVENTS:
            now += pending[0]
            x, v = _fallen(box, x, v, pending[0])
            meetings.append(Meeting(now, *pending[1:], _bounce(box, x, v, *pending[1:], slow)))
            pending = _next(box, x, v)
        rows.append(_fallen(box, x, v, time - now))
    return np.stack([r[0] for r in rows]), np.stack([r[1] for r in rows]), meetings


def energy(box: Box, places: np.ndarray, speeds: np.ndarray) -> np.ndarray:
    """Kinetic and potential energy, [..., N, 2] -> [...]; masses are r^2, the floor is at 0."""
    height = box.size[1] - places[..., 1]
    return (box.radii**2 * ((speeds**2).sum(-1) / 2 + box.gravity * height)).sum(-1)


def _fallen(box: Box, x: np.ndarray, v: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    fall = np.array([0.0, box.gravity])
    return x + v * dt + fall * dt * dt / 2, v + fall * dt


def _bounce(box: Box, x: np.ndarray, v: np.ndarray, ball: int, other: int | str, slow: float) -> float:
    """Changes the speeds where two meet; returns how fast they did."""
    if isinstance(other, str):
        dim = WALLS.index(other) // 2
        speed = abs(v[ball, dim])
        sign = 1 if other in ("left", "top") else -1
        v[ball, dim] = sign * speed * (box.restitution if speed > slow else 1)
        return float(speed)
    normal = x[other] - x[ball]
    normal /= np.linalg.norm(normal)
    speed = float((v[ball] - v[other]) @ normal)
    masses = box.radii[[ball, other]] ** 2
    impulse = (1 + (box.restitution if speed > slow else 1)) * speed * masses.prod() / masses.sum()
    v[ball] -= impulse * normal / masses[0]
    v[other] += impulse * normal / masses[1]
    return speed


def _next(box: Box, x: np.ndarray, v: np.ndarray) -> tuple[float, int, int | str]:
    """The next meeting: in how many seconds, and of whom."""
    found = [_walls(box, x, v)]
    if not box.ghosts:
        pairs = itertools.combinations(range(len(x)), 2)
        found += [(_meet(x[j] - x[i], v[j] - v[i], box.radii[i] + box.radii[j]), i, j) for i, j in pairs]
    return min(found, key=lambda event: event[0])


def _walls(box: Box, x: np.ndarray, v: np.ndarray) -> tuple[float, int, str]:
    """The next meeting with a wall."""
    best = (np.inf, 0, WALLS[0])
    for i, radius in enumerate(box.radii):
        (px, py), (vx, vy) = x[i], v[i]
        across = (px - radius) / -vx if vx < 0 else (box.size[0] - radius - px) / vx if vx > 0 else np.inf
        fall = _fall(box.size[1] - radius - py, vy, box.gravity)
        rise = _rise(py - radius, vy, box.gravity)
        options = ((across, i, "left" if vx < 0 else "right"), (fall, i, "bottom"), (rise, i, "top"))
        best = min(best, *options, key=lambda event: event[0])
    return max(best[0], 0.0), best[1], best[2]


def _fall(way: float, speed: float, gravity: float) -> float:
    """Seconds until something at `speed` downwards is `way` lower and going down: the larger root."""
    if gravity <= 0:
        return way / speed if speed > 0 else np.inf
    root = (max(speed * speed + 2 * gravity * way, 0.0)) ** 0.5
    return (root - speed) / gravity


def _rise(way: float, speed: float, gravity: float) -> float:
    """Seconds until something at `speed` downwards is `way` higher and going up: the smaller root, if it gets there."""
    if speed >= 0:
        return np.inf
    if gravity <= 0:
        return way / -speed
    inside = speed * speed - 2 * gravity * way
    return (-speed - inside**0.5) / gravity if inside > 0 else np.inf


def _meet(dx: np.ndarray, dv: np.ndarray, reach: float) -> float:
    """Seconds until two that move straight relative to each other touch; inf if they never do."""
    closing = float(dx @ dv)
    if closing >= 0:
        return np.inf
    square = float(dv @ dv)
    inside = closing * closing - square * (float(dx @ dx) - reach * reach)
    if inside <= 0:
        return np.inf
    return max((-closing - inside**0.5) / square, 0.0)
