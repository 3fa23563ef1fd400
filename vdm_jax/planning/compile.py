"""The train step of a config as a program for a machine that is not there.

Nothing here makes an array: the state and the batch are shapes with shardings on the target's mesh, the step is traced
from them, lowered, and compiled by the target's own compiler.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.attention.chosen import choices
from vdm_jax.errors import RunError
from vdm_jax.models.text import TextConfig
from vdm_jax.planning.flops import Program, count
from vdm_jax.planning.memory import Memory, compiled_memory, does_not_fit, state_memory
from vdm_jax.planning.targets import Target, target_mesh
from vdm_jax.sampling.noise import noise_from
from vdm_jax.training.run import Run, assemble
from vdm_jax.training.run_config import RunConfig
from vdm_jax.training.step import TrainStep, abstract_batch, make_train_step


@dataclasses.dataclass(frozen=True)
class Traced:
    """A traced step.

    Attributes:
      run: laid out on the target's mesh.
      target: the machine.
      stages: of JAX, to lower and compile.
      program: what the trace computes.
      memory: bytes of its arguments on one device.
      choices: which attention kernels and partitions it has and why, one line each.
      batch_growth: how many times the traced batch the batch of the run is; see `search.rescaled`.
    """

    run: Run
    target: Target
    stages: jax.stages.Traced
    program: Program
    memory: Memory
    choices: tuple[str, ...]
    batch_growth: float = 1.0


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled step: its text and its memory, and how long lowering and compiling took."""

    text: str
    memory: Memory
    seconds: float


def trace_step(config: RunConfig, target: Target) -> Traced:
    """Lays out and traces the step of a config on a target.

    Raises:
      ValueError: the mesh fits neither the target nor the batch or the heads; a kernel or partition refuses.
      RunError: libtpu is not installed.
    """
    run = planned_run(config, target)
    batch = abstract_batch(run.plan, batch_shapes(config))
    step: TrainStep = make_train_step(run.plan, run.step_config(), config.seed)
    with choices(target.platform) as chosen:
        stages = step.trace(run.plan.abstract, batch)
    known = state_memory(run.plan, batch, target)
    return Traced(run, target, stages, count(stages.jaxpr), known, tuple(chosen))


def compile_step(traced: Traced, say: Callable[[str], None] = lambda line: None) -> Compiled:
    """Compiles it with the target's compiler.

    Args:
      traced: the step.
      say: takes a line when the compiler begins.

    Raises:
      DoesNotFitError: it needs more memory than a device has.
      RunError: the compiler failed otherwise.
    """
    begin = time.perf_counter()
    try:
        lowered = traced.stages.lower()
        say(f"compiling for {traced.target.name}; minutes where many layers are unlike (--no-compile calculates it)")
        compiled = lowered.compile(compiler_options=traced.target.compiler_options)
    except jax.errors.JaxRuntimeError as error:
        too_large = does_not_fit(traced.target, error, traced.memory)
        if too_large is not None:
            raise too_large from None
        raise RunError(f"target: the compiler of {traced.target.name} failed: {str(error).splitlines()[0]}") from None
    took = time.perf_counter() - begin
    return Compiled(compiled.as_text(), compiled_memory(traced.memory, compiled), took)


def planned_run(config: RunConfig, target: Target) -> Run:
    """The run of a config on the mesh of a target, with the largest vocabulary and an empty prompt of two tokens."""
    mesh = target_mesh(target, config.mesh)
    text = config.networks.text
    if text is None:
        return assemble(config, mesh=mesh)
    null = {"text_ids": np.ones((1, text.length), np.int32), "text_mask": np.arange(text.length)[None] < 2}
    return assemble(config, vocabulary(text), null, mesh=mesh)


def vocabulary(text: TextConfig) -> int:
    """Tokens of the largest tokenizer a config allows: learned subwords, or bytes with pad, start and end."""
    return text.vocab_size if text.tokenizer == "bpe" else 256 + 3


def batch_shapes(config: RunConfig) -> Mapping[str, tuple[tuple[int, ...], Any]]:
    """`{key: (shape, dtype)}` of a training batch as the loader makes it: uint8 pixels, or latents as `vdm encode`
    stores them unless it is told otherwise.
    """
    size, text = config.train.batch_size, config.networks.text
    pixels = config.clip_shape[3] == 3
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "video": ((size, *config.clip_shape), jnp.uint8 if pixels else jnp.float16),
        "fps": ((size,), jnp.float32),
        "index": ((size,), jnp.int32),
    }
    for name in config.train.vector:
        shapes[name] = ((size,), jnp.int32 if name == "label" else jnp.float32)
    if text is not None:
        shapes |= {"text_ids": ((size, text.length), jnp.int32), "text_mask": ((size, text.length), jnp.bool_)}
    if config.train.tokens_mask:
        shapes["tokens_mask"] = ((size, config.train.tokens), jnp.bool_)
    noise = noise_from(getattr(config.objective, "noise", None), "objective.noise")
    if noise.reads:
        shapes |= {name: ((size, *shape), jnp.float32) for name, shape in noise.shapes(config.clip_shape).items()}
    given = config.given
    return shapes | {name: ((size, *shape), dtype) for name, (shape, dtype) in given.items()}
