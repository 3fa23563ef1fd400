"""Section `memory`: peak memory of a train step, from the compiler's own analysis, per config and remat policy.

    peak = arguments + temporaries + outputs - outputs that take the place of arguments (donated state)

The step is compiled ahead of time for one device from abstract arguments, at full size and depth: nothing is
allocated, and the scan over blocks keeps the compilation as short for 14 B parameters as for 14 M.  One device holds
the whole state here; divide `state` by the devices of `fsdp`.  On a CPU, XLA computes bfloat16 products in float32 and
keeps those copies, so temporaries there are an upper bound for an accelerator; and `offload` saves nothing there, for
host and device are one.
"""

import dataclasses
import time

import jax

from bench.options import Options, say
from bench.programs import NAMES, open_run, shapes_of
from vdm_jax.media.figures import Figure
from vdm_jax.nn.stack import REMAT_POLICIES
from vdm_jax.training.step import make_train_step

ONE_CLIP = ("dit_1b", "dit_14b")  # their batch is over many devices, with one clip each
SMALL = {"model.dim": 32, "model.depth": 2, "train.batch_size": 1, "optimizer.kind": "adamw"}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a compiled step on one device: train state and batch, what it needs beside them, both at once."""

    state: int
    temporary: int
    peak: int


def measure(options: Options) -> list[Figure]:
    """GiB of each config and policy."""
    jax.config.update("jax_enable_compilation_cache", False)
    say(f"compiled for one {jax.devices()[0].device_kind} device; GiB")
    say(f"{'config':10} {'clips':>5} {'remat':14} {'state':>8} {'temporary':>10} {'peak':>8}   compiled in")
    figures = []
    for name in NAMES[:1] if options.quick else NAMES:
        changes = {"train.batch_size": 1} if name in ONE_CLIP else {}
        for policy in REMAT_POLICIES:
            changes |= {"model.remat": policy} | (SMALL if options.quick else {})
            figures.append(_figure(name, policy, changes))
    return figures


def _figure(name: str, policy: str, changes: dict) -> Figure:
    begin = time.perf_counter()
    clips = open_run(name, changes).config.train.batch_size
    row = f"{name:10} {clips:5} {policy:14}"
    try:
        memory = step_memory(name, changes)
    except jax.errors.JaxRuntimeError as error:
        say(f"{row} not on this backend: {str(error).splitlines()[0][:80]}")
        return Figure(f"memory/{name}/{policy}", None, "GiB")
    state, temporary, peak = (x / 2**30 for x in dataclasses.astuple(memory))
    say(f"{row} {state:8.3g} {temporary:10.3g} {peak:8.3g}   {time.perf_counter() - begin:.0f} s")
    return Figure(f"memory/{name}/{policy}", peak, "GiB")


def step_memory(name: str, changes: dict) -> Memory:
    """Compiles the train step of a config for abstract arguments and asks the compiler."""
    run = open_run(name, changes)
    step = make_train_step(run.plan, run.step_config(), run.config.seed)
    found = step.lower(run.plan.abstract, shapes_of(run)).compile().memory_analysis()
    held, temporary = found.argument_size_in_bytes, found.temp_size_in_bytes
    return Memory(held, temporary, held + temporary + found.output_size_in_bytes - found.alias_size_in_bytes)
