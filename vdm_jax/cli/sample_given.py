"""`vdm sample` of a run that was trained here: frames that are given, and videos longer than its clips.

vdm sample RUN --image cat.png --out x.mp4                       the first frame is given
vdm sample RUN --video clip.mp4 --given 0,7 --out x.mp4          frames 0 and 7 are those of the video
vdm sample RUN --frames 40 --overlap 4 --out x.mp4               chunk by chunk, each begins with the 4 before it
"""

import argparse
import warnings
from collections.abc import Callable

import numpy as np

from vdm_jax.cli.sample_published import read_clip, read_picture
from vdm_jax.media.window import resize
from vdm_jax.sampling import Known
from vdm_jax.sampling.chunks import chunks
from vdm_jax.training.run_config import RunConfig

Generate = Callable[[int, Known | None], np.ndarray]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    group = parser.add_argument_group("runs trained here", "frames that are given, and long videos")
    group.add_argument("--given", metavar="I,J,...", help="which frames --video (or --image; default 0) gives, from 0")
    group.add_argument("--overlap", metavar="M", type=int, help="make --frames chunk by chunk, M frames of each again")


def check(args: argparse.Namespace, config: RunConfig) -> None:
    """Says what can be said before weights are read.

    Raises:
      ValueError: options that contradict each other or the run.
    """
    frames, channels = _frames(args, config), config.clip_shape[-1]
    if args.frames is not None and args.frames < 1:
        raise ValueError(f"--frames: {args.frames} must be 1 or more")
    if args.image is not None and args.video is not None:
        raise ValueError("--image: the frames come from it or from --video, not from both")
    source = "--image" if args.image is not None else "--video" if args.video is not None else None
    if args.given is not None and source is None:
        raise ValueError(f"--given: {args.given} are frames of --video (or --image), and neither is there")
    if args.video is not None and args.given is None:
        raise ValueError(f"--given: missing; say which frames of {args.video} are given, as in --given 0,{frames - 1}")
    if source is not None and channels != 3:
        raise ValueError(
            f"{source}: {args.run} makes clips of {channels} channels, no pixels that a picture could give"
        )
    if args.overlap is not None:
        if args.frames is None:
            raise ValueError(f"--overlap: {args.overlap} needs --frames, the length of the whole video")
        if not 1 <= args.overlap < frames:
            raise ValueError(f"--overlap: {args.overlap} must be at least 1 and below the {frames} frames of a clip")
    numbers(args, frames)
    told = config.process.times.independent > 0.0 or "known" in config.networks.model.reads
    tasks = getattr(config.objective, "masks", ())
    if (source is not None or args.overlap is not None) and not (told or tasks):
        warnings.warn(
            f"{args.run}: not trained with independent times (process.times.independent is 0), nor on tasks"
            " (objective.masks is empty), so the clips may have little to do with the frames that are given",
            stacklevel=2,
        )


def _frames(args: argparse.Namespace, config: RunConfig) -> int:
    """Of one clip: as many as are asked for, unless the video is made of several."""
    asked = args.frames if args.overlap is None else None
    return asked or config.sample.frames or config.clip_shape[0]


def numbers(args: argparse.Namespace, frames: int) -> list[int]:
    """The frames that are given, of a clip of so many.

    Raises:
      ValueError: no number, one outside of the clip, or all of them.
    """
    if args.image is None and args.video is None:
        return []
    words = (args.given or "0").split(",")
    if not all(word.strip().isdigit() for word in words):
        raise ValueError(f"--given: {args.given!r} are not numbers of frames, as in 0,7")
    found = sorted({int(word) for word in words})
    if found[-1] >= frames:
        raise ValueError(f"--given: frame {found[-1]} is not in a clip of {frames} frames (0 to {frames - 1})")
    if len(found) == frames:
        raise ValueError(f"--given: all {frames} frames are given, nothing is left to generate")
    if args.image is not None and len(found) > 1:
        raise ValueError(f"--given: {args.given} are {len(found)} frames, and --image is one")
    return found


def read(args: argparse.Namespace, clip_shape: tuple[int, int, int, int]) -> Known | None:
    """What is given of every clip, `mask [1, T]` and `value [1, T, H, W, 3]`; None is nothing.

    Raises:
      ValueError: a file that is not there or holds too few frames, or has another aspect ratio than the clips.
    """
    frames, height, width, _ = clip_shape
    if not (given := numbers(args, frames)):
        return None
    if args.image is not None:
        option, pictures = "--image", read_picture("--image", args.image)[None]
    else:
        option, pictures = "--video", read_clip("--video", args.video, given[-1] + 1)
        if len(pictures) <= given[-1]:
            raise ValueError(f"--given: {args.video} has {len(pictures)} frames, there is no frame {given[-1]}")
        pictures = pictures[given]
    h, w = pictures.shape[1:3]
    if h * width != w * height:
        raise ValueError(
            f"{option}: is {h}x{w}, which has another aspect ratio than the clips of the run, {height}x{width}"
        )
    value = np.zeros((1, *clip_shape), np.float32)
    value[0, given] = resize(pictures, height, width).astype(np.float32) / 127.5 - 1.0
    return Known(np.isin(np.arange(frames), given)[None], value)


def for_batch(known: Known | None, size: int) -> Known | None:
    """The same given frames for `size` clips."""
    return None if known is None else Known(np.repeat(known.mask, size, 0), np.repeat(known.value, size, 0))


def long_clips(generate: Generate, known: Known | None, frames: int, chunk: int, overlap: int) -> np.ndarray:
    """Videos `[N, frames, H, W, C]` of chunks.

    Args:
      generate: (number of the chunk, what is given of it) -> `[N, chunk, H, W, C]`.
      known: what is given of the first chunk.
      frames, chunk, overlap: see `sampling.chunks`.
    """

    def make(number: int, last: np.ndarray | None) -> np.ndarray:
        if last is None:
            return np.asarray(generate(number, known))
        value = np.concatenate([last, np.zeros((len(last), chunk - overlap, *last.shape[2:]), np.float32)], axis=1)
        mask = np.broadcast_to(np.arange(chunk) < overlap, value.shape[:2])
        return np.asarray(generate(number, Known(mask, value)))

    return np.concatenate(list(chunks(make, frames, chunk, overlap)), axis=1)


def taken(name: str) -> bool:
    """Whether runs that were trained here take an option of imported ones."""
    return name in ("--image", "--video", "--frames")
