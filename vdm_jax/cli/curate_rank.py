"""`vdm curate rank`: which threshold a score should have, found by training and by comparing.

    shard set with scores -> for each score, sets without its worst 12.5 %, 25 %, 50 % -> one small model each
    -> which predicts held-out clips better, clip by clip -> Elo
    -> a page on which people compare samples of the same prompts -> matches.csv -> Elo

The method is that of `curation.ranking`.  Held-out clips are those that the strictest threshold of every score keeps:
what is held out shall be what one wants to make.
"""

import argparse
import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.curation.ranking import (
    FRACTIONS,
    ORDERS,
    K,
    Match,
    Variant,
    elo,
    groups,
    play,
    read_matches,
    variants,
)
from data_pipelines.curation.table import ClipRow
from data_pipelines.shards import manifest as manifests
from data_pipelines.shards.reader import ClipSource, captions
from data_pipelines.shards.rewrite import subset
from vdm_jax.errors import RunError
from vdm_jax.media.figures import Figure, add_json_argument, figures_table, write_figures

EXAMPLE = """
vdm curate rank data/everything --keep-high motion --keep-low text blur --config configs/dit_tiny.py --workdir runs/rank
vdm curate rank --matches matches.csv
"""
HELD_OUT = 8  # clips that must be left for comparing, at least
EVAL_BATCH, MATCHES = 4, 64  # clips of a match, matches of each pair of models
PROMPTS = 12
PAGE, SHOW_FPS = "pairs.html", 8.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("shards", metavar="SHARDS", type=Path, nargs="?", help="a curated set, not filtered yet")
    parser.add_argument("--keep-high", metavar="SCORE", nargs="+", default=[], help="scores of which more is better")
    parser.add_argument("--keep-low", metavar="SCORE", nargs="+", default=[], help="scores of which less is better")
    parser.add_argument(
        "--fractions", metavar="F", type=float, nargs="+", default=FRACTIONS, help="shares to remove (0.125 0.25 0.5)"
    )
    parser.add_argument("--config", metavar="FILE", help="what to train, a file of configs/")
    parser.add_argument("--workdir", metavar="DIR", type=Path, help="sets, runs and the page; a stopped one goes on")
    parser.add_argument("--prompts", metavar="FILE", type=Path, help="for the page: one a line (held-out captions)")
    parser.add_argument("--matches", metavar="TABLE", type=Path, help="rank what people said: first, second, winner")
    parser.add_argument("--orders", metavar="N", type=int, default=ORDERS, help="of the matches (%(default)s)")
    parser.add_argument("--k", type=float, default=K, help="largest change by a match (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of those orders (%(default)s)")
    parser.set_defaults(overrides=())
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Ranks; returns the exit status."""
    if args.matches is not None:
        if args.shards is not None:
            raise ValueError("--matches: are ranked by themselves; leave the shard set out")
        tables = {"": read_matches(args.matches)}
    else:
        tables = _experiment(args)
    figures = []
    for title, matches in tables.items():
        figures += _ratings(matches, args, title)
    print(figures_table(figures))
    if args.json:
        write_figures(args.json, figures)
    return 0


def _ratings(matches: Sequence[Match], args: argparse.Namespace, title: str) -> list[Figure]:
    """Elo of each variant; those that were never compared, not even through others, are ranked apart."""
    figures = []
    for group in groups(matches):
        mine = [match for match in matches if match.first in group]
        for rating in elo(mine, orders=args.orders, k=args.k, seed=args.seed):
            name = f"{title}: {rating.name}" if title else rating.name
            figures.append(Figure(name, round(rating.elo, 1), "Elo", n=rating.matches, spread=round(rating.spread, 2)))
    return figures


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is trained: score -> its variants; and the clips of each set."""

    by_score: Mapping[str, list[Variant]]
    train: list[ClipRow]
    val: list[ClipRow]

    def all(self) -> list[Variant]:
        """Each variant once."""
        return list({v.name: v for found in self.by_score.values() for v in found}.values())

    def held_out(self) -> list[int]:
        """Numbers of the held-out clips that every score's strictest threshold keeps."""
        strictest = [found[-1].rule for found in self.by_score.values()]
        return [k for k, row in enumerate(self.val) if all(rule.keeps(row) for rule in strictest)]


def _experiment(args: argparse.Namespace) -> dict[str, list[Match]]:
    plan = _plan(args)
    held_out = plan.held_out()
    if len(held_out) < HELD_OUT:
        raise RunError(
            f"shards: only {len(held_out)} of {len(plan.val)} held-out clips pass the strictest thresholds, and"
            f" comparing takes {HELD_OUT}; hold more out, or remove less (--fractions)"
        )
    args.workdir.mkdir(parents=True, exist_ok=True)
    judged = args.workdir / "held_out"
    _subset(args.shards, judged, {"val": held_out}, {"strictest": [f[-1].name for f in plan.by_score.values()]})
    runs = {}
    for number, variant in enumerate(plan.all(), 1):
        print(
            f"model {number} of {len(plan.all())}: {variant.name}, without {100 * variant.removed:.3g} % of the clips"
        )
        runs[variant.name] = _train(args, plan, variant)
    losses = {name: _losses(path, judged) for name, path in runs.items()}
    _page(args, plan, runs, judged)
    lower = lambda _, first, second: 1.0 if first < second else 0.0 if second < first else 0.5  # noqa: E731
    return {
        score: play({variant.name: losses[variant.name] for variant in found}, lower)
        for score, found in plan.by_score.items()
    }


def _plan(args: argparse.Namespace) -> _Plan:
    for option in ("shards", "config", "workdir"):
        if getattr(args, option) is None:
            raise ValueError(f"{option}: missing; name a shard set, --config and --workdir, or --matches")
    wanted = [*((name, "better") for name in args.keep_high), *((name, "worse") for name in args.keep_low)]
    names = [name for name, _ in wanted]
    if not wanted:
        raise ValueError("--keep-high, --keep-low: name a score at least")
    if len(set(names)) < len(names):
        raise ValueError(f"--keep-high, --keep-low: {next(n for n in names if names.count(n) > 1)!r} is there twice")
    _prompts(args)  # what is wrong with them is said before hours of training
    manifest = manifests.load(args.shards)
    if "val" not in manifest.splits:
        raise ValueError(f"shards: {args.shards} holds nothing out; curate it with --val-fraction")
    train, val = (list(_rows(args.shards, split)) for split in ("train", "val"))
    return _Plan({n: variants(train, n, higher_is, args.fractions) for n, higher_is in wanted}, train, val)


def _rows(shards: Path, split: str) -> Iterator[ClipRow]:
    """The clips of a split with their scores, in order."""
    source = ClipSource(shards, split)
    for index in range(len(source)):
        record = source.record(index)
        labels = json.loads(record.labels)
        if not isinstance(labels.get("scores"), dict):
            raise ValueError(f"shards: {split}[{index}] of {shards} has no scores; `vdm curate` measures them")
        end = record.start + source.manifest.clip.frames / record.fps
        yield ClipRow(record.source, record.start, end, scores=labels["scores"])


def _subset(shards: Path, out: Path, chosen: Mapping[str, Sequence[int]], settings: Mapping) -> None:
    """Writes a set of chosen clips unless it is there already."""
    origin = manifests.load(shards).digest()
    settings = {**settings, "clips": {name: len(numbers) for name, numbers in chosen.items()}}
    if (out / manifests.FILE_NAME).is_file():
        there = manifests.load(out)
        if there.settings == settings and there.provenance["sets"][0]["digest"] == origin:
            return
    subset(shards, out, chosen, settings, overwrite=True)


def _folder(args: argparse.Namespace, variant: Variant) -> Path:
    """One a variant; its name says which, and a digest tells apart those that a file system would not."""
    digest = hashlib.sha256(variant.name.encode()).hexdigest()[:8]
    return args.workdir / f"{re.sub(r'[^A-Za-z0-9.]+', '_', variant.name).strip('_')}-{digest}"


def _train(args: argparse.Namespace, plan: _Plan, variant: Variant) -> Path:
    """Trains a model on a variant, or goes on with it; returns the run."""
    from vdm_jax.cli.config_file import load_config  # these import JAX, which --matches does not need
    from vdm_jax.cli.train import train

    folder = _folder(args, variant)
    keeps = [k for k, row in enumerate(plan.train) if variant.rule is None or variant.rule.keeps(row)]
    _subset(args.shards, folder / "set", {"train": keeps}, {"filter": variant.name})
    cache = ("compile.cache", str(args.workdir / "programs"))  # the models are alike, and mostly their programs too
    overrides = (cache, *args.overrides, ("data.shards", str(folder / "set")), ("log.eval_every", "none"))
    outcome = train(load_config(args.config, overrides, folder / "run"), folder / "run")
    if outcome.stopped_by is not None:
        raise KeyboardInterrupt
    return folder / "run"


def _losses(run: Path, shards: Path) -> list[float]:
    """The loss of each match: of a few held-out clips, with the same noise for every model."""
    from data_pipelines.loading.loader import DataConfig, make_loader
    from vdm_jax.cli.sample import open_run
    from vdm_jax.config import build
    from vdm_jax.sharding import place_batch
    from vdm_jax.training.run_directory import read_config
    from vdm_jax.training.step import make_eval_step

    trained = open_run(run)
    whole, config = trained.run, read_config(run)
    data = build(DataConfig, {**config["data"], "shards": str(shards), "buckets": ()}, "config.data")
    evaluate = make_eval_step(whole.plan, whole.objective, whole.step_config(), whole.config.seed)
    encode = trained.tokenizer.encode if trained.tokenizer else lambda texts: {}
    count = min(MATCHES, manifests.load(shards).records("val") // EVAL_BATCH)
    buckets = [data.bucket(EVAL_BATCH)]
    with make_loader(data, "val", buckets, whole.config.seed, tokenizer_fn=encode, shuffle=False) as loader:
        batches = [next(loader) for _ in range(count)]
    return [float(evaluate(trained.params, place_batch(batch, whole.mesh))["loss"]) for batch in batches]


def _page(args: argparse.Namespace, plan: _Plan, runs: Mapping[str, Path], held_out: Path) -> None:
    """Samples of all models for the same prompts, on a page for people; thresholds of one score are compared."""
    from vdm_jax.cli.sample import open_run
    from vdm_jax.media.pairs import write_pairs_page

    prompts = _prompts(args) or sorted(set(captions(held_out, "val")))[:PROMPTS]
    clips: dict[str, np.ndarray] = {}
    for name, path in runs.items():
        trained = open_run(path)
        if trained.run.config.clip_shape[3] != 3:
            print("no page for people: clips are latents")
            return
        prompts = prompts if trained.tokenizer else [""] * PROMPTS
        clips[name] = trained.sample(prompts, args.seed)
    page = args.workdir / PAGE
    couples = [pair for v in plan.by_score.values() for pair in itertools.combinations([one.name for one in v], 2)]
    shown = {name: list(made) for name, made in clips.items()}
    pairs = write_pairs_page(page, shown, prompts, SHOW_FPS, couples, seed=args.seed)
    print(f"page: {page} ({len(pairs)} pairs for a person; then vdm curate rank --matches matches.csv)")


def _prompts(args: argparse.Namespace) -> list[str]:
    """Those that were given; none if none were."""
    if args.prompts is None:
        return []
    if not args.prompts.is_file():
        raise ValueError(f"--prompts: no file {args.prompts}")
    found = [line.strip() for line in args.prompts.read_text("utf-8").splitlines() if line.strip()]
    if not found:
        raise ValueError(f"--prompts: {args.prompts} holds none")
    return found
