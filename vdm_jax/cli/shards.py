"""`vdm shards`: checks shard sets, and makes new ones of them."""

import argparse
from pathlib import Path

from data_pipelines.shards.manifest import Manifest
from data_pipelines.shards.reader import verify
from data_pipelines.shards.rewrite import head, merge, split
from data_pipelines.shards.webdataset import export_webdataset
from vdm_jax.cli.counter import Counter
from vdm_jax.cli.options import set_figures
from vdm_jax.errors import RunError
from vdm_jax.media.figures import Figure, add_json_argument, figures_table, write_figures

EXAMPLE = """
vdm shards verify data/clips data/more
vdm shards merge data/clips data/more --out data/both
vdm shards head data/clips --clips 100 --out data/few
vdm shards split data/clips --parts 4 --out data/quarters
vdm shards export-webdataset data/clips --out data/tars
"""
MEGABYTES, CLIPS = 256, 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the actions and their options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    texts = {
        "verify": "read every byte and compare it with its digest",
        "merge": "several sets as one; clips keep their split",
        "head": "the first clips of each split",
        "split": "one set in parts of equal size",
        "export-webdataset": "write WebDataset tars",
    }
    made = {
        name: actions.add_parser(name, help=text, description=text, allow_abbrev=False) for name, text in texts.items()
    }
    for name, action in made.items():
        several = name in ("verify", "merge")
        action.add_argument("shards", metavar="SHARDS", type=Path, nargs="+" if several else 1, help="a shard set")
        if name != "verify":
            action.add_argument("--out", metavar="DIR", type=Path, required=True, help="directory to make")
            action.add_argument(
                "--shard-mb", metavar="MB", type=float, default=MEGABYTES, help="size of a file (%(default)s)"
            )
        add_json_argument(action)
    for name in ("merge", "head"):
        made[name].add_argument("--overwrite", action="store_true", help="replace a shard set that is there")
    made["head"].add_argument("--clips", metavar="N", type=int, default=CLIPS, help="of each split (%(default)s)")
    made["split"].add_argument("--parts", metavar="N", type=int, required=True, help="how many sets to make")


def run(args: argparse.Namespace) -> int:
    """Does one action; returns the exit status, 1 if a set is damaged."""
    if args.action == "verify":
        figures = _verify(args.shards)
    elif args.shard_mb <= 0:
        raise ValueError(f"shard_mb: {args.shard_mb:g} is not positive")
    else:
        figures = _write(args)
        print(f"written: {args.out}")
    if args.json:
        write_figures(args.json, figures)
    print(figures_table(figures))
    return 0 if all(figure.ok is not False for figure in figures) else 1


def _verify(directories: list[Path]) -> list[Figure]:
    figures, seen = [], set()
    for directory in directories:
        if directory in seen:
            raise ValueError(f"shards: {directory} is given twice")
        seen.add(directory)
        prefix = f"{directory}/" if len(directories) > 1 else ""
        try:
            manifest = verify(directory, Counter("verify", "files"))
        except RunError as error:
            print(f"damaged: {error}")
            figures.append(Figure(f"{prefix}intact", False, ok=False))
            continue
        figures += [
            Figure(f"{prefix}{f.name}", f.value, f.unit) for f in set_figures(manifest) if f.name.endswith("_clips")
        ]
        figures += [Figure(f"{prefix}digest", manifest.digest()), Figure(f"{prefix}intact", True, ok=True)]
    return figures


def _write(args: argparse.Namespace) -> list[Figure]:
    shard_bytes, counter = round(args.shard_mb * 1e6), Counter(args.action, "clips")
    if args.action == "export-webdataset":
        index = export_webdataset(args.shards[0], args.out, counter, shard_bytes=shard_bytes)
        return [Figure("clips", index["clips"]), Figure("tars", len(index["tars"])), Figure("digest", index["digest"])]
    if args.action == "split":
        parts = split(args.shards[0], args.out, args.parts, counter, shard_bytes=shard_bytes)
        return [Figure(f"{k:05d}/{f.name}", f.value) for k, part in enumerate(parts) for f in _counts(part)]
    options = {"overwrite": args.overwrite, "shard_bytes": shard_bytes}
    if args.action == "merge":
        return set_figures(merge(args.shards, args.out, counter, **options))
    return set_figures(head(args.shards[0], args.out, args.clips, counter, **options))


def _counts(manifest: Manifest) -> list[Figure]:
    return [f for f in set_figures(manifest) if f.name.endswith("_clips") or f.name == "digest"]
