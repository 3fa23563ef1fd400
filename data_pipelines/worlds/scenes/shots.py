"""The shots of the world `scenes`: a camera over a textured picture, and objects that move by themselves.

Background and objects are pictures, and what moves them are affine maps of homogeneous coordinates, from a picture to
the screen, `p = M_k q` in frame k.  So the displacement of whatever is seen at pixel p between two frames is exact,

    flow_k(p) = M_{k+1} M_k^{-1} p - p,        camera:  M_k = T(screen centre) S(zoom_k) R(angle_k) T(-way_k).

Objects keep to the frame, bouncing off its sides, whatever the camera does.  Nothing is drawn outside the background:
it is made as large as the camera needs.

Shape legend: N frames of the shot, H height, W width, O objects.  Points are (x, y) in pixels, the first pixel's
centre is (0.5, 0.5).
"""

import dataclasses

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.worlds.drawing.pictures import picture
from data_pipelines.worlds.scenes.labels import CAMERAS, ScenesConfig

PAN = (0.008, 0.03)  # of the side, each frame
LONGEST_PAN = 1.5  # sides
ZOOM, MOST_ZOOM = (0.008, 0.025), 0.5  # of the logarithm, each frame and altogether
ROLL, MOST_ROLL = (0.01, 0.035), 0.8  # radians, each frame and altogether
OBJECT_SIZE, OBJECT_SPEED, OBJECT_SPIN = (0.22, 0.42), (0.015, 0.045), 0.06


@dataclasses.dataclass(frozen=True)
class Shot:
    """A rendered shot.

    Attributes:
      pixels: uint8 [N, H, W, 3].
      ids: uint8 [N, H, W], 0 for the background, else the number of the object that is seen there, from 1.
      maps: float64 [1 + O, N, 3, 3], from the background's and each object's picture to the screen.
      camera: of `CAMERAS`.
    """

    pixels: np.ndarray
    ids: np.ndarray
    maps: np.ndarray
    camera: str

    def flow(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each pixel's point is in the next frame, and whether it is seen there.

        Returns:
          displacement (dx, dy) in pixels, float32 [N, H, W, 2], and bool [N, H, W]; 0 and False in the last frame.
        """
        flow = np.zeros((*self.ids.shape, 2), np.float32)
        for number, step in enumerate(_steps(self.maps)):  # [N - 1, 2, 3]
            moved = displacement(step, *self.ids.shape[1:])
            np.copyto(flow[:-1], moved, where=(self.ids[:-1] == number)[..., None])
        seen = np.zeros(self.ids.shape, bool)
        seen[:-1] = inside(flow[:-1]) & (at(self.ids[1:], flow[:-1]) == self.ids[:-1])
        return flow, seen

    def cropped(self, box: tuple[float, float, float, float]) -> "Shot":
        """The shot when the box (left, top, right, bottom) in pixels is enlarged to the frame; without new pixels."""
        height, width = self.ids.shape[1:]
        scale = np.array((width / (box[2] - box[0]), height / (box[3] - box[1])))
        enlarge = np.diag((*scale, 1.0))
        enlarge[:2, 2] = -scale * box[:2]
        x = (box[0] + (np.arange(width) + 0.5) / scale[0]).astype(int)
        y = (box[1] + (np.arange(height) + 0.5) / scale[1]).astype(int)
        return dataclasses.replace(self, ids=self.ids[:, y[:, None], x], maps=enlarge @ self.maps)

    def motion(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean displacement since the frame before of the background, and of objects over it: [N] each, in pixels."""
        camera, own = np.zeros(len(self.ids)), np.zeros(len(self.ids))
        back = _steps(self.maps, backwards=True)
        size = self.ids.shape[1:]
        behind = displacement(back[0], *size)
        camera[1:] = np.linalg.norm(behind, axis=-1).mean((1, 2))
        for number in range(1, len(self.maps)):
            extra = np.linalg.norm(displacement(back[number], *size) - behind, axis=-1)
            own[1:] += (extra * (self.ids[1:] == number)).mean((1, 2))
        return camera, own


def displacement(steps: np.ndarray, height: int, width: int) -> np.ndarray:
    """What affine maps `[N, 2, 3]` do to each pixel's centre: float32 [N, H, W, 2]."""
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    a = (steps - np.eye(2, 3))[:, :, None, None, :]
    return np.moveaxis(a[..., 0] * x + a[..., 1] * y + a[..., 2], 1, -1).astype(np.float32)


def _targets(flow: np.ndarray) -> np.ndarray:
    """The places, (x, y) in pixels, that flow [N, H, W, 2] leads to from the centres of the pixels."""
    height, width = flow.shape[1:3]
    return flow + np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1).astype(np.float32)


def inside(flow: np.ndarray) -> np.ndarray:
    """Whether flow [N, H, W, 2] leads to places inside the frame: bool [N, H, W]."""
    targets = _targets(flow)
    return ((targets >= 0) & (targets < flow.shape[2:0:-1])).all(-1)


def at(values: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The values `[N, H, W]` of the pixels that flow [N, H, W, 2] leads to; those at the border beyond it."""
    limits = np.array(flow.shape[2:0:-1]) - 1
    x, y = np.clip(np.floor(_targets(flow)).astype(np.int32), 0, limits).transpose(3, 0, 1, 2)
    return values[np.arange(len(flow))[:, None, None], y, x]


def shoot(rng: np.random.Generator, config: ScenesConfig, times: np.ndarray, *, standing: bool = False) -> Shot:
    """Draws a shot.

    Args:
      rng: decides everything.
      config: the world.
      times: float [N], the moment that each frame shows, rising: 0, 1, 2 ... but where the picture is held; motion is
        so much a unit of time.
      standing: neither the camera nor an object moves.
    """
    count = 0 if standing else int(rng.integers(config.objects + 1))
    camera = "static" if standing else list(CAMERAS)[rng.integers(len(CAMERAS))]
    if camera == "static" and not standing:  # then something else must move
        count, camera = (max(count, 1), camera) if config.objects else (count, "pan")
    maps = [_camera(rng, config, camera, times)]
    background, maps[0] = _background(rng, config, maps[0])
    pixels = _seen(background, maps[0], config)
    ids = np.zeros(pixels.shape[:3], np.uint8)
    for number in range(1, count + 1):
        patch, path = _object(rng, config, times)
        drawn = _seen(patch, path, config)
        alpha = drawn[..., 3:].astype(np.float32) / 255
        pixels = (pixels + alpha * (drawn[..., :3] - pixels.astype(np.float32)) + 0.5).astype(np.uint8)
        ids[drawn[..., 3] > 127] = number
        maps.append(path)
    return Shot(pixels, ids, np.stack(maps), camera)


def _steps(maps: np.ndarray, backwards: bool = False) -> np.ndarray:
    """Maps between consecutive frames, [1 + O, N - 1, 2, 3]; backwards: minus what leads to the frame before."""
    here, there = (maps[:, 1:], maps[:, :-1]) if backwards else (maps[:, :-1], maps[:, 1:])
    same = (here == there).all((2, 3), keepdims=True)  # exactly: rounding is no motion
    return np.where(same, np.eye(3), there @ np.linalg.inv(here))[:, :, :2]


def _camera(rng: np.random.Generator, config: ScenesConfig, kind: str, k: np.ndarray) -> np.ndarray:
    """Screen from background, [N, 3, 3], at the times k [N] of a camera that starts above the origin."""
    frames, span = len(k), float(k[-1]) + 1
    way, zoom, angle = np.zeros((frames, 2)), np.zeros(frames), np.full(frames, rng.uniform(-0.1, 0.1))
    sign = rng.choice((-1, 1))
    match kind:
        case "pan" | "tilt":
            speed = config.side * min(rng.uniform(*PAN), LONGEST_PAN / span)
            way[:, int(kind == "tilt")] = sign * speed * k
        case "zoom":
            zoom = sign * min(rng.uniform(*ZOOM), MOST_ZOOM / span) * k
        case "roll":
            angle = angle + sign * min(rng.uniform(*ROLL), MOST_ROLL / span) * k
        case "handheld":
            way = config.side * np.stack([_shaking(rng, k), _shaking(rng, k)], -1)
            angle = angle + 0.3 * _shaking(rng, k)
    return _affine(np.exp(zoom), angle, _centre(config), way)


def _shaking(rng: np.random.Generator, k: np.ndarray) -> np.ndarray:
    """A smooth wandering of some hundredths, [N]."""
    rates, phases = rng.uniform(0.04, 0.16, 3), rng.uniform(0, 2 * np.pi, 3)
    weights = rng.uniform(0.4, 1, 3) * 0.018 / rates**0.5
    return (weights[:, None] * np.sin(2 * np.pi * rates[:, None] * k + phases[:, None])).sum(0)


def _background(rng: np.random.Generator, config: ScenesConfig, maps: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    """A picture that covers all that the camera sees, and the maps from its pixels."""
    x, y = float(config.width), float(config.height)
    corners = np.array([(0, 0, 1), (x, 0, 1), (0, y, 1), (x, y, 1)]).T
    seen = (np.linalg.inv(maps) @ corners)[:, :2]  # [N, 2, 4]
    low, high = np.floor(seen.min((0, 2))) - 2, np.ceil(seen.max((0, 2))) + 2
    width, height = (int(v) for v in high - low)
    drawn = Image.fromarray(picture(rng, height, width, config.side / 4))
    return drawn, maps @ _affine(np.ones(1), np.zeros(1), low[None], np.zeros((1, 2)))


def _object(rng: np.random.Generator, config: ScenesConfig, times: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    """A textured disc, polygon or star with an alpha channel, and its maps to the screen [N, 3, 3] at the times."""
    extent = config.side * rng.uniform(*OBJECT_SIZE)
    pixels = int(np.ceil(extent)) + 4
    patch = Image.fromarray(picture(rng, pixels, pixels, extent / 2))
    patch.putalpha(_outline(rng, pixels, extent / 2))
    speed, heading = config.side * rng.uniform(*OBJECT_SPEED), rng.uniform(0, 2 * np.pi)
    frames, k = len(times), times[:, None]
    room = np.array((config.width, config.height)) - 0.6 * extent
    way = rng.uniform(0, 1, 2) * room + k * speed * np.array((np.cos(heading), np.sin(heading)))
    way = room - np.abs(way % (2 * room) - room) + 0.3 * extent  # to and fro between the sides
    spin = rng.uniform(-OBJECT_SPIN, OBJECT_SPIN) * k[:, 0] + rng.uniform(0, 2 * np.pi)
    return patch, _affine(np.ones(frames), spin, way, np.full((frames, 2), pixels / 2))


def _outline(rng: np.random.Generator, pixels: int, radius: float) -> Image.Image:
    """Coverage of a disc, polygon or star, drawn at four times the size and averaged."""
    mask = Image.new("L", (4 * pixels, 4 * pixels))
    corners = int(rng.choice((3, 4, 5, 6, 32)))
    angles = 2 * np.pi * np.arange(2 * corners) / (2 * corners)
    inner = radius * (rng.uniform(0.5, 0.8) if corners in (5, 6) else np.cos(np.pi / corners))
    radii = np.where(np.arange(2 * corners) % 2, inner, radius)
    points = 2 * pixels + 4 * radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    ImageDraw.Draw(mask).polygon([tuple(p) for p in points], 255)
    return mask.reduce(4)


def _seen(image: Image.Image, maps: np.ndarray, config: ScenesConfig) -> np.ndarray:
    """A picture under maps to the screen: uint8 [N, H, W, channels], empty outside of it."""
    size, inverse = (config.width, config.height), np.linalg.inv(maps)
    frames, last = [], None
    for k, matrix in enumerate(inverse):
        if last is None or not np.array_equal(matrix, inverse[k - 1]):
            coefficients = tuple(matrix[:2].ravel())
            last = np.asarray(image.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR))
        frames.append(last)
    return np.stack(frames)


def _affine(scale: np.ndarray, angle: np.ndarray, to: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """`p = to + scale R(angle) (q - origin)` as matrices [N, 3, 3]."""
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    maps = np.zeros((len(linear), 3, 3))
    maps[:, :2, :2] = linear
    maps[:, :2, 2] = to - (linear @ origin[..., None])[..., 0]
    maps[:, 2, 2] = 1
    return maps


def _centre(config: ScenesConfig) -> np.ndarray:
    return np.array((config.width, config.height)) / 2
