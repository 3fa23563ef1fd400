"""`vdm curate`: footage becomes a shard set of clips of one size."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.curation.curate import Curated, curate
from data_pipelines.curation.examine import Spent
from data_pipelines.curation.filter_report import source_pictures, write_filter_report
from data_pipelines.curation.filters import HOLD_OUT, Decision
from data_pipelines.curation.graph import DIRECT, RUNNERS, Where
from data_pipelines.curation.inputs.found import IMAGES, ROLES, InputSettings
from data_pipelines.curation.inputs.opening import open_inputs
from data_pipelines.curation.scores.known import choose_scorers
from data_pipelines.curation.settings import CurateSettings, Recipe
from data_pipelines.shards.manifest import Dropped
from data_pipelines.shards.schema import CODECS
from vdm_jax.cli.counter import Counter
from vdm_jax.cli.options import parse_size, set_figures
from vdm_jax.media.figures import Figure, add_json_argument, figures_table, write_figures

EXAMPLE = """
vdm curate videos --out data/clips
vdm curate videos --out data/clips --frames 16 --size 64 --fps 8 --stride 8 --captions required
vdm curate videos more.tar table.csv --out data/clips --filter "motion>=0.01" --filter "bars<0.05" --dry-run
vdm curate s3://bucket/videos --out data/clips --work shared/work --runner FlinkRunner -- --flink_master=host:8081
"""
LISTED = 20  # dropped files named on the terminal; the manifest has them all
UNMATCHED = ("sources_without_caption", "captions_without_source")
_HOUR = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="folders, videos, globs, WebDataset tars, tables of paths, LeRobot folders, URLs; NAME.txt beside a "
        "video: its caption; after -- options of Beam",
    )
    parser.add_argument("--out", metavar="SHARDS", type=Path, required=True, help="directory to make")
    _clip_arguments(parser)
    _selection_arguments(parser)
    parser.add_argument("--images", default="auto", help=f"pictures as clips of one frame: {', '.join(IMAGES)}")
    parser.add_argument("--root", default="", help="where relative paths of a table start; beside the table")
    parser.add_argument(
        "--column", metavar="ROLE=NAME", action="append", default=[], help=f"of a table; roles: {', '.join(ROLES)}"
    )
    parser.add_argument("--work", metavar="DIR", type=Path, help="where results are kept (SHARDS.work)")
    parser.add_argument("--runner", default=DIRECT, help=f"of Apache Beam: {', '.join(RUNNERS)} (%(default)s)")
    parser.add_argument("--workers", metavar="N", type=int, default=0, help="threads; 0: one for each core")
    parser.add_argument("--report", metavar="PAGE", type=Path, help="also write what filters remove, as a page")
    parser.add_argument("--dry-run", action="store_true", help="measure and decide, but write no set")
    parser.add_argument("--overwrite", action="store_true", help="replace a shard set that is there")
    parser.set_defaults(passed_on=())
    add_json_argument(parser)


def _clip_arguments(parser: argparse.ArgumentParser) -> None:
    default = CurateSettings()
    size = f"{default.height}x{default.width}"
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
    parser.add_argument("--no-cuts", dest="cuts", action="store_false", help="do not look for cuts")
    parser.add_argument(
        "--margin", metavar="S", type=float, default=default.margin, help="seconds kept away from cuts (%(default)s)"
    )
    parser.add_argument("--keyframes", action="store_true", help="clips start on keyframes of their source")
    parser.add_argument("--crop-bars", action="store_true", help="cut black bars off")
    parser.add_argument("--codec", default=default.codec, help=f"{', '.join(CODECS)} (%(default)s)")
    parser.add_argument("--crf", type=int, default=default.crf, help="quality, 0 (best) to 51 (%(default)s)")


def _selection_arguments(parser: argparse.ArgumentParser) -> None:
    default = CurateSettings()
    parser.add_argument("--scores", metavar="NAMES", default="all", help="what to measure: all, none or a,b,c (all)")
    parser.add_argument(
        "--filter",
        dest="filters",
        metavar="RULE",
        action="append",
        default=[],
        help="which clips to keep: 'motion>=0.01', 'codec!=mjpeg'; all must hold",
    )
    parser.add_argument("--hold-out", default=default.hold_out, help=f"{', '.join(HOLD_OUT)} (%(default)s)")
    parser.add_argument(
        "--val-fraction", metavar="F", type=float, default=default.val_fraction, help="held out (%(default)s)"
    )
    parser.add_argument(
        "--max-clips-per-source", metavar="N", type=int, default=default.max_clips_per_source, help="0 takes all"
    )
    parser.add_argument(
        "--captions", default=default.captions, help="beside, required, none, or a table of captions (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="which videos are held out (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Curates; returns the exit status."""
    fields = {f.name: getattr(args, f.name) for f in dataclasses.fields(CurateSettings) if hasattr(args, f.name)}
    fields |= {"filters": tuple(args.filters), "height": args.size[0], "width": args.size[1]}
    recipe = Recipe(CurateSettings(**fields), choose_scorers(args.scores))
    reading = InputSettings(args.images, args.root, tuple(_column(text) for text in args.column))
    try:
        made = curate(
            args.inputs,
            args.out,
            recipe,
            {"examine": Counter("curate", "files"), "encode": Counter("encode", "files")},
            reading=reading,
            where=Where(args.runner, args.workers, args.passed_on),
            work=args.work,
            dry_run=args.dry_run,
            overwrite=args.overwrite,
        )
    except KeyboardInterrupt:
        print("what is measured and encoded stays; the same command goes on from there", file=sys.stderr)
        raise
    if args.report:
        columns = [column for scorer in recipe.scorers for column in scorer.columns]
        pictures = source_pictures(open_inputs(args.inputs, reading).sources)
        write_filter_report(args.report, made.decision, pictures, columns, made.dropped)
    unmatched = [Figure(name, _count(made.notes[name])) for name in UNMATCHED]
    figures = [*_set_figures(made), *unmatched, *selection_figures(made.decision), *speed_figures(made.spent)]
    if args.json:
        write_figures(args.json, figures)
    print(f"decided, nothing written: {made.table}" if made.manifest is None else f"written: {args.out}")
    print(figures_table(figures))
    print_dropped(made.dropped)
    print_strays(made.notes["captions_without_source"])
    return 0


def selection_figures(decision: Decision) -> list[Figure]:
    """Clips found and used, and what each filter removes, alone and of what those before it leave."""
    figures = [Figure("clips_found", len(decision.rows)), Figure("clips_used", len(decision.kept))]
    for effect in decision.effects:
        figures.append(Figure(f"removed_by {effect.rule}", effect.removed, "clips", peer=effect.alone))
    return figures


def speed_figures(spent: Spent) -> list[Figure]:
    """Hours of video for each core-hour of every step that was done now; `n` is CPU seconds, rounded."""
    figures = []
    for name, (cpu, video) in spent.by_stage.items():
        if cpu > 0 and video > 0:
            figures.append(Figure(f"speed_{name}", round(video / cpu, 2), "video hours per core-hour"))
    total = sum(cpu for cpu, _ in spent.by_stage.values())
    return [*figures, Figure("core_hours", round(total / _HOUR, 6), "h")]


def print_dropped(dropped: Sequence[Dropped]) -> None:
    """Names the sources that gave no clips, each with its reason."""
    for letter in dropped[:LISTED]:
        print(f"dropped {letter.file}: {letter.reason} ({letter.detail})")
    if len(dropped) > LISTED:
        print(f"... and {len(dropped) - LISTED} more, listed in manifest.json")


def print_strays(names: Sequence[str]) -> None:
    """Names captions that belong to no video."""
    for name in names[:LISTED]:
        print(f"no video for the caption {name}")
    if len(names) > LISTED:
        print(f"... and {len(names) - LISTED} more")


def _set_figures(made: Curated) -> list[Figure]:
    if made.manifest is not None:
        return set_figures(made.manifest)
    reasons: dict[str, int] = {}
    for letter in made.dropped:
        reasons[letter.reason] = reasons.get(letter.reason, 0) + 1
    counts = [Figure(f"dropped_{reason}", count) for reason, count in sorted(reasons.items())]
    return [Figure("dropped_sources", len(made.dropped)), *counts]


def _count(value: int | Sequence[str]) -> int:
    return value if isinstance(value, int) else len(value)


def _column(text: str) -> tuple[str, str]:
    role, equals, name = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--column: {text!r} is not ROLE=NAME; roles: {', '.join(ROLES)}")
    return role, name
