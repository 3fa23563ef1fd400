"""The world `multiview`: boxes and boards that move through a room, filmed by several cameras at once.

The cameras stand on an arc round the middle of the room, `baseline` degrees apart, look at it, and swing a little:

    c_v(t) = m - r d_v(t),    d_v = viewing direction of yaw_v + s swing_v and pitch_v,    s from 0 to 1 over the clip.

The leftmost view is the clip itself, with flow, depth and masks; the others lie in `views`, from left to right.  A box
slides to a side and a board rises or sinks, both turning.  A point of a face at (a, b) of its sides stays there, so
that where it is at any time and in any view is exact: `matches` for each pixel of the clip, `tracks` for sixteen
points.  The oracle, which asks whether views show one scene from where their cameras stand, is `oracle`.

Shape legend: V other views, T frames, H height, W width, N points.
"""

import dataclasses

import numpy as np

from data_pipelines.worlds.drawing import pinhole, rooms
from data_pipelines.worlds.drawing.rooms import Faces, Views
from data_pipelines.worlds.planes import world as planes
from data_pipelines.worlds.planes.world import COLOURS, PlanesConfig
from data_pipelines.worlds.world import MATCHED, Example, check_size, generator

MOVES: dict[str, tuple[str, tuple[float, float, float]]] = {  # what a caption says, and where it goes
    "left": ("slides left", (-1.0, 0.0, 0.0)),
    "right": ("slides right", (1.0, 0.0, 0.0)),
    "up": ("rises", (0.0, -1.0, 0.0)),
    "down": ("sinks", (0.0, 1.0, 0.0)),
}
_MIDDLE = np.array((0.0, 0.1, 4.2))
_LANES = (3.1, 3.9, 4.7, 5.5)  # depths, one for each object, so that none meets another
_COUNTS = {2: "two", 3: "three", 4: "four"}


@dataclasses.dataclass(frozen=True)
class MultiviewConfig:
    """What the clips look like.

    Attributes:
      height, width: pixels of each view, 16 to 128.
      frames: frames of a clip, 1 to 128.  With one frame nothing moves.
      fps: frames per second written beside the clips; it changes no pixel.
      cameras: how many views, the clip itself among them, 2 to 4.
      boxes, boards: how many of either, 0 to 2, one at least of both.
      baseline: degrees between neighbouring cameras, seen from the middle of the room, 5 to 25.
      swing: most that a camera moves round the middle over the clip, degrees, 0 to 10.
      field_of_view: degrees across a picture, 40 to 90.
      samples: rays in each pixel, along each side: 1 to 4.
    """

    height: int = 32
    width: int = 32
    frames: int = 8
    fps: float = 8.0
    cameras: int = 3
    boxes: int = 1
    boards: int = 1
    baseline: float = 15.0
    swing: float = 4.0
    field_of_view: float = 60.0
    samples: int = 2

    def __post_init__(self):
        check_size(self)
        bounds = (
            ("cameras", 2, 4),
            ("boxes", 0, 2),
            ("boards", 0, 2),
            ("baseline", 5, 25),
            ("swing", 0, 10),
            ("field_of_view", 40, 90),
            ("samples", 1, 4),
        )
        for name, low, high in bounds:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not within {low}..{high}")
        if not self.boxes + self.boards:
            raise ValueError("boxes: 0 and no boards; something must move, 1 of either at least")

    def picture(self) -> PlanesConfig:
        """How one view is rendered."""
        return PlanesConfig(height=self.height, width=self.width, samples=self.samples)


@dataclasses.dataclass(frozen=True)
class Thing:
    """A box or a board on its way.

    Attributes:
      kind, colour, move: words.
      size: (x, y, z); a board has no z.
      start, way: place of its middle at s = 0, and by how much it has moved at s = 1.
      turns: yaw in radians at s = 0 and at s = 1.
      picture: what it wears.
    """

    kind: str
    colour: str
    move: str
    size: np.ndarray
    start: np.ndarray
    way: np.ndarray
    turns: tuple[float, float]
    picture: int

    def faces(self, s: float, number: int) -> Faces:
        """Where it is."""
        middle, yaw = self.start + s * self.way, self.turns[0] + s * (self.turns[1] - self.turns[0])
        tint = np.array(COLOURS[self.colour])
        if self.kind == "box":
            return rooms.cuboid(middle - self.size / 2, middle + self.size / 2, yaw, self.picture, tint, number)
        u = self.size[0] * np.array([np.cos(yaw), 0, np.sin(yaw)])
        v = np.array([0, self.size[1], 0])
        return rooms.board(middle - u / 2 - v / 2, u, v, self.picture, tint, number)


@dataclasses.dataclass(frozen=True, eq=False)
class _Points:
    """Points of the scene that stay where they are on their faces: face [R], and (a, b) [R, 2] on it."""

    face: np.ndarray
    place: np.ndarray

    def at(self, faces: Faces) -> np.ndarray:
        """Their places in the world, [R, 3]."""
        a, b = self.place.T[..., None]
        return faces.corners[self.face] + a * faces.u[self.face] + b * faces.v[self.face]


def clip(config: MultiviewConfig, index: int, seed: int = 0) -> Example:
    """Clip `index` of the endless, reproducible sequence of `seed`.

    Attributes: `objects` (kind, colour, move), `cameras`.
    """
    rng = generator(seed, index)
    walls = rooms.cuboid(planes.LOW, planes.HIGH, 0.0, rng.permutation(rooms.PICTURES)[:6], np.ones(3), 0)
    things = _furnish(rng, config)
    moments = np.linspace(0, 1, config.frames) if config.frames > 1 else np.zeros(1)
    scene = [_together(walls, things, float(s)) for s in moments]
    cameras = _rig(rng, config, moments)
    matrix = pinhole.intrinsics(config.height, config.width, pinhole.focal(config.width, config.field_of_view))
    seen = [rooms.views(faces, cameras[:, t], matrix) for t, faces in enumerate(scene)]
    shots = [planes.render(faces, views, matrix, config.picture()) for faces, views in zip(scene, seen)]
    videos = np.stack(shots, 1)  # [1 + V, T, H, W, 3]
    fields = _truth(rng, scene, seen, cameras, matrix, config) | {"views": videos[1:]}
    objects = [{"kind": thing.kind, "colour": thing.colour, "move": thing.move} for thing in things]
    said = [f"a {one.colour} {one.kind}" + (f" {MOVES[one.move][0]}" if config.frames > 1 else "") for one in things]
    text = f"{' and '.join(said)}, seen by {_COUNTS[config.cameras]} cameras"
    return Example(videos[0], text, {"objects": objects, "cameras": config.cameras}, fields)


def _furnish(rng: np.random.Generator, config: MultiviewConfig) -> list[Thing]:
    """Boxes on the floor, then boards in the air, each in a lane of its own."""
    lanes, colours, things = rng.permutation(_LANES), rng.permutation(list(COLOURS)), []
    for n in range(config.boxes + config.boards):
        box = n < config.boxes
        move = str(rng.choice(("left", "right") if box else ("up", "down")))
        way = np.array(MOVES[move][1]) * (rng.uniform(1.1, 1.8) if box else rng.uniform(0.7, 1.0))
        size = rng.uniform((0.7, 0.9, 0.5), (1.0, 1.5, 0.6)) if box else np.append(rng.uniform(0.8, 1.2, 2), 0.0)
        middle = rng.uniform((-0.4, 0, 0), (0.4, 0, 0)) if box else rng.uniform((-1.2, -0.5, 0), (1.2, -0.2, 0))
        middle = middle + (0, planes.HIGH[1] - size[1] / 2 if box else 0, lanes[n])
        turn = rng.uniform(-0.35, 0.35)
        turns = (turn, turn + float(rng.uniform(-0.3, 0.3)))
        picture = int(rng.integers(rooms.PICTURES))
        kind = "box" if box else "board"
        things.append(Thing(kind, str(colours[n]), move, size, middle - way / 2, way, turns, picture))
    return things


def _together(walls: Faces, things: list[Thing], s: float) -> Faces:
    faces = walls
    for number, thing in enumerate(things, 1):
        faces += thing.faces(s, number)
    return faces


def _rig(rng: np.random.Generator, config: MultiviewConfig, s: np.ndarray) -> np.ndarray:
    """World to camera [1 + V, T, 3, 4], from left to right."""
    count = config.cameras
    along = (count - 1) / 2 - np.arange(count) + rng.uniform(-0.1, 0.1, count)  # what looks to the right stands left
    swing = rng.uniform(-1, 1, (count, 1)) * min(config.swing, 0.4 * config.baseline)
    yaw = np.radians(along[:, None] * config.baseline + swing * (s - 0.5))
    pitch = np.radians(rng.uniform(-6, 6, (count, 1))) + np.zeros_like(yaw)
    rotation = pinhole.turned(yaw, pitch, np.zeros_like(yaw))
    return pinhole.extrinsics(rotation, _MIDDLE - _MIDDLE[2] * rotation[..., 2])


def _truth(
    rng: np.random.Generator,
    scene: list[Faces],
    seen: list[Views],
    cameras: np.ndarray,
    matrix: np.ndarray,
    config: MultiviewConfig,
) -> dict[str, np.ndarray]:
    """Everything that is known, at the centres of the clip's pixels."""
    shape, frames = (config.height, config.width), config.frames
    places, x, y = pinhole.grid(*shape), np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5
    met = [rooms.look(faces, views, x, y)[0] for faces, views in zip(scene, seen)]
    points = [_on_faces(scene[t], cameras[0, t], seen[t], met[t], x, y) for t in range(frames)]
    masks = np.stack([scene[t].objects[met[t]] for t in range(frames)]).astype(np.uint8)
    tracked = _chosen(rng, points, masks)
    flow, matches = [], []
    tracks = [_projected(tracked, t, scene, seen, cameras, matrix, shape) for t in range(frames)]
    for t in range(frames):
        matches.append(_projected(points[t], t, scene, seen, cameras[1:], matrix, shape, first=1))
        if t + 1 < frames:
            flow.append(_projected(points[t], t + 1, scene, seen, cameras[:1], matrix, shape))
    where, shows = (np.stack(part, 1) for part in zip(*tracks))  # [1 + V, T, N, 2], [1 + V, T, N]
    there, visible = (np.stack(part, 1) for part in zip(*matches))
    gone = np.array([one for one, _ in flow]).reshape(frames - 1, *shape, 2)
    others = len(cameras) - 1
    intrinsics = np.broadcast_to(matrix, (len(cameras), frames, 3, 3)).astype(np.float32)
    return {
        "depth": np.stack([_depth(seen[t], met[t], x, y) for t in range(frames)]).astype(np.float32),
        "masks": masks,
        "flow": (gone - places.reshape(*shape, 2)).astype(np.float32),
        "flow_visible": np.array([shown for _, shown in flow], bool).reshape(frames - 1, *shape),
        "tracks": where[0].astype(np.float32),
        "tracks_visible": shows[0],
        "camera": cameras[0].astype(np.float32),
        "intrinsics": intrinsics[0],
        "matches": (there - places).astype(np.float32).reshape(others, frames, *shape, 2),
        "matches_visible": visible.reshape(others, frames, *shape),
        "views_tracks": where[1:].astype(np.float32),
        "views_tracks_visible": shows[1:],
        "views_camera": cameras[1:].astype(np.float32),
        "views_intrinsics": intrinsics[1:],
    }


def _depth(seen: Views, met: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return rooms.depths(seen, met[None], x, y)[0]


def _on_faces(faces: Faces, camera: np.ndarray, seen: Views, met: np.ndarray, x: np.ndarray, y: np.ndarray) -> _Points:
    """What the pixels' centres show: the point of each, on its face; `seen` begins with this camera."""
    face = met.reshape(-1).astype(int)
    columns = np.stack([*(part.reshape(-1) for part in np.meshgrid(x, y)), np.ones(met.size)], -1)
    a, b, inverse = np.einsum("rqk,rk->qr", seen.maps[0, face], columns)
    return _Points(face, np.stack([a, b], -1) / inverse[:, None])


def _chosen(rng: np.random.Generator, points: list[_Points], masks: np.ndarray) -> _Points:
    """The points that are tracked: half of them of objects, where the clip shows any."""
    flat = masks.reshape(-1)
    lit = np.flatnonzero(flat) if flat.any() else np.arange(flat.size)
    chosen = np.concatenate([rng.integers(flat.size, size=MATCHED // 2), rng.choice(lit, MATCHED - MATCHED // 2)])
    face, place = np.concatenate([one.face for one in points]), np.concatenate([one.place for one in points])
    return _Points(face[chosen], place[chosen])


def _projected(
    points: _Points,
    t: int,
    scene: list[Faces],
    seen: list[Views],
    cameras: np.ndarray,
    matrix: np.ndarray,
    shape: tuple[int, int],
    first: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Where points are at t in the views from `first` on, [V, R, 2], and whether they are seen there, bool [V, R]."""
    places, depth = pinhole.project(points.at(scene[t]), cameras[:, t], matrix)
    shows = [planes.shown(scene[t], seen[t], first + v, places[v], depth[v], shape) for v in range(len(places))]
    return places, np.stack(shows)
