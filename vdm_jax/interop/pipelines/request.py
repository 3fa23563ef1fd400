"""What is asked of a published pipeline, and what it answers with."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from vdm_jax.errors import did_you_mean

_STREAM = 2**32 - 1  # of the draws of conditions; those of clips count from 0


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What is asked for; None is what the published pipeline does when it is not told.

    Attributes:
      prompts: one clip for each.
      negative: what to guide away from.
      image: uint8 `[H, W, 3]`, of any size: the first frame.
      last_image: the same, the last frame.
      video: uint8 `[T, H, W, 3]`, the clip to change.
      control: uint8 `[T, H, W, 3]`, pictures that control each frame (edges, poses ...).
      frames, height, width: of the clips, in pixels.
      steps: of the published scheduler.
      guidance: scale of classifier-free guidance; 1 or less is none.
      strength: how much of the way from noise the clip to change goes again, above 0 to 1.
      fps: of the clips.
      seed: of whatever is drawn.
      options: numbers that only this family has, by name.
    """

    prompts: tuple[str, ...] = ()
    negative: str | None = None
    image: np.ndarray | None = None
    last_image: np.ndarray | None = None
    video: np.ndarray | None = None
    control: np.ndarray | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance: float | None = None
    strength: float | None = None
    fps: float | None = None
    seed: int = 0
    options: Mapping[str, float | None] = dataclasses.field(default_factory=dict)

    @property
    def guides(self) -> bool:
        """Whether there is classifier-free guidance, as published pipelines decide it."""
        return self.guidance is not None and self.guidance > 1.0


INPUTS = ("negative", "image", "last_image", "video", "control", "strength")  # not every pipeline has them


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What a published pipeline does when it is not told; fields as in `Request`."""

    frames: int
    height: int
    width: int
    steps: int
    guidance: float | None
    fps: float
    strength: float | None = None
    options: Mapping[str, float | None] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Draws:
    """Standard normal noise given by the caller, in our layout; None is drawn from the seed.

    Attributes:
      latents: `[N, t, h, w, c]`, what the clips start from (what published pipelines take as `latents`).
      steps: `[K, N, t, h, w, c]`, of solvers that draw.
      condition: what the conditions of a family draw; its shape is said there.
      again: `[R - 1, N, t, h, w, c]`, of a pipeline that makes each clip R times (see `pipeline.Again`).
    """

    latents: np.ndarray | None = None
    steps: np.ndarray | None = None
    condition: np.ndarray | None = None
    again: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Conditions:
    """What a request comes to, on the host; each array `[N, ...]`, or `[1, ...]` where all clips share it.

    Attributes:
      cond: of the network, see `vdm_jax.types`.
      null: unconditional values, as `sampling.guided` takes them; None without guidance.
      start: clean latents `[N, t, h, w, c]` that are noised to the first level; None starts from noise alone.
      given: clean latents of which the frames `given_frames` stay as they are.
      given_frames: bool `[1, t]`.
      cut: prompt -> the end of it that was over the length limit.
    """

    cond: Mapping[str, Any]
    null: Mapping[str, Any] | None = None
    start: np.ndarray | None = None
    given: np.ndarray | None = None
    given_frames: np.ndarray | None = None
    cut: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Sampled:
    """Some clips.

    Attributes:
      prompts: theirs.
      video: float32 `[B, T, H, W, 3]` in [0, 1].
      latents: `[B, t, h, w, c]` in published units, normalised, before the decoder.
      visited: `[K, B, t, h, w, c]`, the latents after each step, if asked for; of all R times if made R times.
    """

    prompts: tuple[str, ...]
    video: np.ndarray
    latents: np.ndarray
    visited: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Generation:
    """What becomes of a request.

    Attributes:
      request: with every default filled in.
      cut: prompt -> the end of it that was over the length limit.
      clips: made as they are asked for, a batch at a time.
    """

    request: Request
    cut: Mapping[str, str]
    clips: Iterator[Sampled]


def filled(request: Request, defaults: Defaults) -> Request:
    """A request with defaults in place of None.

    Raises:
      ValueError: an option that the family does not have; a number that is not positive; no prompt.
    """
    for name in request.options:
        if name not in defaults.options:
            has = f"options: {did_you_mean(name, defaults.options)}" if defaults.options else "it has no options"
            raise ValueError(f"options: {name!r} is not known; {has}")
    values = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
    absent = {name: value for name, value in values.items() if getattr(request, name) is None}
    request = dataclasses.replace(request, **absent, options={**defaults.options, **request.options})
    for name in ("frames", "height", "width", "steps", "fps"):
        if not getattr(request, name) > 0:
            raise ValueError(f"{name}: {getattr(request, name)} must be above 0")
    if request.strength is not None and not 0.0 < request.strength <= 1.0:
        raise ValueError(f"strength: {request.strength} must be above 0 and at most 1")
    if not request.prompts:
        raise ValueError("prompts: none given")
    return request


def check_inputs(request: Request, published: str, takes: frozenset[str], needs: frozenset[str]) -> None:
    """Refuses what a pipeline would ignore, and a lack of what it needs; names are those of `INPUTS`.

    Raises:
      ValueError: names the input.
    """
    for name in INPUTS:
        if getattr(request, name) is not None and name not in takes | needs:
            also = ", ".join(sorted(takes | needs)) or "prompts alone"
            raise ValueError(f"{name}: {published} does not take it (it takes: {also})")
        if getattr(request, name) is None and name in needs:
            raise ValueError(f"{name}: missing; {published} needs it")


def with_video(request: Request, strength: float) -> Request:
    """A request to change a clip, with the frames of it that are asked for, or else all.

    Args:
      request: with a video.
      strength: default.

    Raises:
      ValueError: fewer frames than asked for.
    """
    have = len(request.video)
    frames = have if request.frames is None else request.frames
    if frames > have:
        raise ValueError(f"frames: {frames} asked for, the video has {have}")
    strength = strength if request.strength is None else request.strength
    return dataclasses.replace(request, frames=frames, video=request.video[:frames], strength=strength)


def condition_noise(draws: Draws, request: Request, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal noise of a condition: what was given, or drawn from the seed.

    Raises:
      ValueError: given noise of another shape.
    """
    if draws.condition is None:
        return np.asarray(jax.random.normal(jax.random.fold_in(jax.random.key(request.seed), _STREAM), shape))
    if draws.condition.shape != shape:
        raise ValueError(f"condition: noise of shape {draws.condition.shape}, expected {shape}")
    return draws.condition
