"""`vdm worlds`: renders a procedural world, whose captions and labels are exact, into a shard set."""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from data_pipelines.shards.schema import CODECS
from data_pipelines.worlds import sprites
from data_pipelines.worlds.sprites import SpritesConfig
from data_pipelines.worlds.write import write_world
from vdm_jax.cli.counter import Counter
from vdm_jax.cli.options import parse_size, set_figures
from vdm_jax.errors import did_you_mean
from vdm_jax.media.figures import add_json_argument, figures_table, write_figures
from vdm_jax.media.grid import contact_sheet, write_png

EXAMPLE = """
vdm worlds --list
vdm worlds sprites --show sprites.png
vdm worlds sprites --out data/sprites --clips 4096 --size 16 --frames 8
"""
WORLDS = {"sprites": "coloured shapes that move in straight lines; captions such as 'a red square moves left quickly'"}
SHOWN = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    default = SpritesConfig()
    parser.add_argument("world", nargs="?", help=f"which world: {', '.join(WORLDS)}")
    parser.add_argument("--list", action="store_true", help="list the worlds and stop")
    parser.add_argument("--show", metavar="PNG", type=Path, help=f"write a contact sheet of {SHOWN} clips")
    parser.add_argument("--out", metavar="SHARDS", type=Path, help="directory to make")
    parser.add_argument("--clips", metavar="N", type=int, default=4096, help="training clips (%(default)s)")
    parser.add_argument("--val-clips", metavar="N", type=int, default=64, help="validation clips (%(default)s)")
    parser.add_argument(
        "--held-out", metavar="F", type=float, default=0.25, help="share of captions kept for validation (%(default)s)"
    )
    parser.add_argument("--size", metavar="S", type=parse_size, default=(16, 16), help="pixels: 16, or 16x24 (H x W)")
    parser.add_argument("--frames", metavar="T", type=int, default=default.frames, help="frames (%(default)s)")
    parser.add_argument("--fps", type=float, default=default.fps, help="frames per second (%(default)s)")
    parser.add_argument("--objects", metavar="N", type=int, default=1, help="sprites per clip (%(default)s)")
    parser.add_argument(
        "--shapes", metavar="S", nargs="+", default=default.shapes, help=f"({' '.join(default.shapes)})"
    )
    parser.add_argument(
        "--colours", metavar="C", nargs="+", default=default.colours, help=f"({' '.join(default.colours)})"
    )
    parser.add_argument("--codec", default="raw", help=f"how pixels are stored: {', '.join(CODECS)} (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace a shard set that is there")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Lists, shows or writes a world; returns the exit status."""
    if args.list:
        print("\n".join(f"{name}  {text}" for name, text in WORLDS.items()))
        return 0
    if args.world not in WORLDS:
        missing = args.world is None
        raise ValueError(
            "world: name one, e.g. " + " or ".join(WORLDS) if missing else f"world: {did_you_mean(args.world, WORLDS)}"
        )
    if args.out is None and args.show is None:
        raise ValueError("worlds: nothing to do; give --out SHARDS, --show PNG or --list")
    names = {field.name for field in dataclasses.fields(SpritesConfig)} & set(vars(args)) - {"size"}
    fields = {name: getattr(args, name) for name in names}
    fields |= {"shapes": tuple(args.shapes), "colours": tuple(args.colours)}
    config = SpritesConfig(height=args.size[0], width=args.size[1], **fields)
    if args.show is not None:
        show(config, args.seed, args.show)
        print(f"contact sheet: {args.show}")
    if args.out is not None:
        write(config, args)
    return 0


def show(config: SpritesConfig, seed: int, path: Path) -> None:
    """Writes a contact sheet of clips whose captions are drawn from all there are."""
    combos = sprites.combinations(config)
    combos = [combos[k] for k in np.random.default_rng(seed).permutation(len(combos))]
    clips, captions = [], []
    for i in range(SHOWN):
        pixels, shown = sprites.clip(i, config, combos, seed)
        clips.append(pixels)
        captions.append(sprites.caption(shown))
    write_png(contact_sheet(clips, captions, height=64, columns=2), path)


def write(config: SpritesConfig, args: argparse.Namespace) -> None:
    """Writes the shard set and says what is in it."""
    manifest = write_world(
        args.out,
        config,
        args.clips,
        val_clips=args.val_clips,
        held_out=args.held_out,
        seed=args.seed,
        codec=args.codec,
        overwrite=args.overwrite,
        progress=Counter("worlds", "clips"),
    )
    figures = set_figures(manifest)
    if args.json:
        write_figures(args.json, figures)
    print(f"written: {args.out}")
    print(figures_table(figures))
