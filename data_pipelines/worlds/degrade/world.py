"""The world `degrade`: textured clips that were blurred, made smaller, made noisy or compressed, with their clean twin.

A clip is one shot of the world `scenes`, x, and what a chain of steps makes of it, y = s_n(... s_1(x)), each rounded to
bytes as a device would:

    blur       y = x * Gaussian of standard deviation sigma, in pixels
    downscale  y = enlarge(shrink(x, f), f): means of the pixels, then bicubic
    noise      y = x + n, n ~ N(0, s^2) independent in every pixel and channel, in levels
    compress   y = decode(encode(x)), H.264 at a constant rate factor

Motion is that of the clean clip, and exact in both.  The oracle that reads a step back is `oracle`.

Shape legend: T frames, H height, W width.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageFilter

from data_pipelines.worlds.scenes.labels import ScenesConfig
from data_pipelines.worlds.scenes.shots import shoot
from data_pipelines.worlds.world import Example, check_size, check_words, generator
from vdm_jax.errors import did_you_mean
from vdm_jax.media import video as media

STRENGTHS: dict[str, tuple[float, float]] = {  # weakest and strongest
    "blur": (0.8, 3.0),
    "downscale": (2, 4),
    "noise": (6.0, 30.0),
    "compress": (32, 46),
}
WHOLE = ("downscale", "compress")  # whole numbers
_PHRASES = {
    "blur": "blurred by {:.1f} pixels",
    "downscale": "made smaller {:.0f} times",
    "noise": "made noisy by {:.0f} levels",
    "compress": "compressed at a rate factor of {:.0f}",
}


@dataclasses.dataclass(frozen=True)
class DegradeConfig:
    """What the clips look like.

    Attributes:
      height, width: pixels, 16 to 128.
      frames: frames of a clip, 1 to 128.
      fps: frames per second.
      steps: fewest and most steps of a chain, 1 to 4.
      kinds: those in use, of `STRENGTHS`.
      objects: most moving objects, 0 to 4.
    """

    height: int = 64
    width: int = 64
    frames: int = 16
    fps: float = 8.0
    steps: tuple[int, int] = (1, 1)
    kinds: tuple[str, ...] = tuple(STRENGTHS)
    objects: int = 3

    def __post_init__(self):
        check_size(self)
        check_words("kinds", self.kinds, STRENGTHS)
        if not 1 <= self.steps[0] <= self.steps[1] <= 4:
            raise ValueError(f"steps: {self.steps!r} is not two rising numbers within 1..4")
        if not 0 <= self.objects <= 4:
            raise ValueError(f"objects: {self.objects!r} is not within 0..4")


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing that was done to a clip; `strength` in the unit that the module says."""

    kind: str
    strength: float

    def __post_init__(self):
        if self.kind not in STRENGTHS:
            raise ValueError(f"kind: {did_you_mean(self.kind, STRENGTHS)}")


def clip(config: DegradeConfig, index: int, seed: int = 0) -> Example:
    """Clip `index` of the endless, reproducible sequence of `seed`; `fields["clean"]` is its twin."""
    rng = generator(seed, index)
    scenery = ScenesConfig(height=config.height, width=config.width, frames=config.frames, objects=config.objects)
    shot = shoot(rng, scenery, np.arange(config.frames))
    steps = chain(config, rng)
    video = shot.pixels
    for step in steps:
        video = degrade(video, step, rng)
    flow, seen = shot.flow()
    fields = {"clean": shot.pixels, "masks": shot.ids, "flow": flow[:-1], "flow_visible": seen[:-1]}
    attributes = {
        "steps": [dataclasses.asdict(step) for step in steps],
        "camera": shot.camera,
        "objects": [f"object {n}" for n in range(1, len(shot.maps))],
    }
    return Example(video, caption(steps), attributes, fields)


def chain(config: DegradeConfig, rng: np.random.Generator) -> tuple[Step, ...]:
    """A random chain, of different kinds as far as there are any."""
    count = int(rng.integers(config.steps[0], config.steps[1] + 1))
    order = [kind for _ in range(-(-count // len(config.kinds))) for kind in rng.permutation(config.kinds)]
    steps = []
    for kind in order[:count]:
        low, high = STRENGTHS[kind]
        strength = float(rng.integers(low, high + 1)) if kind in WHOLE else round(float(rng.uniform(low, high)), 2)
        steps.append(Step(str(kind), strength))
    return tuple(steps)


def degrade(video: np.ndarray, step: Step, rng: np.random.Generator) -> np.ndarray:
    """Does one step to a clip.

    Args:
      video: uint8 [T, H, W, 3].
      step: what.
      rng: of the noise.
    """
    height, width = video.shape[1:3]
    match step.kind:
        case "blur":
            blur = ImageFilter.GaussianBlur(step.strength)
            return np.stack([np.asarray(Image.fromarray(frame).filter(blur)) for frame in video])
        case "downscale":
            small = tuple(max(1, round(side / step.strength)) for side in (width, height))
            frames = (Image.fromarray(frame).resize(small, Image.Resampling.BOX) for frame in video)
            return np.stack([np.asarray(f.resize((width, height), Image.Resampling.BICUBIC)) for f in frames])
        case "noise":
            noise = step.strength * rng.standard_normal(video.shape, dtype=np.float32)
            return (np.clip(video + noise, 0, 255) + 0.5).astype(np.uint8)
        case "compress":
            decoded = media.decode(media.encode_mp4(video, 8, crf=int(step.strength)))
            return decoded[:, :height, :width]
    raise AssertionError(step.kind)


def caption(steps: Sequence[Step | Mapping]) -> str:
    """`a clip blurred by 1.5 pixels, then made noisy by 12 levels`."""
    steps = [step if isinstance(step, Step) else Step(**step) for step in steps]
    return "a clip " + ", then ".join(_PHRASES[step.kind].format(step.strength) for step in steps)
