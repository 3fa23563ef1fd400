"""Arrays that a set stores for its clips (`data_pipelines.worlds.world.FIELDS`), cut as the clip is cut.

Frames that are not taken are left out.  Pictures are resized as the clip is.  What else has a value for each pixel
gives the one at the centre of each new pixel, for neither masks nor depth have means across an edge.  Positions and
distances in pixels are scaled and moved along, and the mirror image of a clip is that of the mirrored scene
M = diag(-1, 1, 1) before the same kind of camera:

    x -> W - x,   dx -> -dx,   [R | t] -> M [R M | t],   c_x -> W - c_x,   skew -> -skew

(pixel (i, j) has its centre at (x, y) = (j + 1/2, i + 1/2)).  Points beyond the part that is taken are seen no more.
Other views of a scene are cut as the clip is.
"""

import dataclasses

import numpy as np

from data_pipelines.loading.fields.field import Cut
from data_pipelines.loading.shrinking import shrink
from vdm_jax.errors import RunError
from vdm_jax.media.window import resize

# Name -> dims, as a world declares them: T frames, T-1 pairs of frames, H and W pixels, V other views, N anything else.
DIMS: dict[str, str] = {
    "flow": "T-1 H W 2",
    "flow_visible": "T-1 H W",
    "depth": "T H W",
    "masks": "T H W",
    "before": "T H W 3",
    "changed": "T H W",
    "clean": "T H W 3",
    "event_counts": "T-1 H W 2",
    "tracks": "T N 2",
    "tracks_visible": "T N",
    "camera": "T 3 4",
    "intrinsics": "T 3 3",
    "views": "V T H W 3",
    "views_camera": "V T 3 4",
    "views_intrinsics": "V T 3 3",
    "views_tracks": "V T 16 2",
    "views_tracks_visible": "V T 16",
    "matches": "V T H W 2",
    "matches_visible": "V T H W",
}
# What is seen must be inside the picture, and so inside the part of it that was taken: where it is tells that.
PLACES = {
    "flow_visible": "flow",
    "tracks_visible": "tracks",
    "views_tracks_visible": "views_tracks",
    "matches_visible": "matches",
}
_MIRROR = np.diag([-1.0, 1.0, 1.0]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A field that is read; see the top of this file."""

    name: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Itself, and for what is seen also where it is."""
        return (self.name, PLACES[self.name]) if self.name in PLACES else (self.name,)

    @property
    def whole_rate(self) -> bool:
        """Flow leads from one stored frame to the next."""
        return DIMS[self.name].startswith("T-1")

    def check(self) -> None:
        """Nothing has to be installed."""

    def compute(self, cut: Cut) -> np.ndarray:
        """See `Field.compute`."""
        value = _cut(self.name, cut)
        if self.name in PLACES:
            value = value & _inside(PLACES[self.name], cut)
        return np.ascontiguousarray(value)


def _cut(name: str, cut: Cut) -> np.ndarray:
    """The array as it belongs to the clip in the batch; each view is cut as the clip is."""
    value, dims = cut.arrays[name], DIMS[name].split()
    if dims[0] == "V":
        return np.stack([_cut_view(name, dims[1:], view, cut) for view in value])
    return _cut_view(name, dims, value, cut)


def _cut_view(name: str, dims: list[str], value: np.ndarray, cut: Cut) -> np.ndarray:
    pairs = dims[0] == "T-1"
    if len(value) != cut.frames - pairs:
        raise RunError(f"field {name!r}: has {len(value)} entries for a clip of {cut.frames} frames")
    value = value[cut.numbers[:-1] if pairs else cut.numbers]
    if dims[-1] == "3" and "H" in dims:
        value = _pictures(value, cut)
    elif "H" in dims:
        value = _pixels(value, cut)
    return _VALUES.get(name, _same)(value, cut)


def _inside(name: str, cut: Cut) -> np.ndarray:
    """Whether the places that `name` tells, or leads to from the centres of the pixels, are in the batch's picture."""
    height, width = cut.video.shape[1:3]
    places = _cut(name, cut)
    if "H" in DIMS[name]:
        x, y = np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32) + 0.5
        places = places + np.stack(np.meshgrid(x, y), -1)
    return ((places >= 0) & (places < (width, height))).all(-1)


def _pixels(value: np.ndarray, cut: Cut) -> np.ndarray:
    """The stored pixel `[T, H, W, ...]` under the centre of each pixel of the batch."""
    height, width = cut.video.shape[1:3]
    rows, columns = (
        np.minimum(((np.arange(count) + corner + 0.5) / scale).astype(np.int64), size - 1)
        for count, corner, scale, size in zip((height, width), cut.corner, cut.scale, value.shape[1:3])
    )
    return value[:, rows][:, :, columns[::-1] if cut.flip else columns]


def _pictures(value: np.ndarray, cut: Cut) -> np.ndarray:
    """Pictures `[T, H, W, 3]` resized, cropped and mirrored as the clip."""
    height, width = cut.video.shape[1:3]
    if cut.covers:
        value = resize(value, *(round(size * scale) for size, scale in zip(value.shape[1:3], cut.scale)))
    else:
        value = shrink(value, value.shape[1] // height)
    top, left = cut.corner
    return value[:, top : top + height, left : left + width][:, :, :: -1 if cut.flip else 1]


def _same(value: np.ndarray, cut: Cut) -> np.ndarray:
    return value


def _counts(value: np.ndarray, cut: Cut) -> np.ndarray:
    if cut.scale != (1.0, 1.0):
        raise RunError("field 'event_counts': are those of the stored pixels; take the clips in the size they have")
    return value


def _flow(value: np.ndarray, cut: Cut) -> np.ndarray:
    """Of `matches` too: both views are cut alike, so that what leads from one to the other is only scaled."""
    down, right = cut.scale
    return value * np.float32([-right if cut.flip else right, down])


def _tracks(value: np.ndarray, cut: Cut) -> np.ndarray:
    value = value * np.float32(cut.scale[::-1]) - np.float32(cut.corner[::-1])
    return value * np.float32([-1, 1]) + np.float32([cut.video.shape[2], 0]) if cut.flip else value


def _camera(value: np.ndarray, cut: Cut) -> np.ndarray:
    if not cut.flip:
        return value
    return np.concatenate([_MIRROR @ value[..., :3] @ _MIRROR, _MIRROR @ value[..., 3:]], axis=-1)


def _intrinsics(value: np.ndarray, cut: Cut) -> np.ndarray:
    (down, right), (top, left) = cut.scale, cut.corner
    moved = np.float32([[right, 0, -left], [0, down, -top], [0, 0, 1]]) @ value
    if not cut.flip:
        return moved
    return np.float32([[-1, 0, cut.video.shape[2]], [0, 1, 0], [0, 0, 1]]) @ moved @ _MIRROR


_VALUES = {
    "event_counts": _counts,
    "flow": _flow,
    "matches": _flow,
    "tracks": _tracks,
    "views_tracks": _tracks,
    "camera": _camera,
    "views_camera": _camera,
    "intrinsics": _intrinsics,
    "views_intrinsics": _intrinsics,
}
