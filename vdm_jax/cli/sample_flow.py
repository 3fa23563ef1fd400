"""`vdm sample --flow`: clips that start from noise which moves along a flow (`sampling.noise.warped`).

The flow comes from a file, from a clip of a world, which knows it exactly, or from a driving video, of which it is
estimated (`perception.flow`).  It may be on any grid of the clip's aspect; its values are pixels of that grid.
"""

import argparse
import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines.worlds.known import WORLDS
from vdm_jax.config import to_dict
from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.geometry import check_flow
from vdm_jax.geometry.flow import warn_if_still
from vdm_jax.interop.pipelines.pipeline import Pipeline
from vdm_jax.interop.pipelines.request import Draws, Request
from vdm_jax.media.video import decode
from vdm_jax.perception.flow import LucasKanade
from vdm_jax.sampling.noise import INDEPENDENT, Precomputed, Warped, draw, noise_from
from vdm_jax.sampling.noise.warping import check_grid

DEGRADATION = 0.5  # as published, where neither the command nor the config says
VIDEOS = (".mp4", ".gif", ".mov", ".webm", ".mkv", ".avi")


@dataclasses.dataclass(frozen=True)
class Followed:
    """A flow that clips are to follow.

    Attributes:
      source: of their noise.
      flow: `[stride (T - 1), h, w, 2]`.
    """

    source: Warped
    flow: np.ndarray

    @property
    def choices(self) -> dict[str, Any]:
        """The fields of `SampleConfig` that this decides."""
        return {"noise": {"kind": "warped", **to_dict(self.source)}}

    def read(self, count: int) -> dict[str, np.ndarray]:
        """What the noise of so many clips reads."""
        return {self.source.key: np.broadcast_to(self.flow, (count, *self.flow.shape))}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--flow",
        metavar="FLOW",
        help="what moves how: a file.npy of float [T - 1, H, W, 2], forward, (dx, dy) in pixels; a clip of a world,"
        " WORLD:INDEX; or a driving video",
    )
    parser.add_argument(
        "--degradation", metavar="G", type=float, help=f"0 follows the flow strictly, 1 not at all ({DEGRADATION:g})"
    )


def followed(args: argparse.Namespace, config: Mapping[str, Any]) -> Followed | None:
    """What the clips of a run that was trained here follow; None where nothing is asked for.

    Args:
      args: of the command.
      config: the run's `config.json`.

    Raises:
      ValueError: a flow that cannot be, or none where the run needs one.
    """
    noises = [(config.get(section) or {}).get("noise") for section in ("sample", "objective")]
    kinds = [noise["kind"] if noise else "independent" for noise in noises]
    if args.flow is None:
        if kinds[0] == "warped":
            raise ValueError(f"--flow: missing; clips of {args.run} start from noise that follows one (sample.noise)")
        _needs_flow(args)
        return None
    if kinds[1] not in ("warped", "precomputed"):
        warnings.warn(f"--flow: {args.run} was never trained on warped noise and may not follow it", stacklevel=2)
    section = next((noise for noise, kind in zip(noises, kinds) if kind == "warped"), {"kind": "warped"})
    data = config["data"]
    frames = args.frames or (config.get("sample") or {}).get("frames") or data["frames"]
    return _opened(args, noise_from(_degraded(args, section), "--flow"), frames, (data["height"], data["width"]))


def draws(args: argparse.Namespace, pipeline: Pipeline, request: Request) -> Draws | None:
    """The noise of clips of a published pipeline; None where nothing is asked for.

    Args:
      args: of the command.
      pipeline: that makes them.
      request: what is asked of it.

    Raises:
      ValueError: a flow that cannot be.
    """
    if args.flow is None:
        _needs_flow(args)
        return None
    completed, count = pipeline.complete(request), len(request.prompts)
    if pipeline.noise(completed) != INDEPENDENT:
        raise ValueError(
            "--flow: is what noise follows, and FreeNoise would shuffle it (--option free_noise_shuffle=0)"
        )
    shape = pipeline.latent_shape(completed)
    if (solver := pipeline.plan(completed).solver).stochastic:
        name = type(solver).__name__
        warnings.warn(f"--flow: {name} draws new noise in every step, which washes the motion out", stacklevel=2)
    flow = _fields(args, completed.frames)
    stride = max(1, (completed.frames - 1) // max(1, shape[0] - 1))  # of pixels; or of the latents themselves
    stride = 1 if len(flow) == shape[0] - 1 else stride
    source = noise_from(_degraded(args, {"kind": "warped", "stride": stride}), "--flow")
    followed = _checked(flow, source, shape[0], shape[1:3])
    keys = jax.random.split(jax.random.fold_in(jax.random.key(args.seed), 0xF10), count)
    noise = jax.jit(lambda keys, read: draw(source, keys, np.zeros((count, *shape), np.float32), read))
    return Draws(latents=np.asarray(noise(keys, followed.read(count))))


def _needs_flow(args: argparse.Namespace) -> None:
    if args.degradation is not None:
        raise ValueError("--degradation: says how closely --flow is followed, and there is none")


def _degraded(args: argparse.Namespace, section: Mapping[str, Any]) -> dict[str, Any]:
    """The section with a degradation for sampling: that of the command, of the section, or the published one."""
    asked = section.get("degradation") if args.degradation is None else args.degradation
    return {**section, "degradation": DEGRADATION if asked is None else asked}


def _opened(args: argparse.Namespace, source: Warped, frames: int, size: tuple[int, int]) -> Followed:
    return _checked(_fields(args, source.flow_frames(frames) + 1), source, frames, size)


def _checked(flow: np.ndarray, source: Warped | Precomputed, frames: int, size: tuple[int, int]) -> Followed:
    flow = check_flow(flow, source.flow_frames(frames) + 1, name="--flow")
    try:
        check_grid(flow.shape, size)
    except ValueError as error:
        raise ValueError(f"--{error}") from None
    warn_if_still(flow, (size[0] * source.scale, size[1] * source.scale), "--flow")
    return Followed(source, flow)


def _fields(args: argparse.Namespace, frames: int | None) -> np.ndarray:
    """The flow as it was asked for: of a world or a video that of its first `frames` frames."""
    text = args.flow
    if Path(text).suffix.lower() == ".npy":
        if not Path(text).is_file():
            raise ValueError(f"--flow: no file {text}")
        try:
            return np.load(text, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise RunError(f"--flow: {text} is not an array ({error})") from None
    if Path(text).suffix.lower() in VIDEOS:
        if not Path(text).is_file():
            raise ValueError(f"--flow: no file {text}")
        video = decode(Path(text), frames=frames).astype(np.float32) / 127.5 - 1
        return np.asarray(jax.jit(LucasKanade())(video))
    return _of_world(text, frames)


def _of_world(text: str, frames: int | None) -> np.ndarray:
    name, _, index = text.partition(":")
    if name not in WORLDS or not index.isdigit():
        known = did_you_mean(name, WORLDS) if name not in WORLDS else f"{text!r} has no index, as in {name}:3"
        raise ValueError(f"--flow: neither a file.npy, a video, nor WORLD:INDEX: {known}")
    world = WORLDS[name]
    config = world.config() if frames is None else world.config(frames=frames)
    fields = world.clip(config, int(index), 0).fields
    if "flow" not in fields:
        raise ValueError(f"--flow: the world {name} knows no flow")
    return fields["flow"]
