"""Section `overhead`: what one step call costs the host, outside of XLA.

The call is that of `TrainStep` with the train state, batch, donation and output shardings of the config, but every
width is shrunk to almost nothing and the program is replaced by one that hands its input through.  What is left is
Python, jax's dispatch of several hundred arrays, and the launch of an empty program; all of it grows with the
number of arrays and not with their sizes.
"""

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp

from bench.options import Options, say
from bench.programs import batch_shapes, open_run, random_batch
from vdm_jax.media.figures import Figure
from vdm_jax.sharding import place_batch, replicated
from vdm_jax.training.metrics import LateMetrics
from vdm_jax.training.run import Run
from vdm_jax.training.step import TrainStep, make_train_step

BAR_MS = 3.0
NAMES = ("dit_tiny", "dit_1b")


def measure(options: Options) -> list[Figure]:
    """Milliseconds of a step call, and of a whole turn of the loop's host side, for each config."""
    figures = []
    for name in NAMES:
        run = narrow_run(name)
        arrays = len(jax.tree.leaves(run.plan.abstract))
        assert arrays == len(jax.tree.leaves(open_run(name).plan.abstract)), "narrowing must keep every array"
        calls, turns = time_calls(run, 20 if options.quick else 300)
        call, turn = (statistics.median(seconds) * 1e3 for seconds in (calls, turns))
        say(f"{name}: {arrays} arrays, step call {call:.2f} ms, with batch placement and late metrics {turn:.2f} ms")
        spread = statistics.stdev(calls) * 1e3
        figures += [
            Figure(f"overhead/{name}/step_call", call, "ms", n=len(calls), spread=spread, ok=call < BAR_MS),
            Figure(f"overhead/{name}/loop_turn", turn, "ms", n=len(turns)),
        ]
    return figures


def narrow_run(name: str) -> Run:
    """The run of a config with all of its arrays, each as small as can be, and a batch of one."""
    model = open_run(name).config.networks.model
    frames, height, width = model.patch
    return open_run(
        name,
        {
            **{"model.dim": 2 * model.heads, "model.mlp_dim": 8, "train.batch_size": 1},
            **{"data.frames": frames, "data.height": height, "data.width": width},
            **{"text.dim": 32, "text.length": 4, "text.vocab_size": 8},
        },
    )


def empty_step(run: Run) -> TrainStep:
    """A `TrainStep` that is called like the real one and computes nothing."""
    plan, real = run.plan, make_train_step(run.plan, run.step_config(), run.config.seed)
    batch = {name: jax.ShapeDtypeStruct(*shape) for name, shape in batch_shapes(run).items()}
    metrics = jax.eval_shape(real.compiled, plan.abstract, batch, real.placed_seed)[1]

    def program(state, batch, seed):
        state = jax.lax.optimization_barrier(state)  # else jax hands the arrays through without running anything
        zeros = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), metrics)
        return dataclasses.replace(state, step=state.step + 1), zeros

    out = (plan.shardings, replicated(plan.mesh))
    return TrainStep(jax.jit(program, donate_argnums=0, out_shardings=out), real.seed, real.mesh)


def time_calls(run: Run, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds until the call returns, and until the loop would call again."""
    step, state, late = empty_step(run), run.plan.init(run.config.seed), LateMetrics()
    host = random_batch(batch_shapes(run), seed=0)
    calls, turns = [], []
    for number in range(-10, repeats):
        begin = time.perf_counter()
        batch = place_batch(host, run.mesh)
        before = time.perf_counter()
        state, metrics = step(state, batch)
        after = time.perf_counter()
        late.push(number, metrics)
        end = time.perf_counter()
        jax.block_until_ready(state)
        if number >= 0:  # the calls before that compile
            calls.append(after - before)
            turns.append(end - begin)
    return calls, turns
