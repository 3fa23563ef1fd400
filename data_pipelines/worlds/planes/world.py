"""The world `planes`: a room of textured planes with boxes and boards in it, under a moving pinhole camera.

Nothing moves but the camera, in one of fourteen ways, as s goes evenly from 0 to 1 over the clip:

    pan, tilt, roll      it turns by s A                     dolly, truck, pedestal   it moves along its axes by s A
    orbit                it goes round what it looks at and keeps looking at it

Pose, intrinsics, depth, flow, what is hidden, masks and tracks of points are exact at the pixels' centres.  A pixel in
which `samples x samples` rays meet different faces has the mean of their colours, any other one that of its centre.
The oracle that reads the camera's way back is `oracle`.

Shape legend: T frames, H height, W width, N points.
"""

import dataclasses
import itertools

import numpy as np

from data_pipelines.worlds.drawing import pinhole, rooms
from data_pipelines.worlds.drawing.rooms import Faces, Views
from data_pipelines.worlds.world import Example, check_size, check_words, generator

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (1.7, 0.35, 0.35),
    "green": (0.4, 1.6, 0.4),
    "blue": (0.35, 0.5, 1.9),
    "yellow": (1.6, 1.5, 0.3),
    "white": (1.6, 1.6, 1.6),
}
MOVES: dict[str, str] = {  # what a caption says
    "pan left": "pans left",
    "pan right": "pans right",
    "tilt up": "tilts up",
    "tilt down": "tilts down",
    "roll left": "rolls left",
    "roll right": "rolls right",
    "dolly forward": "moves forward",
    "dolly backward": "moves backward",
    "truck left": "moves left",
    "truck right": "moves right",
    "pedestal up": "rises",
    "pedestal down": "sinks",
    "orbit left": "circles to the left",
    "orbit right": "circles to the right",
}
LOW, HIGH = np.array((-3.2, -1.7, -2.2)), np.array((3.2, 1.5, 6.5))  # of the room; y points down
_TARGET = 4.0  # what an orbit goes round is so far ahead
REACH = {"pan": 30.0, "tilt": 20.0, "roll": 30.0, "orbit": 26.0, "dolly": 1.6, "truck": 1.3, "pedestal": 0.8}
AMOUNTS = (0.6, 1.0)  # smallest and largest share of the reach
POINTS = 16  # that are tracked
SEEN = 0.004  # of the picture: a smaller part of an object does not count as seen


@dataclasses.dataclass(frozen=True)
class PlanesConfig:
    """What the clips look like.

    Attributes:
      height, width: pixels, 16 to 128.
      frames: frames of a clip, 1 to 128.  With one frame nothing moves.
      fps: frames per second written beside the clips; it changes no pixel.
      boxes: how many stand on the floor, 0 to 4.
      boards: how many flat boards hang in the room, 0 to 2.
      moves: the ways of the camera in use, of `MOVES`.
      field_of_view: degrees across the picture, 40 to 90.
      samples: rays that look for edges in each pixel, along each side: 1 to 4.
    """

    height: int = 32
    width: int = 32
    frames: int = 16
    fps: float = 8.0
    boxes: int = 2
    boards: int = 1
    moves: tuple[str, ...] = tuple(MOVES)
    field_of_view: float = 60.0
    samples: int = 2

    def __post_init__(self):
        check_size(self)
        check_words("moves", self.moves, MOVES)
        for name, low, high in (("boxes", 0, 4), ("boards", 0, 2), ("field_of_view", 40, 90), ("samples", 1, 4)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not within {low}..{high}")


def clip(config: PlanesConfig, index: int, seed: int = 0) -> Example:
    """Clip `index` of the endless, reproducible sequence of `seed`; its moves cycle through those of the config.

    Attributes: `move`, `amount` (degrees, or units of length), `objects` (kind, colour, and whether it is ever seen;
    the caption speaks of those alone).
    """
    rng = generator(seed, index)
    move = config.moves[index % len(config.moves)]
    amount = float(REACH[move.split()[0]] * rng.uniform(*AMOUNTS))
    faces, objects = _furnish(rng, config)
    start = _start(rng)
    camera = path(move, amount, start, np.linspace(0, 1, config.frames) if config.frames > 1 else np.zeros(1))
    matrix = pinhole.intrinsics(config.height, config.width, pinhole.focal(config.width, config.field_of_view))
    seen = rooms.views(faces, camera, matrix)
    fields = _truth(rng, faces, seen, camera, matrix, config)
    for number, thing in enumerate(objects, 1):
        thing["seen"] = bool(((fields["masks"] == number).mean((1, 2)) >= SEEN).any())
    attributes = {"move": move, "amount": round(amount, 6), "objects": objects}
    return Example(render(faces, seen, matrix, config), _caption(move, objects, config), attributes, fields)


def path(move: str, amount: float, start: np.ndarray, s: np.ndarray) -> np.ndarray:
    """World to camera [T, 3, 4] of a camera on its way.

    Args:
      move: of `MOVES`.
      amount: how far it goes, in degrees or units of length.
      start: [4], place (x, y, z) and yaw at s = 0.
      s: [T] in [0, 1].
    """
    kind, where = move.split()
    sign = 1.0 if where in ("right", "up", "forward") else -1.0
    zero, way = np.zeros_like(s), sign * amount * s
    yaw, pitch, roll = np.full_like(s, start[3]), zero, zero
    shift = np.zeros((len(s), 3))  # in the axes of the first camera
    angle = np.radians(way)
    if kind == "pan":
        yaw = yaw + angle
    elif kind == "tilt":
        pitch = angle
    elif kind == "roll":
        roll = angle
    elif kind == "orbit":  # to the right of what it looks at, hence it turns to the left
        yaw = yaw - angle
        shift = _TARGET * np.stack([np.sin(angle), zero, 1 - np.cos(angle)], -1)
    else:
        shift[:, ("truck", "pedestal", "dolly").index(kind)] = -way if kind == "pedestal" else way
    first = pinhole.turned(np.array(start[3]), np.array(0.0), np.array(0.0))
    return pinhole.extrinsics(pinhole.turned(yaw, pitch, roll), start[:3] + shift @ first.T)


def _start(rng: np.random.Generator) -> np.ndarray:
    place = rng.uniform((-0.6, -0.4, -0.3), (0.6, 0.3, 0.2))
    return np.append(place, rng.uniform(-0.2, 0.2))


def _furnish(rng: np.random.Generator, config: PlanesConfig) -> tuple[Faces, list[dict]]:
    """Walls, boxes in a row on the floor, and boards above them; and what the objects are."""
    plain = np.ones(3)
    faces = rooms.cuboid(LOW, HIGH, 0.0, rng.permutation(rooms.PICTURES)[:6], plain, 0)
    objects: list[dict] = []
    colours = list(COLOURS)
    total = config.boxes + config.boards
    hues = [colours[k] for k in rng.permutation(len(colours))] * 2
    places = rng.permutation(np.linspace(-2.1, 2.1, max(config.boxes, 2)))
    for n in range(total):
        number, picture, tint = n + 1, int(rng.integers(rooms.PICTURES)), np.array(COLOURS[hues[n]])
        if n < config.boxes:
            half = rng.uniform((0.35, 0.4, 0.35), (0.6, 0.9, 0.6))
            x, z = places[n] + rng.uniform(-0.25, 0.25), rng.uniform(3.2, 4.6)
            middle = np.array([x, HIGH[1] - half[1], z])
            faces += rooms.cuboid(middle - half, middle + half, rng.uniform(0, np.pi / 2), picture, tint, number)
        else:
            turn, lean = rng.uniform(-0.7, 0.7, 2)
            u = rng.uniform(0.9, 1.4) * np.array([np.cos(turn), 0, np.sin(turn)])
            level = np.array([-np.sin(turn), 0, np.cos(turn)])
            v = rng.uniform(0.6, 0.9) * (np.cos(lean) * np.array([0, 1, 0]) + np.sin(lean) * level)
            middle = np.array([rng.uniform(-1.6, 1.6), rng.uniform(-1.0, -0.6), rng.uniform(3.0, 4.6)])
            faces += rooms.board(middle - u / 2 - v / 2, u, v, picture, tint, number)
        objects.append({"kind": "box" if n < config.boxes else "board", "colour": hues[n]})
    return faces, objects


def render(faces: Faces, seen: Views, matrix: np.ndarray, config: PlanesConfig) -> np.ndarray:
    """What cameras show, uint8 [T, H, W, 3].

    Args:
      faces, seen: the scene and how the cameras see it, see `rooms.views`.
      matrix: K [3, 3].
      config: for size and rays.
    """
    samples, count = config.samples, len(faces.objects)
    x, y = (np.arange(side, dtype=np.float32) + np.float32(0.5) for side in (config.width, config.height))
    inside = (np.arange(samples) + 0.5) / samples
    columns, rows = ((np.arange(side)[:, None] + inside).reshape(-1) for side in (config.width, config.height))
    met = rooms.look(faces, seen, columns, rows)
    first = met[:, ::samples, ::samples]
    mixed = np.zeros(first.shape, bool)
    for i, j in itertools.product(range(samples), repeat=2):
        mixed |= met[:, i::samples, j::samples] != first
    video = np.empty((*first.shape, 3), np.float32)
    for t, face in enumerate(first):  # a frame's rays fit into the caches
        video[t] = rooms.shade(faces, seen, t * count + face.astype(np.int64), x, y[:, None], matrix)
    t, i, j = (index[:, None] for index in np.nonzero(mixed))
    i, j = np.indices((samples, samples)).reshape(2, 1, -1) + samples * np.stack([i, j])  # [2, R, samples^2]
    keys = t * count + met[t, i, j].astype(np.int64)
    colours = rooms.shade(faces, seen, keys, columns[j].astype(np.float32), rows[i].astype(np.float32), matrix, samples)
    video[mixed] = colours.mean(1)
    return (np.clip(video, 0, 255) + 0.5).astype(np.uint8)


def _truth(
    rng: np.random.Generator, faces: Faces, seen: Views, camera: np.ndarray, matrix: np.ndarray, config: PlanesConfig
) -> dict[str, np.ndarray]:
    """Everything that is known, at the centres of the pixels."""
    x, y = (np.arange(side) + 0.5 for side in (config.width, config.height))
    met = rooms.look(faces, seen, x, y)
    depth = rooms.depths(seen, met, x, y)
    places = pinhole.grid(config.height, config.width)
    flat = np.concatenate([(places - matrix[:2, 2]) / matrix[0, 0], np.ones((len(places), 1))], -1)
    points = depth.reshape(len(camera), -1, 1) * flat  # in the camera's axes
    turn = camera[1:, :, :3] @ np.swapaxes(camera[:-1, :, :3], 1, 2)
    shift = camera[1:, :, 3:] - turn @ camera[:-1, :, 3:]
    there, far = pinhole.project(points[:-1], np.concatenate([turn, shift], -1), matrix)  # [T-1, H W, 2], [T-1, H W]
    t, chosen = rng.integers(len(camera), size=POINTS), rng.integers(len(places), size=POINTS)
    tracked = ((points[t, chosen] - camera[t, :, 3])[:, None] @ camera[t, :, :3])[:, 0]  # each seen in some frame
    tracks, away = pinhole.project(tracked, camera, matrix)
    visible = np.zeros(far.shape, bool)
    shows = np.zeros(away.shape, bool)
    for t in range(len(camera)):
        pixels = slice(t - 1, t) if t else slice(0)
        where = np.concatenate([tracks[t], *there[pixels]])
        both = shown(faces, seen, t, where, np.concatenate([away[t], *far[pixels]]), (config.height, config.width))
        shows[t], visible[pixels] = both[:POINTS], both[POINTS:].reshape(-1, len(places))
    return {
        "depth": depth.astype(np.float32),
        "masks": faces.objects.astype(np.uint8)[met],
        "flow": (there - places).astype(np.float32).reshape(-1, *met.shape[1:], 2),
        "flow_visible": visible.reshape(-1, *met.shape[1:]),
        "tracks": tracks.astype(np.float32),
        "tracks_visible": shows,
        "camera": camera.astype(np.float32),
        "intrinsics": np.tile(matrix, (len(camera), 1, 1)).astype(np.float32),
    }


def shown(
    faces: Faces, seen: Views, t: int, places: np.ndarray, depth: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Whether points are in the picture with nothing before them: bool [N].

    Args:
      faces, seen: see `rooms.views`.
      t: the frame, or view, of `seen`.
      places: [N, 2], (x, y) in pixels.
      depth: [N].
      size: (H, W).
    """
    with np.errstate(invalid="ignore"):
        x, y = places.T
        inside = (x >= 0) & (y >= 0) & (x < size[1]) & (y < size[0]) & (depth > 0)
    inside[inside] = ~rooms.hidden(faces, seen, t, places[inside], depth[inside])
    return inside


def _caption(move: str, objects: list[dict], config: PlanesConfig) -> str:
    things = [f"a {thing['colour']} {thing['kind']}" for thing in objects if thing["seen"]]
    rest = " and ".join(itertools.chain([", ".join(things[:-1])] if things[1:] else [], things[-1:]))
    if config.frames == 1:
        return f"a room with {rest}" if things else "an empty room"
    return f"the camera {MOVES[move]} in a room with {rest}" if things else f"the camera {MOVES[move]} in an empty room"
