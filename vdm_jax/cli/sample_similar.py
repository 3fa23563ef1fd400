"""`vdm sample` of a run that was trained here: clips that stay near the picture that is given.

vdm sample RUN --image cat.png --similar 0.8,0.3 --out x.mp4     starts at level 0.8 from the picture, 0.3 of it blurred
vdm sample RUN --image cat.png --match-colours --out x.mp4       colours of every frame are brought to the picture's
"""

import argparse
from typing import Any

import numpy as np

from vdm_jax.config import build, to_dict
from vdm_jax.media.colour import match_colours
from vdm_jax.sampling.noise.similar import FrameSimilarityPrior
from vdm_jax.training.run_config import RunConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    group = parser.add_argument_group("clips like a picture", "of runs trained here, where --image or --video gives it")
    group.add_argument(
        "--similar",
        metavar="T0,P",
        help="start from the picture at level T0 of 1, a share P of it blurred; the less of either, the less moves",
    )
    group.add_argument(
        "--match-colours",
        action="store_true",
        default=None,
        help="give each frame the colours of the first one that is given",
    )


def choices(args: argparse.Namespace, config: RunConfig) -> dict[str, Any]:
    """The fields of `SampleConfig` that these options decide.

    Raises:
      ValueError: values that cannot be, or nothing given to start from.
    """
    nothing = args.image is None and args.video is None
    if nothing and args.match_colours:
        raise ValueError("--match-colours: are those of a frame that is given; --image or --video gives it")
    prior = _prior(args, config.sample.prior)
    if prior is not None and nothing:
        name = "--similar" if args.similar is not None else "sample.prior"
        raise ValueError(f"{name}: clips start from a frame that is given; --image or --video gives it")
    return {} if args.similar is None else {"prior": to_dict(prior)}


def finished(args: argparse.Namespace, clips: np.ndarray, given: list[int]) -> np.ndarray:
    """Clips uint8 `[N, T, H, W, 3]` as they are to be shown; `given` are frames that were."""
    return np.stack([match_colours(clip, given[0]) for clip in clips]) if args.match_colours else clips


def _prior(args: argparse.Namespace, own: FrameSimilarityPrior | None) -> FrameSimilarityPrior | None:
    """That of the command, with what the run's own says beside it; else that of the run."""
    if args.similar is None:
        return own
    words = args.similar.split(",")
    try:
        t0, p = map(float, words)
    except ValueError:
        raise ValueError(f"--similar: {args.similar!r} are not a level and a share, as in 0.8,0.5") from None
    section = {} if own is None else to_dict(own)
    return build(FrameSimilarityPrior, {**section, "t0": t0, "p": p}, "--similar")
