"""`vdm curate`: a folder of videos becomes a shard set of clips of one size."""

import argparse
import dataclasses
from pathlib import Path

from data_pipelines.curation.basic import HOLD_OUT, CurateSettings, curate
from data_pipelines.shards.manifest import Manifest
from data_pipelines.shards.schema import CODECS
from vdm_jax.cli.counter import Counter
from vdm_jax.cli.options import parse_size, set_figures
from vdm_jax.media.figures import add_json_argument, figures_table, write_figures

EXAMPLE = """
vdm curate videos --out data/clips
vdm curate videos --out data/clips --frames 16 --size 64 --fps 8 --stride 8 --captions required
"""
LISTED = 20  # dropped files named on the terminal; the manifest has them all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    default = CurateSettings()
    size = f"{default.height}x{default.width}"
    parser.add_argument(
        "videos", metavar="VIDEOS", type=Path, help="folder of videos; NAME.txt beside each: its caption"
    )
    parser.add_argument("--out", metavar="SHARDS", type=Path, required=True, help="directory to make")
    parser.add_argument("--frames", metavar="T", type=int, default=default.frames, help="frames per clip (%(default)s)")
    parser.add_argument(
        "--size", metavar="S", type=parse_size, default=parse_size(size), help=f"pixels: 64, or HxW ({size})"
    )
    parser.add_argument(
        "--fps", type=float, default=default.fps, help="resample to that rate; 0 keeps every frame (%(default)s)"
    )
    parser.add_argument(
        "--stride", metavar="N", type=int, default=default.stride, help="frames from clip to clip; 0: no overlap"
    )
    parser.add_argument("--hold-out", default=default.hold_out, help=f"{', '.join(HOLD_OUT)} (%(default)s)")
    parser.add_argument(
        "--val-fraction", metavar="F", type=float, default=default.val_fraction, help="held out (%(default)s)"
    )
    parser.add_argument(
        "--max-clips-per-source", metavar="N", type=int, default=default.max_clips_per_source, help="0 takes all"
    )
    parser.add_argument("--codec", default=default.codec, help=f"{', '.join(CODECS)} (%(default)s)")
    parser.add_argument("--crf", type=int, default=default.crf, help="quality of h264, 0 (best) to 51 (%(default)s)")
    parser.add_argument("--captions", default=default.captions, help="beside, required or none (%(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="which videos are held out (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a shard set that is there")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Curates; returns the exit status."""
    fields = {f.name: getattr(args, f.name) for f in dataclasses.fields(CurateSettings) if hasattr(args, f.name)}
    settings = CurateSettings(**fields, height=args.size[0], width=args.size[1])
    manifest = curate(args.videos, args.out, settings, Counter("curate", "files"), overwrite=args.overwrite)
    figures = set_figures(manifest)
    if args.json:
        write_figures(args.json, figures)
    print(f"written: {args.out}")
    print(figures_table(figures))
    print_dropped(manifest)
    return 0


def print_dropped(manifest: Manifest) -> None:
    """Names the sources that gave no clips, each with its reason."""
    for dropped in manifest.dropped[:LISTED]:
        print(f"dropped {dropped.file}: {dropped.reason} ({dropped.detail})")
    if len(manifest.dropped) > LISTED:
        print(f"... and {len(manifest.dropped) - LISTED} more, listed in manifest.json")
