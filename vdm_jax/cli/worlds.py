"""`vdm worlds`: lists, shows, checks and writes procedural worlds, of which captions, flow, masks ... are exact."""

import argparse
import ast
import dataclasses
import typing
from pathlib import Path
from typing import Any

from data_pipelines.shards.schema import CODECS
from data_pipelines.worlds.known import WORLDS
from data_pipelines.worlds.panels import panels
from data_pipelines.worlds.world import World
from data_pipelines.worlds.write import HELD_OUT, write_world
from vdm_jax import config as configs
from vdm_jax.cli.counter import Counter
from vdm_jax.cli.options import parse_size, set_figures
from vdm_jax.errors import did_you_mean
from vdm_jax.media.figures import Figure, add_json_argument, figures_table, write_figures
from vdm_jax.media.grid import strip_sheet, write_png

EXAMPLE = """
vdm worlds --list
vdm worlds planes --show
vdm worlds sprites --show sprites.png --size 64 --frames 16
vdm worlds sprites --check
vdm worlds sprites --out data/sprites --clips 4096 --size 16 --frames 8 --config.objects=2
"""
CHECKED = 256
TALL, CAPTION_LINES = 72, 3  # of the contact sheet: pixels of a frame, and lines of a caption at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.set_defaults(overrides=())
    parser.add_argument("world", nargs="?", help=f"which world: {', '.join(WORLDS)}")
    parser.add_argument("--list", action="store_true", help="list the worlds and stop; with a world, its fields")
    parser.add_argument(
        "--show",
        metavar="PNG",
        nargs="?",
        const="",
        help="write a contact sheet with everything that is known (WORLD.png)",
    )
    parser.add_argument("--check", action="store_true", help=f"measure the world's oracle on {CHECKED} clips")
    parser.add_argument("--out", metavar="SHARDS", type=Path, help="directory to make")
    parser.add_argument("--clips", metavar="N", type=int, default=4096, help="training clips (%(default)s)")
    parser.add_argument("--val-clips", metavar="N", type=int, default=64, help="validation clips (%(default)s)")
    parser.add_argument(
        "--held-out",
        metavar="F",
        type=float,
        help=f"share of captions kept for validation ({HELD_OUT} in worlds that can keep some back)",
    )
    parser.add_argument("--size", metavar="S", type=parse_size, help="pixels: 16, or 16x24 (H x W)")
    parser.add_argument("--frames", metavar="T", type=int, help="frames")
    parser.add_argument("--fps", type=float, help="frames per second")
    parser.add_argument(
        "--fields",
        metavar="F",
        nargs="*",
        help="which exact fields to store beside the pixels (all; --fields alone stores none)",
    )
    parser.add_argument("--codec", default="raw", help=f"how pixels are stored: {', '.join(CODECS)} (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace a shard set that is there")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Lists, shows, checks or writes a world; returns the exit status, 1 if its oracle misses a bar."""
    if args.list and args.world is None:
        width = max(map(len, WORLDS))
        print("\n".join(f"{name.ljust(width)}  {world.summary}" for name, world in WORLDS.items()))
        return 0
    if args.world not in WORLDS:
        missing = args.world is None
        raise ValueError(
            "world: name one of " + ", ".join(WORLDS) if missing else f"world: {did_you_mean(args.world, WORLDS)}"
        )
    if not (args.list or args.check or args.out or args.show is not None):
        raise ValueError("worlds: nothing to do; give --out SHARDS, --show PNG, --check or --list")
    if args.seed < 0:
        raise ValueError(f"seed: {args.seed} is negative")
    world = WORLDS[args.world]
    config = config_of(world, args)
    sheet = None if args.show is None else sheet_path(args.show or f"{world.name}.png")
    if args.list:
        print(describe(world, config))
    if sheet is not None:
        show(world, config, args.seed, sheet)
        print(f"contact sheet: {sheet}")
    figures = world.check(config, CHECKED, args.seed) if args.check else []
    if args.out is not None:
        figures += write(config, args)
    if args.json:
        write_figures(args.json, figures)
    if figures:
        print(figures_table(figures))
    return 0 if all(figure.ok is not False for figure in figures) else 1


def config_of(world: World, args: argparse.Namespace) -> Any:
    """The world's config as the command line says it.

    Raises:
      ValueError: an unknown field, or a value that cannot stand there.
    """
    said: dict[str, Any] = {}
    lists = {name for name, kind in typing.get_type_hints(world.config).items() if typing.get_origin(kind) is tuple}
    for field, text in args.overrides:
        try:
            said[field] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            said[field] = tuple(text.split(",")) if field in lists else text  # plain words
        if field in lists and not isinstance(said[field], tuple | list):
            said[field] = (said[field],)  # one alone
    if args.size is not None:
        said["height"], said["width"] = args.size
    said |= {name: getattr(args, name) for name in ("frames", "fps") if getattr(args, name) is not None}
    return configs.build(world.config, said, "config")


def describe(world: World, config: Any) -> str:
    """Fields of the config with their values, and what is known about each clip."""
    example = world.clip(config, 0, 0)
    lines = [f"{world.name}: {world.summary}", "config:"]
    lines += [f"  {f.name} = {getattr(config, f.name)!r}" for f in dataclasses.fields(config)]
    lines += ["fields:"]
    lines += [f"  {name} {value.dtype} {list(value.shape)}" for name, value in example.fields.items()]
    return "\n".join([*lines, f"caption: {example.caption}", f"attributes: {', '.join(example.attributes)}"])


def sheet_path(text: str) -> Path:
    """Where a contact sheet is to lie.

    Raises:
      ValueError: it is no PNG, or its folder is not there.
    """
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise ValueError(f"show: {text!r} is no name of a PNG, as {path.stem or 'sheet'}.png is")
    if not path.parent.is_dir():
        raise ValueError(f"show: {text}: there is no folder {path.parent}")
    return path


def show(world: World, config: Any, seed: int, path: Path) -> None:
    """Writes a contact sheet: clips spread over the world's first ones, with every field that can be drawn."""
    first = panels(world.clip(config, 0, seed))
    count = 16 if len(first) == 1 else 8 if len(first) < 4 else 6
    examples = [world.clip(config, 17 * i, seed) for i in range(count)]
    cells = [panels(example) for example in examples]
    captions = [example.caption for example in examples]
    write_png(strip_sheet(cells, captions, height=TALL, columns=2, lines=CAPTION_LINES), path)


def write(config: Any, args: argparse.Namespace) -> list[Figure]:
    """Writes the shard set, says where it is, and returns what is in it."""
    manifest = write_world(
        args.out,
        config,
        args.clips,
        val_clips=args.val_clips,
        held_out=args.held_out,
        seed=args.seed,
        codec=args.codec,
        fields=args.fields,
        overwrite=args.overwrite,
        progress=Counter("worlds", "clips"),
    )
    print(f"written: {args.out}")
    return set_figures(manifest)
