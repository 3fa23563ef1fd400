"""`vdm train`: trains a model from a config, or goes on with the run that is in the workdir."""

import argparse
import dataclasses
import functools
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.loading.captions import no_text, training_texts
from data_pipelines.loading.fit import summary
from data_pipelines.loading.loader import DataConfig, Loader, LoaderState, make_loader
from data_pipelines.loading.plan import usable_clips
from data_pipelines.loading.stored import Stored
from data_pipelines.shards.manifest import load as load_manifest
from data_pipelines.shards.reader import captions
from vdm_jax import sharding
from vdm_jax.cli.config_file import load_config
from vdm_jax.cli.latent_data import Decoder, condition_of, read_conditions, stored_for, with_null
from vdm_jax.config import build
from vdm_jax.interop.finetuning.origin import Origin, settled, write_origin
from vdm_jax.interop.finetuning.pairs import check_pairs, with_pairs
from vdm_jax.media.grid import contact_sheet, to_uint8, write_png
from vdm_jax.media.video import write_mp4
from vdm_jax.models.tokenizer import Tokenizer
from vdm_jax.nn.path_filter import select
from vdm_jax.training.callbacks import Callback, Evaluate, EveryN, SampleVideos
from vdm_jax.training.loop import Outcome
from vdm_jax.training.programs import use_cache
from vdm_jax.training.run import Run, assemble, evaluator, train_run
from vdm_jax.training.run_config import RunConfig, run_config_from
from vdm_jax.training.run_directory import RunDirectory
from vdm_jax.training.state import TrainState, overlay, weights
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
    config = load_config(args.config, args.overrides, args.workdir)
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
    config, origin = settled(config, workdir)
    checked = run_config_from(config)
    for section in ("lora", "adapter"):
        if getattr(checked, section) is not None and origin is None:
            raise ValueError(f"config.{section}: is for weights that are there already; config.init must name them")
    if checked.widen and origin is None:
        raise ValueError("config.widen: says how weights are read that are there already; config.init must name them")
    if "teacher" in checked.objective.copies and origin is None:
        raise ValueError("config.objective.teacher: is the weights that a run starts from; config.init must name them")
    if "teacher" in checked.objective.copies and origin.adapted is not None:
        raise ValueError(
            f"config.objective.teacher: {origin.init} has an adapter, which a teacher is built without; distil its base"
        )
    check_pairs(checked)
    data = build(DataConfig, config["data"], "config.data")
    stored = stored_for(checked, data, origin)  # what is wrong with the sets is found before devices are asked for
    source = _Source(checked, data, stored, read_conditions(checked, stored))
    with sharding.joined():
        return _train(source, config, origin, workdir, how_to_go_on)


@dataclasses.dataclass(frozen=True)
class _Source:
    """What a run trains on.

    Attributes:
      config, data: of the run.
      stored: what its latent sets hold; None for pixels.
      conditions: names of the stored conditions that are read; None for pixels.
    """

    config: RunConfig
    data: DataConfig
    stored: Stored | None
    conditions: list[str] | None

    def loader(
        self, split: str, tokenizer: Tokenizer | None, mesh: Mesh, buckets: Sequence[Bucket], **options
    ) -> Loader:
        """Batches for this process."""
        rows = functools.partial(sharding.batch_rows, mesh)
        encode = tokenizer.encode if tokenizer else no_text
        options |= {"rows": rows, "tokenizer_fn": encode, "conditions": self.conditions}
        return make_loader(self.data, split, buckets, self.config.seed, **options)

    @property
    def unread(self) -> list[str]:
        """Stored conditions that are left where they are; that padding is not told of is no news."""
        held = self.stored.conditions if self.stored else ()
        return [name for name in held if name not in (*self.conditions, "tokens_mask")]

    @property
    def held_out(self) -> int:
        """Clips that are not trained on, and have the rate that is asked for."""
        return usable_clips(self.data, "val") if "val" in load_manifest(self.data.shards).splits else 0


def _train(source: _Source, config: Mapping[str, Any], origin: Origin | None, workdir: Path, how_to_go_on) -> Outcome:
    checked, data = source.config, source.data
    use_cache(checked.compile)
    mesh = assemble(checked, *_no_words(checked)).mesh  # mesh, batch and heads fit
    # What does not fit the data must not leave a workdir behind, so the loader is opened once before it is made.
    with source.loader("train", None, mesh, checked.buckets) as first:
        if first.unusable:
            _say(f"left out, as data.max_unusable allows: {summary(first.unusable)}")
    with RunDirectory(workdir, config) as directory:
        for change in directory.changes:
            _say(f"config changed since the last start: {change}")
        if origin is not None and jax.process_index() == 0:
            write_origin(directory.path, origin)
        if unread := sorted(
            set(source.stored.conditions) - {*source.conditions, "tokens_mask"} if source.stored else ()
        ):
            _say(f"not read by the model, and left out: {', '.join(unread)} of the clips")
        tokenizer = open_tokenizer(checked, directory, data, origin)
        training = source.loader("train", tokenizer, mesh, checked.buckets)
        held_out = _held_out(source, tokenizer, mesh)
        vocab = tokenizer.vocab_size if tokenizer else 0
        whole = assemble(checked, vocab, tokenizer.encode([""]) if tokenizer else None)
        for line in whole.plan.undivided:
            _say(f"not divided by the mesh: {line}")
        callbacks = functools.partial(
            _callbacks, source=source, directory=directory, held_out=held_out, tokenizer=tokenizer, origin=origin
        )
        try:
            return train_run(
                whole, directory, _Batches(training), callbacks, how_to_go_on,
                begin=lambda: _begin(whole, origin, source.stored),
            )  # fmt: skip
        finally:
            training.close()


def _begin(run: Run, origin: Origin | None, stored: Stored | None) -> TrainState:
    """The state of step 0: drawn weights, or those that the run starts from."""
    abstract, copies = run.plan.abstract.params, run.config.objective.copies
    if origin is None:
        state = run.plan.init(run.config.seed)
        return dataclasses.replace(state, params=run.with_copies(with_null(state.params, stored, abstract)))
    _say(f"starting from {origin.part} of {origin.run}{f', with more {origin.wider}' if origin.wider else ''}")
    tag, adapter = run.config.tag, run.config.adapter
    new = tag is not None and origin.adapted is None
    fresh = select(run.plan.networks.trainable, (tag,)) if new else frozenset()
    known = origin.params(run.plan, (*copies, "null"), fresh)  # the data has its own empty prompt, of any length
    params = with_null(known, stored, abstract)
    if new:
        params = overlay(run.plan.draw(run.config.seed, fresh), params)
        params = params if adapter is None else adapter.begin(params)
    params = run.with_copies(params)
    return run.plan.start_from({**params, "backbone": with_pairs(run.config, params["backbone"])})


def open_tokenizer(
    config: RunConfig, directory: RunDirectory, data: DataConfig, origin: Origin | None = None
) -> Tokenizer | None:
    """The run's tokenizer: the one in the directory, else that of the run it starts from, else one learned from the
    training captions; kept in the directory."""
    if config.networks.text is None:
        return None
    path = directory.path / "tokenizer.json"
    if jax.process_index() == 0 and not path.exists():
        if origin is not None:
            shutil.copyfile(Path(origin.run) / "tokenizer.json", path)
        else:
            Tokenizer.train(list(training_texts(data)), config.networks.text).save(path)
    sharding.wait_for_all("tokenizer")
    return Tokenizer.load(path)


def _no_words(config: RunConfig) -> tuple[int, dict[str, np.ndarray] | None]:
    """A vocabulary and an empty prompt for a first look at the mesh: that needs no tokenizer."""
    if config.networks.text is None:
        return 0, None
    empty = np.zeros((1, config.networks.text.length), np.int32)
    return 1, {"text_ids": empty, "text_mask": empty > 0}


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


def _held_out(source: _Source, tokenizer: Tokenizer | None, mesh: Mesh) -> list[Mapping[str, np.ndarray]]:
    """The fixed batches of every evaluation: as large as in training if the split has so many clips, else smaller."""
    config = source.config
    if config.log.eval_every is None:
        return []
    records, parts = source.held_out, sharding.batch_shards(mesh)
    size = min(config.train.batch_size, records // parts * parts)
    if size == 0:
        _say(f"no evaluation: {records} held-out clips do not make a batch for {parts} devices")
        return []
    loader = source.loader("val", tokenizer, mesh, [source.data.bucket(size)], shuffle=False)
    try:
        return [next(loader) for _ in range(min(records // size, config.train.eval_batches))]
    finally:
        loader.close()


def _callbacks(
    run: Run, *, source: _Source, directory: RunDirectory, held_out, tokenizer: Tokenizer | None, origin: Origin | None
) -> list[Callback]:
    log, made = run.config.log, []
    if held_out:
        made.append(Evaluate(EveryN(log.eval_every), evaluator(run, held_out)))
    if log.sample_every is None:
        return made
    given, labels = _to_sample(source, tokenizer)
    show = _shower(run, origin)
    if show is None:
        _say("no sample videos: clips are latents, and the autoencoder that shows them is not at hand (config.init)")
        return made
    generate = run.generator()

    def sample(state) -> dict[str, np.ndarray]:
        clips = generate(weights(state, run.config.sampled_weights), given, jax.random.key(run.config.seed))
        return {"held_out": to_uint8(show(clips))}

    def save(step: int, name: str, videos: np.ndarray) -> None:
        if jax.process_index() != 0:
            return
        folder = directory.samples / f"step_{step:08d}"
        folder.mkdir(exist_ok=True)
        for i, video in enumerate(videos):
            write_mp4(folder / f"{i:03d}.mp4", video, fps=8.0)
        write_png(contact_sheet(list(videos), labels or [""] * len(videos)), folder / "contact_sheet.png")

    made.append(SampleVideos(EveryN(log.sample_every), sample, save=save))
    return made


def _to_sample(source: _Source, tokenizer: Tokenizer | None) -> tuple[Any, list[str]]:
    """What the sampler is given during training, and its captions: those of held-out clips, or of training clips where
    none are held out."""
    config, data = source.config, source.data
    split = "val" if source.held_out else "train"
    if tokenizer is not None:
        prompts = sorted(set(captions(data.shards, split)))[:SAMPLES]
        return tokenizer.encode(prompts), prompts
    if not config.networks.model.reads:
        return SAMPLES, []
    size = min(SAMPLES, load_manifest(data.shards).records(split))
    options = {"shuffle": False, "conditions": source.conditions}
    with make_loader(data, split, [data.bucket(size)], config.seed, **options) as loader:
        batch = next(loader)
    return condition_of(config, batch), list(batch["caption"])


def _shower(run: Run, origin: Origin | None) -> Callable[[jax.Array], np.ndarray] | None:
    """From what is sampled to clips `[B, T, H, W, 3]` in [-1, 1]; None where nobody can."""
    if run.config.clip_shape[3] == 3:
        return jax.device_get
    found = None if origin is None else origin.autoencoder()
    return None if found is None else Decoder(*found, run.mesh)
