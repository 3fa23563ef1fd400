"""A run small enough to be killed: a linear model, a counting data stream, the real loop around them.

As a program, `python -m tests.training.toy_run WORKDIR STEPS [--pause SECONDS]` is the subject of the tests that kill,
interrupt and lock; its pauses make sure that they strike in the middle.
"""

import argparse
import dataclasses
import io
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vdm_jax.errors import RunError
from vdm_jax.training.callbacks import EveryN
from vdm_jax.training.checkpoint import CheckpointConfig, Checkpointer, StepMeta
from vdm_jax.training.loop import Loop, Outcome, start_or_resume, train
from vdm_jax.training.progress import Progress
from vdm_jax.training.run_directory import RunDirectory
from vdm_jax.training.writers import open_writer

OPTIMIZER = optax.adam(1e-2)
CONFIG = {"seed": 0, "train": {"steps": 0, "batch_size": 4}}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ToyState:
    step: jax.Array
    params: dict
    opt_state: dict
    ema: dict
    guard: dict


def init() -> ToyState:
    weights = {"backbone": {"w": jax.random.normal(jax.random.key(0), (8, 16)), "b": jnp.zeros(16, jnp.bfloat16)}}
    params = {**weights, "table": {"fixed": jnp.arange(5.0)}}
    return ToyState(
        jnp.int32(0),
        params,
        {"main": OPTIMIZER.init(weights)},
        {"0.9": jax.tree.map(jnp.copy, weights)},
        {"main": {"skipped": jnp.int32(0)}},
    )


def abstract(sharding: jax.sharding.Sharding | None = None) -> ToyState:
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), jax.eval_shape(init))


def update(state: ToyState, batch: dict) -> tuple[ToyState, dict]:
    def loss_of(weights):
        backbone = weights["backbone"]
        return jnp.square(batch["x"] @ backbone["w"] + backbone["b"].astype(jnp.float32)).mean()

    weights = {"backbone": state.params["backbone"]}
    loss, grads = jax.value_and_grad(loss_of)(weights)
    updates, opt_state = OPTIMIZER.update(grads, state.opt_state["main"], weights)
    weights = optax.apply_updates(weights, updates)
    ema = {"0.9": optax.incremental_update(weights, state.ema["0.9"], 0.1)}
    params = {**weights, "table": state.params["table"]}
    return ToyState(state.step + 1, params, {"main": opt_state}, ema, state.guard), {"loss": loss}


STEP = jax.jit(update, donate_argnums=0)


class ToyData:
    """Batches that are a function of their index alone."""

    def __init__(self, pause: float = 0.0, length: int | None = None):
        self._next, self._pause, self._length = 0, pause, length

    def __next__(self) -> dict:
        if self._next == self._length:
            raise StopIteration
        time.sleep(self._pause)
        batch = {"x": np.random.default_rng(self._next).normal(size=(4, 8)).astype(np.float32)}
        self._next += 1
        return batch

    def get_state(self) -> dict:
        return {"next_index": self._next}

    def set_state(self, state: dict) -> None:
        self._next = state["next_index"]


def run(workdir, steps: int, pause: float = 0.0, every: int = 5, log: int = 3, **parts) -> Outcome:
    """Trains in `workdir`, from its newest checkpoint if there is one."""
    config = CONFIG | {"train": CONFIG["train"] | {"steps": steps}}
    data = parts.pop("data", None) or ToyData(pause)
    with (
        RunDirectory(workdir, config) as directory,
        Checkpointer(directory.checkpoints, CheckpointConfig(every=every, keep=3)) as checkpointer,
    ):
        start = start_or_resume(checkpointer, abstract(), init, data)
        loop = Loop(
            **{
                "steps": steps,
                "step": STEP,
                "data": data,
                "place": jax.device_put,
                "checkpointer": checkpointer,
                "meta": StepMeta({"kind": "toy"}, {}, directory.config, directory.code),
                "writer": open_writer(directory, after=start.step),
                "progress": Progress(steps, stream=io.StringIO()),
                "log": EveryN(log),
            }
            | parts
        )
        try:
            return train(loop, start)
        finally:
            loop.writer.close()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir")
    parser.add_argument("steps", type=int)
    parser.add_argument("--pause", type=float, default=0.0)
    arguments = parser.parse_args()
    progress = Progress(arguments.steps, stream=sys.stderr, every_seconds=0.0)
    try:
        run(arguments.workdir, arguments.steps, arguments.pause, progress=progress)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
