"""`vdm train`: trains a model from a config, or goes on with the run that is in the workdir."""

import argparse
import dataclasses
import functools
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.loading.loader import DataConfig, Loader, LoaderState, make_loader
from data_pipelines.shards.manifest import load as load_manifest
from data_pipelines.shards.reader import captions
from vdm_jax import sharding
from vdm_jax.cli.config_file import load_config
from vdm_jax.config import build
from vdm_jax.media.grid import contact_sheet, to_uint8, write_png
from vdm_jax.media.video import write_mp4
from vdm_jax.models.tokenizer import Tokenizer
from vdm_jax.training.callbacks import Callback, Evaluate, EveryN, SampleVideos
from vdm_jax.training.loop import Outcome
from vdm_jax.training.programs import use_cache
from vdm_jax.training.run import Run, assemble, evaluator, train_run
from vdm_jax.training.run_config import RunConfig, run_config_from
from vdm_jax.training.run_directory import RunDirectory
from vdm_jax.training.state import weights
from vdm_jax.types import Bucket

EXAMPLE = """
vdm worlds sprites --out data/sprites
vdm train --config configs/dit_tiny.py --config.data.shards=data/sprites --workdir runs/tiny
vdm train --config configs/dit_tiny.py --config.data.shards=data/sprites --workdir runs/tiny   # goes on
"""
SAMPLES = 8  # clips of a sample grid during training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--config", metavar="FILE", required=True, help="a file of configs/, with get_config()")
    parser.add_argument(
        "--workdir", metavar="RUN", type=Path, required=True, help="run directory, new or to go on with"
    )
    parser.set_defaults(overrides=())


def run(args: argparse.Namespace) -> int:
    """Trains; returns the exit status."""
    config = load_config(args.config, args.overrides)
    command = ["vdm", "train", "--config", args.config, *(f"--config.{k}={v}" for k, v in args.overrides)]
    again = shlex.join([*command, "--workdir", str(args.workdir)])
    outcome = train(config, args.workdir, how_to_go_on=f"start again: {again}")
    if outcome.stopped_by is None and jax.process_index() == 0:
        print(f"trained to step {outcome.step}: {args.workdir}")
    return 0 if outcome.stopped_by is None else 130


def train(config: Mapping[str, Any], workdir: Path, how_to_go_on: str = "start the same command again") -> Outcome:
    """Trains what `config` says in `workdir`; the whole of `vdm train` but the command line.

    Args:
      config: a ConfigDict or mapping, see `training.run_config`.
      workdir: run directory; a run that is there and has the same config is gone on with.
      how_to_go_on: what to tell a person who stops the run.

    Raises:
      ValueError, RunError: one line each; before any compile where it is the user's to mend.
    """
    checked = run_config_from(config)
    data = build(DataConfig, config["data"], "config.data")
    load_manifest(data.shards)  # a missing or damaged set is found before devices are asked for
    with sharding.joined():
        return _train(checked, data, config, workdir, how_to_go_on)


def _train(checked: RunConfig, data: DataConfig, config: Mapping[str, Any], workdir: Path, how_to_go_on) -> Outcome:
    use_cache(checked.compile)
    mesh = assemble(checked, *_no_words(checked)).mesh  # mesh, batch and heads fit
    # What does not fit the data must not leave a workdir behind, so the loader is opened once before it is made.
    _loader(checked, data, "train", None, mesh, checked.buckets).close()
    with RunDirectory(workdir, config) as directory:
        for change in directory.changes:
            _say(f"config changed since the last start: {change}")
        tokenizer = open_tokenizer(checked, directory, data)
        training = _loader(checked, data, "train", tokenizer, mesh, checked.buckets)
        held_out = _held_out(checked, data, tokenizer, mesh)
        vocab = tokenizer.vocab_size if tokenizer else 0
        whole = assemble(checked, vocab, tokenizer.encode([""]) if tokenizer else None)
        for line in whole.plan.undivided:
            _say(f"not divided by the mesh: {line}")
        prompts = _prompts(data) if tokenizer else None
        try:
            return train_run(
                whole,
                directory,
                _Batches(training),
                lambda r: _callbacks(r, directory, held_out, tokenizer, prompts),
                how_to_go_on,
            )
        finally:
            training.close()


def open_tokenizer(config: RunConfig, directory: RunDirectory, data: DataConfig) -> Tokenizer | None:
    """The run's tokenizer: the one in the directory, else one learned from the training captions and kept there."""
    if config.networks.text is None:
        return None
    path = directory.path / "tokenizer.json"
    if jax.process_index() == 0 and not path.exists():
        Tokenizer.train(captions(data.shards, "train"), config.networks.text).save(path)
    sharding.wait_for_all("tokenizer")
    return Tokenizer.load(path)


def _no_words(config: RunConfig) -> tuple[int, dict[str, np.ndarray] | None]:
    """A vocabulary and an empty prompt for a first look at the mesh: that needs no tokenizer."""
    if config.networks.text is None:
        return 0, None
    empty = np.zeros((1, config.networks.text.length), np.int32)
    return 1, {"text_ids": empty, "text_mask": empty > 0}


def _loader(
    config: RunConfig,
    data: DataConfig,
    split: str,
    tokenizer: Tokenizer | None,
    mesh: Mesh,
    buckets: Sequence[Bucket],
    **options,
) -> Loader:
    rows = functools.partial(sharding.batch_rows, mesh)
    encode = tokenizer.encode if tokenizer else _no_text
    return make_loader(data, split, buckets, config.seed, rows=rows, tokenizer_fn=encode, **options)


def _say(line: str) -> None:
    """One line for the person who started the run, whatever the number of its processes."""
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class _Batches:
    """A loader as the training loop wants it: its position is a JSON dict, which a checkpoint can hold."""

    loader: Loader

    def __next__(self) -> Mapping[str, np.ndarray]:
        return next(self.loader)

    def examples(self) -> list[Mapping[str, np.ndarray]]:
        return self.loader.examples()

    def get_state(self) -> dict[str, Any]:
        return json.loads(self.loader.get_state().to_json())

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.loader.set_state(LoaderState.from_json(json.dumps(state)))


def _no_text(captions: list[str]) -> dict[str, np.ndarray]:
    """An unconditional model is given no captions, whatever the set holds."""
    return {}


def _prompts(data: DataConfig) -> list[str]:
    """What to sample during training: captions of held-out clips, or of training clips where none are held out."""
    split = "val" if _held_out_clips(data) else "train"
    return sorted(set(captions(data.shards, split)))[:SAMPLES]


def _held_out_clips(data: DataConfig) -> int:
    manifest = load_manifest(data.shards)
    return manifest.records("val") if "val" in manifest.splits else 0


def _held_out(
    config: RunConfig, data: DataConfig, tokenizer: Tokenizer | None, mesh: Mesh
) -> list[Mapping[str, np.ndarray]]:
    """The fixed batches of every evaluation: as large as in training if the split has so many clips, else smaller."""
    if config.log.eval_every is None:
        return []
    records, parts = _held_out_clips(data), sharding.batch_shards(mesh)
    size = min(config.train.batch_size, records // parts * parts)
    if size == 0:
        _say(f"no evaluation: {records} held-out clips do not make a batch for {parts} devices")
        return []
    loader = _loader(config, data, "val", tokenizer, mesh, [data.bucket(size)], shuffle=False)
    try:
        return [next(loader) for _ in range(min(records // size, config.train.eval_batches))]
    finally:
        loader.close()


def _callbacks(run: Run, directory: RunDirectory, held_out, tokenizer: Tokenizer | None, prompts) -> list[Callback]:
    log, made = run.config.log, []
    if held_out:
        made.append(Evaluate(EveryN(log.eval_every), evaluator(run, held_out)))
    if log.sample_every is None:
        return made
    generate = run.generator()
    text = tokenizer.encode(prompts) if tokenizer else SAMPLES

    def sample(state) -> dict[str, np.ndarray]:
        clips = generate(weights(state, run.config.sampled_weights), text, jax.random.key(run.config.seed))
        return {"held_out": to_uint8(jax.device_get(clips))}

    def save(step: int, name: str, videos: np.ndarray) -> None:
        if jax.process_index() != 0:
            return
        folder = directory.samples / f"step_{step:08d}"
        folder.mkdir(exist_ok=True)
        labels = prompts or [""] * len(videos)
        for i, video in enumerate(videos):
            write_mp4(folder / f"{i:03d}.mp4", video, fps=8.0)
        write_png(contact_sheet(list(videos), labels), folder / "contact_sheet.png")

    made.append(SampleVideos(EveryN(log.sample_every), sample, save=save))
    return made
