"""The toy run as one of two processes: `python -m tests.training.two_processes PORT INDEX WORKDIR STEPS PAUSE`."""

import contextlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.training import toy_run
from vdm_jax.training.callbacks import EveryN
from vdm_jax.training.checkpoint import CheckpointConfig, Checkpointer, StepMeta
from vdm_jax.training.loop import Loop, start_or_resume, train
from vdm_jax.training.progress import Progress
from vdm_jax.training.run_directory import RunDirectory
from vdm_jax.training.writers import open_writer


def main(port: str, index: int, workdir: str, steps: int, pause: float) -> None:
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=index)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
    everywhere, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    shapes = jax.eval_shape(toy_run.init)
    shardings = jax.tree.map(lambda a: rows if a.shape == (8, 16) else everywhere, shapes)
    abstract = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings)
    step = jax.jit(toy_run.update, donate_argnums=0, out_shardings=(shardings, everywhere))

    def place(batch):
        mine = np.split(batch["x"], 2)[index]
        return {"x": jax.make_array_from_process_local_data(rows, mine)}

    config = toy_run.CONFIG | {"train": {"steps": steps}}
    data = toy_run.ToyData(pause)
    with (
        RunDirectory(workdir, config) as run,
        Checkpointer(run.checkpoints, CheckpointConfig(every=5)) as checkpointer,
        contextlib.closing(Progress(steps, stream=sys.stderr, every_seconds=0.0)) as progress,
    ):
        start = start_or_resume(checkpointer, abstract, jax.jit(toy_run.init, out_shardings=shardings), data)
        print(f"started at {start.step}", flush=True)
        writer = open_writer(run, after=start.step)
        meta = StepMeta({"kind": "toy"}, {}, run.config, run.code)
        outcome = train(Loop(steps, step, data, place, checkpointer, meta, writer, progress, EveryN(3)), start)
        total = float(jax.jit(lambda p: jnp.abs(p["backbone"]["w"]).sum())(outcome.state.params))
        print(f"ended at {outcome.step} by {outcome.stopped_by} with {total!r}", flush=True)
        writer.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
