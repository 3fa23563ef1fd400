"""Section `compile`: the time to trace, lower and compile the train step of dit_14b, and how it grows with depth.

Blocks are scanned, so twice the depth is the same program with longer arrays.  The step is compiled ahead of time
for one device of this machine from abstract arguments: nothing of the model is allocated.
"""

import time

import jax

from bench.options import Options, say
from bench.programs import open_run, shapes_of
from vdm_jax.media.figures import Figure
from vdm_jax.training.step import make_train_step

BAR = 0.20
NAME = "dit_14b"
DEPTHS = (40, 80)
SMALL = {"model.dim": 80, "model.mlp_dim": 64, "data.frames": 2, "data.height": 4, "data.width": 4, "text.dim": 32}


def measure(options: Options) -> list[Figure]:
    """Seconds at each depth, and the growth of the quickest of a few repeats (which other work disturbed least)."""
    jax.config.update("jax_enable_compilation_cache", False)
    changes = SMALL if options.quick else {}
    lower_and_compile(2, SMALL)  # LLVM's start-up is no part of either
    taken = {depth: [] for depth in DEPTHS}
    for _ in range(1 if options.quick else 3):
        for depth in DEPTHS:
            wall, cpu = lower_and_compile(depth, changes)
            say(f"{NAME}, depth {depth}: traced, lowered and compiled in {wall:.1f} s ({cpu:.1f} s of CPU time)")
            taken[depth].append((wall, cpu))
    figures = []
    for depth in DEPTHS:
        walls = [wall for wall, _ in taken[depth]]
        figures.append(
            Figure(f"compile/{NAME}/depth_{depth}", min(walls), "s", n=len(walls), spread=max(walls) - min(walls))
        )
    n = figures[0].n
    growth, growth_cpu = (min(t[i] for t in taken[DEPTHS[1]]) / min(t[i] for t in taken[DEPTHS[0]]) - 1 for i in (0, 1))
    figures.append(Figure(f"compile/{NAME}/growth", growth, "", n=n, ok=growth < BAR))
    return [*figures, Figure(f"compile/{NAME}/growth_of_cpu_time", growth_cpu, "", n=n)]


def lower_and_compile(depth: int, changes: dict) -> tuple[float, float]:
    """Wall and CPU seconds of tracing, lowering and compiling the step for one clip."""
    jax.clear_caches()
    wall, cpu = time.perf_counter(), time.process_time()
    run = open_run(NAME, {"model.depth": depth, "train.batch_size": 1, **changes})
    step = make_train_step(run.plan, run.step_config(), run.config.seed)
    step.lower(run.plan.abstract, shapes_of(run)).compile()
    return time.perf_counter() - wall, time.process_time() - cpu
