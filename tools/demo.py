"""The main job from end to end; run it as `./tools/demo`.

    ./tools/demo                     toy clips -> shards -> training -> held-out captions -> runs/demo/report.html
    ./tools/demo --videos FOLDER     the same for any real footage (captions: NAME.txt beside NAME.mp4, or none)

Every step is the one that the command line offers (`vdm worlds|curate`, `train`, `sample`); nothing here knows how
any of them works.  A demo that was interrupted is gone on with; a finished one is kept as `<out>.previous`.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.curation.curate import curate
from data_pipelines.curation.settings import CurateSettings, Recipe
from data_pipelines.shards.manifest import Manifest
from data_pipelines.shards.manifest import load as load_manifest
from data_pipelines.shards.reader import ClipSource, captions
from data_pipelines.worlds.sprites.oracle import agree, agreement
from data_pipelines.worlds.sprites.world import SpritesConfig
from data_pipelines.worlds.write import write_world
from vdm_jax.cli.config_file import load_config
from vdm_jax.cli.counter import Counter
from vdm_jax.cli.main import FAILED, INTERRUPTED, OK, guarded
from vdm_jax.cli.sample import open_run
from vdm_jax.cli.train import train
from vdm_jax.media.grid import contact_sheet, write_png
from vdm_jax.media.report import Report, Sample, software, write_report
from vdm_jax.media.video import write_mp4

CONFIG = Path(__file__).parents[1] / "configs" / "dit_tiny.py"
CLIPS, HELD_OUT = 8192, 64
AGREEMENT = 0.8  # share of held-out prompts whose colour, shape and direction must be right
SHOWN = 16  # pairs of the contact sheet, and samples of a run without captions


def main() -> int:
    """Parses, runs, reports; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="./tools/demo", description="Train a small video model and show what it does."
    )
    parser.add_argument("--videos", metavar="FOLDER", type=Path, help="real footage instead of toy clips")
    parser.add_argument("--out", metavar="RUN", type=Path, help="run directory (runs/demo, or runs/demo_videos)")
    parser.add_argument("--steps", type=int, help="training steps; default as in the config")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    args = parser.parse_args()
    out = args.out or Path("runs/demo_videos" if args.videos else "runs/demo")
    return guarded(lambda: run(args, out))


def run(args: argparse.Namespace, out: Path) -> int:
    """The demo; returns the exit status."""
    begin, timings = time.monotonic(), {}
    shards = out.with_name(f"{out.name}_data")
    set_aside_finished(out)
    with timed(timings, "data"):
        manifest = footage(args.videos, shards) if args.videos else sprites(shards)
    config = load_config(f"{CONFIG}:{variant(shards, bool(args.videos))}")
    config.data.shards = str(shards)
    if args.steps is not None:
        config.train.steps = args.steps
    with timed(timings, "train"):
        outcome = train(config, out, how_to_go_on="start the same command again")
    if outcome.stopped_by is not None:
        return INTERRUPTED
    with timed(timings, "sample"):
        samples = draw(out, shards, args.seed)
    curves = read_curves(out / "metrics.jsonl")
    summary = footage_summary(shards, curves) if args.videos else sprites_summary(samples)
    summary |= {"train_seconds": timings["train"], "final_loss": curves["train/loss"][-1][1]}
    with timed(timings, "report"):
        write_samples(out / "samples", samples)
        summary["total_seconds"] = time.monotonic() - begin
        report(out, summary, curves, samples, timings, manifest, config.to_dict())
    summary["total_seconds"] = time.monotonic() - begin
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    print(f"report: {out / 'report.html'}")
    short = not args.videos and summary["prompt_agreement"] < AGREEMENT
    if short:
        print(f"demo: prompt_agreement is below {AGREEMENT}", file=sys.stderr)
    return FAILED if short else OK


def sprites(shards: Path) -> Manifest:
    """Renders the toy world, unless an earlier start has."""
    if (shards / "manifest.json").exists():
        return load_manifest(shards)
    counter = Counter("render", "clips")
    return write_world(shards, SpritesConfig(), CLIPS, val_clips=HELD_OUT, fields=(), progress=counter)


def footage(videos: Path, shards: Path) -> Manifest:
    """Curates real footage; again at each start, for the folder may have changed."""
    clip = load_config(f"{CONFIG}:footage").data
    settings = CurateSettings(
        height=clip.height, width=clip.width, frames=clip.frames, stride=1, fps=8.0, codec="raw", val_fraction=0.15
    )
    progress = {"examine": Counter("curate", "files"), "encode": Counter("encode", "files")}
    made = curate([videos], shards, Recipe(settings), progress, overwrite=True)
    for dropped in made.dropped:
        print(f"dropped {dropped.file}: {dropped.reason} ({dropped.detail})", file=sys.stderr)
    return made.manifest


def variant(shards: Path, is_footage: bool) -> str:
    """Which form of the config fits the set: footage without any caption trains an unconditional model."""
    if not is_footage:
        return "sprites"
    return "captioned_footage" if any(captions(shards, "train")) else "footage"


def draw(out: Path, shards: Path, seed: int) -> list[Sample]:
    """One sample for each held-out clip's caption, with that clip beside it."""
    real = ClipSource(shards, "val")
    count = min(len(real), HELD_OUT if real.record(0).caption else SHOWN)
    clips = [real[int(i)] for i in np.linspace(0, len(real) - 1, count)]
    prompts = [clip["caption"] for clip in clips]
    trained = open_run(out)
    made = trained.sample(prompts, seed)
    shown = prompts if trained.tokenizer else [""] * len(prompts)
    return [Sample(prompt, video, clip["video"]) for prompt, video, clip in zip(shown, made, clips)]


def sprites_summary(samples: list[Sample]) -> dict[str, float]:
    """What the oracle reads off samples and real clips; puts the verdicts into the samples."""
    world = SpritesConfig()
    prompts = [sample.prompt for sample in samples]
    scores = agreement(np.stack([sample.clip for sample in samples]), prompts, world)
    real = agreement(np.stack([sample.real for sample in samples]), prompts, world)
    for i, sample in enumerate(samples):
        verdict = agree(sample.clip, sample.prompt, world)
        samples[i] = Sample(sample.prompt, sample.clip, sample.real, verdict)
    parts = {f"{part}_agreement": scores[part] for part in ("colour", "shape", "direction", "speed")}
    return {"prompt_agreement": scores["overall"], "real_agreement": real["overall"], **parts}


def footage_summary(shards: Path, curves: dict[str, list]) -> dict[str, float]:
    """Held-out error of the model against that of always answering with the mean training clip."""
    known = stack(shards, "train")
    held_out = stack(shards, "val")
    error = float(np.mean((held_out - known.mean(0)) ** 2))
    reached = curves["eval/mse"][-1][1]
    return {"held_out_error": reached, "mean_clip_error": error, "held_out_over_mean": reached / error}


def stack(shards: Path, split: str) -> np.ndarray:
    """All clips of a split, float in [-1, 1]."""
    source = ClipSource(shards, split)
    return np.stack([source[i]["video"] for i in range(len(source))]).astype(np.float32) / 127.5 - 1.0


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """`metrics.jsonl` as curves: `train/loss`, `eval/loss` ..."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text().splitlines():
        values = json.loads(line)
        step = values.pop("step")
        for name, value in values.items():
            curves.setdefault(name if "/" in name else f"train/{name}", []).append((step, value))
    return curves


def write_samples(folder: Path, samples: Sequence[Sample]) -> None:
    """An mp4 and a contact sheet per prompt, and one sheet of all."""
    folder.mkdir(exist_ok=True)
    for i, sample in enumerate(samples):
        name = f"{i:02d}_{sample.prompt.replace(' ', '_')}" if sample.prompt else f"{i:02d}"
        write_mp4(folder / f"{name}.mp4", sample.clip, fps=8.0)
        write_png(contact_sheet([sample.clip], [sample.prompt], reals=[sample.real]), folder / f"{name}.png")
    some = samples[:SHOWN]
    sheet = contact_sheet([s.clip for s in some], [s.prompt for s in some], reals=[s.real for s in some])
    write_png(sheet, folder / "contact_sheet.png")


def report(out: Path, summary: dict, curves: dict, samples: list[Sample], timings: dict, manifest: Manifest, config):
    """Writes `report.html`."""
    sources = "toy clips with held-out captions" if "prompt_agreement" in summary else "real footage"
    notes = []
    if manifest.dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.reasons().items())
        notes.append(f"{len(manifest.dropped)} source files gave no clips: {reasons}.")
    counts = f"{manifest.records('train'):,} training clips, {manifest.records('val'):,} held out"
    shown = ("train/loss", "eval/loss", "eval/mse", "train/learning_rate", "train/grad_norm")
    page = Report(
        title=f"vdm_jax: {out.name}",
        subtitle=f"{sources}; {counts}",
        summary=summary,
        curves={name: curves[name] for name in shown if name in curves},
        samples=samples,
        fps=8.0,
        notes=notes,
        timings=timings,
        config=config,
        environment=software() | {"cpu_cores": str(os.cpu_count())},
    )
    write_report(out / "report.html", page)


def set_aside_finished(out: Path) -> None:
    """Moves a finished demo out of the way, so that nothing a person may want is lost."""
    if not (out / "summary.json").exists():
        return
    previous = out.with_name(f"{out.name}.previous")
    shutil.rmtree(previous, ignore_errors=True)
    out.rename(previous)
    shutil.rmtree(out.with_name(f"{out.name}_data"), ignore_errors=True)


class timed:  # noqa: N801 (a context manager, read as a verb)
    """Adds the seconds of its block to `timings[name]`."""

    def __init__(self, timings: dict[str, float], name: str):
        self.timings, self.name = timings, name

    def __enter__(self):
        self.begin = time.monotonic()

    def __exit__(self, *failure):
        self.timings[self.name] = self.timings.get(self.name, 0.0) + time.monotonic() - self.begin


if __name__ == "__main__":
    sys.exit(main())
