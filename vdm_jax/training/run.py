"""A training run put together: config and data in, a run directory with a trained model out.

    run = assemble(config, vocab_size, null)           # what is static: networks, state plan, steps
    outcome = train_run(run, directory, loader, ...)   # resumes if the directory holds a checkpoint

`assemble` makes no array and compiles nothing, so it is also what looks at a run from outside: sampling, planning,
inspection.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh, Mesh

from vdm_jax.adapters.lora import add_lora
from vdm_jax.attention import check_degree
from vdm_jax.config import flatten
from vdm_jax.diffusion.configuration import process_to_dict
from vdm_jax.interop.lora.adapters import names_of
from vdm_jax.objectives.denoising import DenoisingObjective
from vdm_jax.sampling.generate import make_generator
from vdm_jax.sharding import check_batch, check_heads, make_mesh, place_batch
from vdm_jax.training.callbacks import Callback, EveryN
from vdm_jax.training.checkpoint import Checkpointer, StepMeta
from vdm_jax.training.guard import check_skips
from vdm_jax.training.loop import DataIterator, Loop, Outcome, start_or_resume, train
from vdm_jax.training.programs import Kept, Programs, compile_programs
from vdm_jax.training.progress import Progress, open_progress
from vdm_jax.training.recipe import Stage, Target, Update
from vdm_jax.training.run_config import RunConfig
from vdm_jax.training.run_directory import RunDirectory
from vdm_jax.training.state import MakeNetworks, Params, StatePlan, TrainState, plan_state, subset, weights
from vdm_jax.training.step import StepConfig, make_eval_step, make_train_step
from vdm_jax.training.writers import open_writer

Batch = Mapping[str, np.ndarray]
MakeCallbacks = Callable[["Run"], Sequence[Callback]]


class Examples(DataIterator, Protocol):
    """Training batches of a fixed list of shapes."""

    def examples(self) -> list[Batch]:
        """One batch of each shape; the position stays as it is."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The static half of a run.

    Attributes:
      config: as checked.
      plan: layout of the train state on the mesh.
      objective: what is trained.
      null: the tokenised empty prompt, `text_ids [1, L]` and `text_mask [1, L]`; None without a text encoder.
    """

    config: RunConfig
    plan: StatePlan
    objective: DenoisingObjective
    null: Mapping[str, np.ndarray] | None

    @property
    def mesh(self) -> Mesh:
        return self.plan.mesh

    @property
    def flops_per_step(self) -> float:
        """Model FLOPs of one update, on average over the buckets: three forwards of the backbone for each clip."""
        model, length = self.config.networks.model, self.config.networks.text_length
        total = 0.0
        for bucket in self.config.buckets:
            sequence = sum(model.forward_flops(n, bucket.height, bucket.width, length) for n in bucket.clips)
            total += bucket.weight * 3 * bucket.batch * sequence
        return total / sum(bucket.weight for bucket in self.config.buckets)

    def step_config(self) -> StepConfig:
        """Accumulation and precision of a step."""
        return StepConfig(self.config.train.accumulate, self.config.train.precision)

    def generator(self):
        """`generate(params, text, key)`, see `sampling.make_generator`; params are those of `weights(state, ema)`."""
        shape = self.config.clip_shape
        process, merge = self.config.process, self.plan.networks.merge
        way, grid = getattr(self.objective, "known_way", "clean"), self.config.objective.distilled
        return make_generator(process, merge, self.config.sample, shape, self.null, self.mesh, way, grid)

    def with_copies(self, params: Params) -> Params:
        """Parameters in which the networks that begin as the backbone are so, as far as they have its parameters."""
        copies = {}
        for name in self.config.objective.copies:
            paths = frozenset(flatten_dict(self.plan.abstract.params[name]))
            copies[name] = jax.tree.map(jnp.copy, subset(params["backbone"], paths))  # donated: no array twice
        return {**params, **copies}


def assemble(
    config: RunConfig,
    vocab_size: int = 0,
    null: Mapping[str, np.ndarray] | None = None,
    devices: Sequence[jax.Device] | None = None,
    mesh: Mesh | AbstractMesh | None = None,
) -> Run:
    """Lays out a run; no array is made.

    Args:
      config: of `run_config_from`.
      vocab_size: of the tokenizer; 0 without text.
      null: `tokenizer.encode([""])`; None without text.
      devices: to train on; default all.
      mesh: instead of the one that `config.mesh` makes of them; of a machine that need not be there.

    Raises:
      ValueError: the mesh does not fit the devices, the batch, the heads or the partition of attention.
    """
    mesh = make_mesh(config.mesh, devices) if mesh is None else mesh
    for bucket in config.buckets:
        check_batch(mesh, bucket.batch, config.train.accumulate)
    for heads in config.networks.heads:
        check_heads(mesh, heads)
        check_degree(config.networks.model.partition, heads // mesh.shape["tensor"], mesh.shape["context"])
    empty = {} if null is None else {"null_ids": _plain(null["text_ids"]), "null_mask": _plain(null["text_mask"])}
    dropout = flatten(config.train.dropout)  # a ConfigDict takes no "vector.fps" for a name
    scalars = {"vector": config.train.vector, "constants": config.train.constants}
    objective = config.objective.make(config.process, dropout=dropout, **scalars, **empty)
    train, stage = config.train, _stage(config, objective)
    kept = {"ema": config.ema, "guard": config.guard, "masters": train.masters, "frozen": train.frozen}
    plan = plan_state(_maker(config, vocab_size), stage, mesh, **kept)
    return Run(config, plan, objective, null)


def _stage(config: RunConfig, objective: Any) -> Stage:
    """The one stage of a run.  With networks that begin as the backbone, it is the backbone that trains."""
    copies = config.objective.copies
    targets = tuple(Target(name, "backbone", decay) for name, decay in copies.items() if decay is not None)
    still = tuple(f"!{name}" for name, decay in copies.items() if decay is None)
    trains = ("backbone",) if copies and config.trains == ("*",) else config.trains
    update = Update("train", objective, config.optimizer, (*trains, *still))
    return Stage("train", (update,), config.train.steps, targets)


def _maker(config: RunConfig, vocab_size: int) -> MakeNetworks:
    """What builds the networks of a run; what follows the backbone has what is put into it too."""
    copies = config.objective.copies

    def make(rngs: nnx.Rngs) -> dict[str, nnx.Module]:
        networks = config.networks.make(vocab_size, rngs)
        networks |= {name: config.networks.make(vocab_size, rngs)["backbone"] for name in copies}
        for name in ("backbone", *(name for name, decay in copies.items() if decay is not None)):
            networks[name] = _adapted(networks[name], config, rngs)
        return networks

    return make


def _adapted(backbone: nnx.Module, config: RunConfig, rngs: nnx.Rngs) -> nnx.Module:
    """The backbone with the low-rank pairs of a run, or its adapter."""
    section = "lora"
    try:
        if config.lora is not None:
            add_lora(backbone, config.lora, rngs, names_of(config.networks.model))
        section = "adapter"
        return backbone if config.adapter is None else config.adapter.put_into(backbone, rngs)
    except ValueError as error:
        raise ValueError(f"config.{section}.{error}") from None


def train_run(
    run: Run,
    directory: RunDirectory,
    data: Examples,
    callbacks: MakeCallbacks = lambda run: (),
    how_to_go_on: str = "start the same command again",
    begin: Callable[[], TrainState] | None = None,
) -> Outcome:
    """Trains, from the newest intact checkpoint if there is one.

    Args:
      run: of `assemble`.
      directory: open, its lock held.
      data: training batches for this process; moved to the position of the checkpoint.
      callbacks: makes what happens beside the steps.
      how_to_go_on: what to tell a person who stopped the run.
      begin: makes the state of step 0, where there is no checkpoint; None draws weights by the seed.

    Raises:
      RunError, ValueError: see `training.loop.train`.
    """
    config = run.config
    with Checkpointer(directory.checkpoints, config.checkpoint, run.plan.frozen_paths) as checkpointer:
        progress = open_progress(config.train.steps)
        start = start_or_resume(checkpointer, run.plan.abstract, begin or (lambda: run.plan.init(config.seed)), data)
        writer = open_writer(directory, start.step, config.log.wandb)
        if start.step:
            progress.say(f"going on from step {start.step} of {directory.path.name}")
        loop = Loop(
            steps=config.train.steps,
            step=_programs(run, directory, data, progress) if start.step < config.train.steps else None,
            data=data,
            place=lambda batch: place_batch(batch, run.mesh),
            checkpointer=checkpointer,
            meta=StepMeta(process_to_dict(config.process), {}, directory.config, directory.code),
            writer=writer,
            progress=progress,
            log=EveryN(config.log.every),
            callbacks=callbacks(run),
            check=lambda step, values: check_skips(config.guard, step, values),
            flops_per_step=run.flops_per_step,
            how_to_go_on=how_to_go_on,
        )
        try:
            return train(loop, start)
        finally:
            writer.close()


def _programs(run: Run, directory: RunDirectory, data: Examples, progress: Progress) -> Programs:
    """The step, compiled for every shape of batch."""
    step = make_train_step(run.plan, run.step_config(), run.config.seed)
    kept = Kept(directory.programs, directory.config, run.mesh) if run.config.compile.keep_programs else None
    batches = [place_batch(batch, run.mesh) for batch in data.examples()]
    return compile_programs(step, run.plan.abstract, batches, kept, progress.say)


def evaluator(run: Run, batches: Sequence[Batch]) -> Callable[[TrainState], dict[str, float]]:
    """`measure(state)`: mean evaluation loss and error per noise band over fixed held-out batches, by the sampled
    weights."""
    evaluate = make_eval_step(run.plan, run.objective, run.step_config(), run.config.seed)

    def measure(state: TrainState) -> dict[str, float]:
        params = weights(state, run.config.sampled_weights)
        results = [evaluate(params, place_batch(batch, run.mesh)) for batch in batches]
        return {name: float(np.mean([float(r[name]) for r in results])) for name in results[0]}

    return measure


def _plain(row: np.ndarray) -> tuple:
    return tuple(row[0].tolist())
