"""A run that was measured, held against its plan."""

import json
import statistics
from pathlib import Path

from vdm_jax.errors import RunError
from vdm_jax.media.figures import Figure
from vdm_jax.planning.plan import Plan

_RATE = "perf/steps_per_second"


def measured_step_seconds(run: Path) -> tuple[float, float, int]:
    """Median seconds of a step that a run wrote down, their spread (standard deviation), and how many readings.

    The run's own rate, without its first step (which compiles), evaluations and checkpoints.

    Raises:
      ValueError: there are no metrics.
      RunError: they cannot be read.
    """
    file = run / "metrics.jsonl"
    if not file.is_file():
        raise ValueError(f"--profile-of: {run} holds no metrics.jsonl; it must be the workdir of a run")
    try:
        lines = [json.loads(line) for line in file.read_text().splitlines() if line]
    except ValueError as error:
        raise RunError(f"--profile-of: {file} cannot be read: {error}") from None
    seconds = [1 / line[_RATE] for line in lines if line.get(_RATE, 0) > 0]
    if not seconds:
        raise ValueError(f"--profile-of: {file} has no {_RATE} yet")
    return statistics.median(seconds), statistics.pstdev(seconds), len(seconds)


def compare(plan: Plan, run: Path) -> list[Figure]:
    """Measured against predicted: the time of a step, and the rate of model FLOPs."""
    seconds, spread, count = measured_step_seconds(run)
    predicted = plan.times.step if plan.times else None
    rate = plan.model.total / seconds / plan.target.devices / 1e12
    best = plan.model.total / predicted / plan.target.devices / 1e12 if predicted else None
    figures = [
        Figure("measured/step", seconds, "s", peer=predicted, ratio=predicted and seconds / predicted, n=count,
               spread=spread),
        Figure("measured/model_rate", rate, "TFLOP/s a device", peer=best, ratio=best and rate / best, n=count),
    ]  # fmt: skip
    if plan.times:
        mfu = rate * 1e12 / plan.target.chip.flops
        figures.append(Figure("measured/mfu", mfu, peer=plan.times.mfu, ratio=mfu / plan.times.mfu, n=count))
    return figures
