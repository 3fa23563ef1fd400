"""What all worlds have in common: clips with everything that is known about them, and an oracle that reads it back.

A world is a room of its own: a frozen config with at least `height`, `width`, `frames` and `fps`, which checks itself;
a function `clip(config, index, seed) -> Example`; and an oracle, functions that read the truth off pixels, with a
`check` that measures how well.  A clip is a function of (config, index, seed): the same bytes in every process and
order.  `known.WORLDS` lists them.

What is known about a clip lies in a flat dict with the names of `FIELDS`.  Pixel (i, j), row i and column j, has its
centre at (x, y) = (j + 1/2, i + 1/2); x points right and y down.

Shape legend: T frames, H height, W width, N anything a world may count (points, objects, events).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.shards.schema import StoredField
from vdm_jax.errors import did_you_mean
from vdm_jax.media.figures import Figure

SIDE, FRAMES = (16, 128), (1, 128)  # what every world can draw
MATCHED = 16  # points that are tracked through several views
REAL, CORRUPTED = 0.99, 0.05  # how often an oracle must be right on real clips, and may be wrong on corrupted ones


@dataclasses.dataclass(frozen=True)
class Field:
    """One kind of exact knowledge about a clip.

    Attributes:
      dims: space-separated; `T`, `H`, `W` are those of the clip, a number is itself, `T-1` is one less, any other
        letter is free.
      dtype: of the array.
      meaning: a sentence.
    """

    dims: str
    dtype: type
    meaning: str

    def stored(self, video: tuple[int, ...]) -> StoredField:
        """Shape and type beside a clip of shape `video`."""
        sizes = dict(zip("THW", video)) | {"T-1": video[0] - 1}
        shape = tuple(int(dim) if dim.isdecimal() else sizes.get(dim) for dim in self.dims.split())
        return StoredField(shape, np.dtype(self.dtype).name)


FIELDS: dict[str, Field] = {
    "flow": Field(
        "T-1 H W 2", np.float32, "(dx, dy) in pixels from frame t to t + 1 of what the pixel's centre shows at t"
    ),
    "flow_visible": Field("T-1 H W", np.bool_, "whether that point is seen at t + 1 as well: inside, and not hidden"),
    "depth": Field("T H W", np.float32, "distance along the camera's axis, in the world's unit of length"),
    "masks": Field("T H W", np.uint8, "object at the pixel's centre: k is the k-th of attributes['objects'], 0 none"),
    "before": Field("T H W 3", np.uint8, "the clip before it was edited"),
    "changed": Field("T H W", np.bool_, "whether the pixel differs from that of `before`"),
    "tracks": Field("T N 2", np.float32, "(x, y) in pixels of N points, seen or not; NaN behind the camera"),
    "tracks_visible": Field("T N", np.bool_, "whether the point is seen: inside the frame, and not hidden"),
    "camera": Field("T 3 4", np.float32, "world to camera [R | t]; the camera looks along z, x right, y down"),
    "intrinsics": Field("T 3 3", np.float32, "pinhole matrix in pixels: (x, y, 1) ~ K (X, Y, Z) in the camera's frame"),
    "clean": Field("T H W 3", np.uint8, "the clip before it was degraded"),
    "events": Field("N 4", np.float32, "(t, x, y, p) in order: time in frames, the pixel's column and row, sign +-1"),
    "event_counts": Field("T-1 H W 2", np.uint8, "events (darker, brighter) of the pixel from frame t to t + 1"),
    "views": Field("V T H W 3", np.uint8, "other cameras' clips of the same scene at the same times"),
    "views_camera": Field("V T 3 4", np.float32, "of each view, as `camera`"),
    "views_intrinsics": Field("V T 3 3", np.float32, "of each view, as `intrinsics`"),
    "views_tracks": Field(f"V T {MATCHED} 2", np.float32, "the points of `tracks`, in each view"),
    "views_tracks_visible": Field(f"V T {MATCHED}", np.bool_, "whether the point is seen in the view"),
    "matches": Field("V T H W 2", np.float32, "(dx, dy) to where the view shows what the pixel's centre shows"),
    "matches_visible": Field("V T H W", np.bool_, "whether that point is seen in the view: inside, and not hidden"),
    "audio": Field(
        "N 2", np.float32, "samples left and right, of attributes['audio_rate'] a second, as long as the clip"
    ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One clip and what is known about it.

    Attributes:
      video: RGB uint8 [T, H, W, 3].
      caption: a sentence that is true of it.
      attributes: plain JSON values: what was drawn, in words and numbers.
      fields: name of `FIELDS` -> array.
    """

    video: np.ndarray
    caption: str
    attributes: Mapping[str, Any]
    fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        assert self.video.dtype == np.uint8, self.video.dtype
        assert self.video.ndim == 4, self.video.shape
        for name, value in self.fields.items():
            assert name in FIELDS, f"{name} is not in world.FIELDS"
            stored = FIELDS[name].stored(self.video.shape)
            assert stored.holds(value), (name, value.dtype, value.shape, stored)


ClipFn = Callable[[int, int], Example]  # (index, seed) -> clip


@dataclasses.dataclass(frozen=True)
class World:
    """A world, as the table in `known` lists it.

    Attributes:
      name: a word.
      summary: a line for a person.
      config: its frozen dataclass.
      clip: (config, index, seed) -> example.
      check: (config, clips, seed) -> figures of the oracle, each with a bar; see `right` and `wrong`.
      hold_out: (config, share, seed) -> two `ClipFn`, whose captions never coincide; None where captions are too many
        or too few to hold some back.
    """

    name: str
    summary: str
    config: type
    clip: Callable[[Any, int, int], Example]
    check: Callable[[Any, int, int], list[Figure]]
    hold_out: Callable[[Any, float, int], tuple[ClipFn, ClipFn]] | None = None


def check_size(config: Any) -> None:
    """Refuses a config whose size no world draws.

    Raises:
      ValueError: names the field.
    """
    for name, (low, high) in (("height", SIDE), ("width", SIDE), ("frames", FRAMES)):
        value = getattr(config, name)
        if not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name}: {value!r} is not within {low}..{high}")
    if not config.fps > 0:
        raise ValueError(f"fps: {config.fps!r} is not positive")


def check_words(name: str, values: Sequence[str], allowed: Sequence[str] | Mapping[str, Any]) -> None:
    """Refuses a list of words with an unknown one, one that comes twice, or none.

    Raises:
      ValueError: names the field, and the nearest right word.
    """
    for value in values:
        if value not in allowed:
            raise ValueError(f"{name}: {did_you_mean(value, allowed)}")
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name}: {values!r} must be at least one value, each once")


def right(name: str, verdicts: Sequence[bool] | np.ndarray, least: float = REAL) -> Figure:
    """How often an oracle read the truth off real clips, which must be `least` of the time."""
    share = float(np.mean(verdicts))
    return Figure(f"real/{name}", share, n=int(np.size(verdicts)), ok=share >= least)


def wrong(name: str, verdicts: Sequence[bool] | np.ndarray, most: float = CORRUPTED) -> Figure:
    """How often an oracle still said yes to clips that were corrupted, which may be `most` of the time."""
    share = float(np.mean(verdicts))
    return Figure(f"corrupted/{name}", share, n=int(np.size(verdicts)), ok=share <= most)


def pixels_of(videos: np.ndarray) -> np.ndarray:
    """Clips as an oracle takes them, as float32 in [0, 1].

    Args:
      videos: [B, T, H, W, 3], uint8, or float in [-1, 1] (values outside are clipped, what is no number becomes 0).

    Raises:
      ValueError: wrong shape or dtype.
    """
    videos = np.asarray(videos)
    if videos.ndim != 5 or videos.shape[-1] != 3 or 0 in videos.shape:
        raise ValueError(f"videos: expected [B, T, H, W, 3], got {list(videos.shape)}")
    if videos.dtype == np.uint8:
        return videos.astype(np.float32) / 255
    if not np.issubdtype(videos.dtype, np.floating):
        raise ValueError(f"videos: expected uint8 or float, got {videos.dtype}")
    return np.nan_to_num(np.clip(videos.astype(np.float32) / 2 + 0.5, 0, 1))


def generator(seed: int, index: int, *salt: int) -> np.random.Generator:
    """The random stream of a clip; different salts give independent streams."""
    return np.random.default_rng([seed, index, *salt])
