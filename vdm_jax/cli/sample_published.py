"""`vdm sample` of an imported run: the pipeline that was published with its weights."""

import argparse
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image, UnidentifiedImageError

from vdm_jax import sharding
from vdm_jax.cli import sample_flow
from vdm_jax.cli.clip_files import check_out, write_clips
from vdm_jax.errors import RunError
from vdm_jax.interop.pipelines.families import open_pipeline
from vdm_jax.interop.pipelines.pipeline import Pipeline, generate
from vdm_jax.interop.pipelines.request import Generation, Request
from vdm_jax.media.grid import to_uint8
from vdm_jax.media.video import decode
from vdm_jax.sharding import MeshConfig, make_mesh

OpenTrained = Callable[[Mesh | None], Pipeline]
AS_IMPORTED = ("solver", "similar", "match_colours")
TRAINED_ONLY = (*AS_IMPORTED, "step", "weights")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_NUMBERS = ("frames", "height", "width", "steps", "guidance", "strength", "fps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options that only these runs have."""
    group = parser.add_argument_group("imported runs", "what is not said is done as the published pipeline does it")
    group.add_argument("--negative", metavar="TEXT", help="what not to show")
    group.add_argument("--image", metavar="FILE", type=Path, help="the first frame")
    group.add_argument("--last-image", metavar="FILE", type=Path, help="the last frame")
    group.add_argument("--video", metavar="FILE", type=Path, help="a clip to change")
    group.add_argument("--control", metavar="FILE", type=Path, help="a clip, or a picture, that controls each frame")
    for name in ("frames", "height", "width"):
        group.add_argument(f"--{name}", metavar="N", type=int, help="of the clips")
    group.add_argument("--strength", metavar="S", type=float, help="how much of the clip changes, 0 to 1")
    group.add_argument(
        "--option", metavar="NAME=X", action="append", default=[], help="a number that only this pipeline has"
    )


def given(args: argparse.Namespace) -> list[str]:
    """Those of these options that were given."""
    names = ("negative", "image", "last_image", "video", "control", "frames", "height", "width", "strength", "option")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) not in (None, [])]


def run(
    args: argparse.Namespace, prompts: list[str], mesh: MeshConfig | None, trained: OpenTrained | None = None
) -> int:
    """Samples and writes; returns the exit status.

    Args:
      args, prompts, mesh: of the command.
      trained: of a run that was trained here from an import, opens the pipeline of that import with its weights.
    """
    for name in TRAINED_ONLY if trained is None else AS_IMPORTED:
        if getattr(args, name) is not None:
            why = "was imported, not trained here" if trained is None else "is sampled as the import it started from"
            raise ValueError(f"--{name.replace('_', '-')}: {args.run} {why}, and has no such choice")
    with sharding.joined():
        placed = _mesh(mesh)
        pipeline = open_pipeline(args.run, placed) if trained is None else trained(placed)
        wanted = _wanted(args, prompts, pipeline)
        check_out(args.out, len(wanted))
        request = _request(args, wanted)
        made = generate(pipeline, request, draws=sample_flow.draws(args, pipeline, request))
        if jax.process_index() == 0:
            _say_cut(made)
            for path in write_clips(args.out, _clips(made), made.request.fps):
                print(path)
        else:  # all processes take part in every clip
            for _ in made.clips:
                pass
    return 0


def _mesh(config: MeshConfig | None):
    if config is None and jax.process_count() == 1:
        return None
    return make_mesh(config or MeshConfig())


def _wanted(args: argparse.Namespace, prompts: list[str], pipeline: Pipeline) -> tuple[str, ...]:
    reads = "text_encoder" in pipeline.opened.parts
    if reads and not prompts:
        raise ValueError(f"--prompt: missing; {pipeline.opened.published} needs one")
    if not reads and prompts:
        raise ValueError(f"--prompt: {pipeline.opened.published} reads none; leave it out")
    return tuple(prompt for prompt in prompts or [""] for _ in range(args.count))


def _request(args: argparse.Namespace, prompts: tuple[str, ...]) -> Request:
    pictures = {
        name: read_picture(f"--{name.replace('_', '-')}", getattr(args, name)) for name in ("image", "last_image")
    }
    clips = {name: read_clip(f"--{name}", getattr(args, name), args.frames) for name in ("video", "control")}
    numbers = {name: getattr(args, name) for name in _NUMBERS}
    options = dict(map(_option, args.option))
    return Request(prompts, args.negative, **pictures, **clips, **numbers, seed=args.seed, options=options)


def _option(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"--option: {text!r} is not a name and a number, as in guidance_2=3.0") from None


def read_picture(option: str, path: Path | None) -> np.ndarray | None:
    """uint8 `[H, W, 3]`."""
    if path is None:
        return None
    if not path.is_file():
        raise ValueError(f"{option}: no file {path}")
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError(f"{option}: {path} is not a picture") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error}") from None


def read_clip(option: str, path: Path | None, frames: int | None) -> np.ndarray | None:
    """uint8 `[T, H, W, 3]`, of `frames` and no more where they are said; of a picture one."""
    if path is None:
        return None
    if not path.is_file():
        raise ValueError(f"{option}: no file {path}")
    if path.suffix.lower() in _PICTURES:
        return read_picture(option, path)[None]
    return decode(path, frames=frames)


def _say_cut(made: Generation) -> None:
    for prompt, end in made.cut.items():
        said = textwrap.shorten(prompt, 60, placeholder=" ...")
        print(f"prompt {said!r} is over the length limit; left out: {end.strip()!r}", file=sys.stderr)


def _clips(made: Generation):
    for batch in made.clips:
        for prompt, video in zip(batch.prompts, batch.video):
            yield prompt, to_uint8(video * 2.0 - 1.0)
