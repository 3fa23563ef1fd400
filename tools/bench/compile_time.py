"""Section `compile`: the time to trace, lower and compile the train step of dit_14b, and how it grows with depth.

Blocks are scanned, so twice the depth is the same program with longer arrays.  The step is compiled ahead of time
for one device of this machine from abstract arguments: nothing of the model is allocated.
"""

import statistics
import time

import jax

from bench.options import Options, say
from bench.programs import open_run, shapes_of
from vdm_jax.media.figures import Figure
from vdm_jax.training.step import make_train_step

BAR = 0.20
NAME = "dit_14b"
DEPTHS = (40, 80)


def measure(options: Options) -> list[Figure]:
    """Seconds at each depth, and the growth."""
    jax.config.update("jax_enable_compilation_cache", False)
    small = {"model.dim": 80, "model.mlp_dim": 64, "data.frames": 2, "data.height": 4, "data.width": 4, "text.dim": 32}
    lower_and_compile(2, small)  # LLVM's start-up is no part of either
    seconds = {depth: [] for depth in DEPTHS}
    for _ in range(1 if options.quick else 3):
        for depth in DEPTHS:
            lower, compile_ = lower_and_compile(depth, small if options.quick else {})
            say(f"{NAME}, depth {depth}: traced and lowered in {lower:.1f} s, compiled in {compile_:.1f} s")
            seconds[depth].append(lower + compile_)
    shallow, deep = (statistics.median(seconds[depth]) for depth in DEPTHS)
    growth = deep / shallow - 1
    n = len(seconds[DEPTHS[0]])
    return [
        Figure(f"compile/{NAME}/depth_{DEPTHS[0]}", shallow, "s", n=n, spread=_range(seconds[DEPTHS[0]])),
        Figure(f"compile/{NAME}/depth_{DEPTHS[1]}", deep, "s", n=n, spread=_range(seconds[DEPTHS[1]])),
        Figure(f"compile/{NAME}/growth", growth, "", n=n, ok=growth < BAR),
    ]


def lower_and_compile(depth: int, changes: dict) -> tuple[float, float]:
    """Seconds of tracing with lowering, and of compiling, for one clip in the batch."""
    jax.clear_caches()
    begin = time.perf_counter()
    run = open_run(NAME, {"model.depth": depth, "train.batch_size": 1, **changes})
    lowered = make_train_step(run.plan, run.step_config(), run.config.seed).lower(run.plan.abstract, shapes_of(run))
    middle = time.perf_counter()
    lowered.compile()
    return middle - begin, time.perf_counter() - middle


def _range(values: list[float]) -> float:
    return max(values) - min(values)
