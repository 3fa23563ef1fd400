"""What a clip of the world `scenes` is like: its settings, and the exact labels of a clip and of each of its frames.

Everything here is numbers and words, so that labels go into a shard as JSON and a score can be held against them.
The pictures are drawn by `world`, `shots` and `defects`.

Frames are counted from 0; a span is half open, `start <= frame < stop`.  Lengths are fractions of `min(H, W)` (the
side) unless pixels are said.
"""

import dataclasses

import numpy as np

from data_pipelines.worlds.world import check_size, check_words
from vdm_jax.errors import did_you_mean

TRANSITIONS: dict[str, str] = {
    "cut": "the next frame is of another shot",
    "dissolve": "two shots are mixed for some frames",
    "fade": "through black or white",
}
DEFECTS: dict[str, str] = {
    "still": "nothing moves",
    "slide": "a page of writing that stands still",
    "freeze": "the picture is held for a while (in clips of 6 frames or more)",
    "subtitle": "one or two lines at the bottom",
    "title": "large writing in the middle",
    "watermark": "the same faint mark in a corner of every frame",
    "blur": "out of focus",
    "dark": "under-exposed",
    "bright": "over-exposed, clipped",
    "letterbox": "black bars above and below",
    "pillarbox": "black bars left and right",
    "flash": "one or two frames nearly white, and no cut",
    "flicker": "the brightness jumps from frame to frame",
}
WRITING = ("subtitle", "title", "slide")
STANDING = ("still", "slide")  # the whole clip is one shot that does not move
EDITS = ("reencode", "crop", "brightness", "contrast", "noise")
CAMERAS: dict[str, str] = {  # what a caption says
    "static": "stands",
    "pan": "pans",
    "tilt": "tilts",
    "zoom": "zooms",
    "roll": "rolls",
    "handheld": "is held by hand",
}


@dataclasses.dataclass(frozen=True)
class ScenesConfig:
    """What the clips look like.

    Attributes:
      height, width: pixels, 16 to 128.
      frames: frames of a clip, 1 to 128.
      fps: frames per second, which changes no pixel.
      shots: most shots of a clip, 1 to 8; each has at least 5 frames of its own.
      objects: most objects of a shot, 0 to 4.
      transitions: how shots are joined, of `TRANSITIONS`.
      defects: those in use, of `DEFECTS`; empty renders clean clips.
      clean: share of the clips without any defect; of the others a third has two.
      duplicates: share of the clips that repeat an earlier one with an edit; 0 to 0.5.
      noise: largest standard deviation of the sensor's noise, of 255.
    """

    height: int = 64
    width: int = 64
    frames: int = 24
    fps: float = 8.0
    shots: int = 3
    objects: int = 3
    transitions: tuple[str, ...] = tuple(TRANSITIONS)
    defects: tuple[str, ...] = tuple(DEFECTS)
    clean: float = 0.35
    duplicates: float = 0.1
    noise: float = 2.0

    def __post_init__(self):
        check_size(self)
        bounds = (("shots", 1, 8), ("objects", 0, 4), ("clean", 0, 1), ("duplicates", 0, 0.5), ("noise", 0, 10))
        for name, low, high in bounds:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not within {low}..{high}")
        for name, allowed in (("transitions", TRANSITIONS), ("defects", DEFECTS)):
            if getattr(self, name):
                check_words(name, getattr(self, name), allowed)
        if self.shots > 1 and not self.transitions:
            raise ValueError("transitions: empty, but shots is more than 1; name some, or set shots to 1")

    @property
    def side(self) -> int:
        """The shorter side in pixels."""
        return min(self.height, self.width)


@dataclasses.dataclass(frozen=True)
class Transition:
    """A join of two shots.

    Attributes:
      kind: of `TRANSITIONS`.
      start, stop: the frames that show something of both, or of the black or white between them.  For a cut both are
        the first frame of the new shot.
    """

    kind: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Defect:
    """Something that a curator would want to know.

    Attributes:
      kind: of `DEFECTS`.
      start, stop: its frames.
      strength: blur: standard deviation of the Gaussian; dark, bright: factor of the brightness; subtitle, title,
        slide: height of a line; watermark: opacity; letterbox, pillarbox: share of the frame that is black; flash:
        how far to white, 0 to 1; flicker: largest change of the brightness; else 1.
    """

    kind: str
    start: int
    stop: int
    strength: float


@dataclasses.dataclass(frozen=True)
class SceneLabels:
    """Everything that is known of a clip.  Arrays have one entry for each of the T frames.

    Attributes:
      shots: number of shots.
      transitions: in order.
      defects: in the order in which they were applied.
      cameras: kind of camera motion of each shot, of `CAMERAS`.
      objects: the shot of each moving object; the k-th is k in the masks.
      duplicate_of: index of the clip that this one repeats, or None.
      edit: what was done to it, of `EDITS`, or None.
      shot: int32 [T], the shot that has the larger share of the frame.
      mix: float32 [T], share of the shots other than `shot` (and of black or white), 0 outside transitions.
      camera_motion: float32 [T], mean displacement of the background since the frame before, as a fraction of the
        side; 0 in the first frame of a clip and of a shot, and while the picture is held.
      object_motion: float32 [T], mean over the frame of the displacement of objects over and above the background.
      still: bool [T], the frame shows the same as the frame before (up to noise, flicker, writing and flashes).
      blur: float32 [T], standard deviation of the defocus as a fraction of the side; 0 is sharp.
      exposure: float32 [T], factor on the brightness; 1 is right.
      text: float32 [T], share of the frame covered by the boxes round lines of writing.
      mark: float32 [T], share of the frame covered by the box round the watermark.
      content: (top, bottom, left, right) of the picture inside bars, in pixels, half open.
    """

    shots: int
    transitions: tuple[Transition, ...]
    defects: tuple[Defect, ...]
    cameras: tuple[str, ...]
    objects: tuple[int, ...]
    duplicate_of: int | None
    edit: str | None
    shot: np.ndarray
    mix: np.ndarray
    camera_motion: np.ndarray
    object_motion: np.ndarray
    still: np.ndarray
    blur: np.ndarray
    exposure: np.ndarray
    text: np.ndarray
    mark: np.ndarray
    content: tuple[int, int, int, int]

    def has(self, kind: str) -> bool:
        """Whether a defect of that kind is somewhere in the clip.

        Raises:
          ValueError: no such kind.
        """
        if kind not in DEFECTS:
            raise ValueError(f"kind: {did_you_mean(kind, DEFECTS)}")
        return any(defect.kind == kind for defect in self.defects)

    def to_dict(self) -> dict:
        """Plain lists, numbers and words, for JSON."""
        values = dataclasses.asdict(self)
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                values[name] = [round(v, 6) if isinstance(v, float) else v for v in value.tolist()]
        return values


def caption(labels: SceneLabels) -> str:
    """`two shots joined by a dissolve; the camera pans, then stands; blur and a subtitle`: what the labels say."""
    count = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
    text = f"{count[labels.shots]} shot{'s' * (labels.shots > 1)}"
    if labels.transitions:
        text += " joined by " + " and ".join(f"a {t.kind}" for t in labels.transitions)
    text += "; the camera " + ", then ".join(CAMERAS[kind] for kind in labels.cameras)
    objects = len(labels.objects)
    if objects:
        text += f"; {count[objects] if objects < len(count) else objects} moving object{'s' * (objects > 1)}"
    if labels.defects:
        text += "; " + " and ".join(defect.kind for defect in labels.defects)
    return text
