"""Starting `jax.distributed`, and putting each process's part of a batch on the mesh.

A run is multi-process when its environment says so, in one of two ways:

- `JAX_COORDINATOR_ADDRESS` (host:port), `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID`: all three, set by hand or a launcher;
- a cluster JAX knows itself (Cloud TPU pods, Slurm, Open MPI, GKE), asked for by `JAX_DISTRIBUTED=auto`.

Nothing is guessed: a Slurm variable left over in a login shell must not make a laptop run wait for peers.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.sharding.mesh import BATCH_AXES, batch_shards

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def start(environ: Mapping[str, str] = os.environ, timeout_seconds: int = 300) -> bool:
    """Joins the processes of this run; call it before the first use of a device.  Safe to call again.

    Args:
      environ: read instead of `os.environ` in tests.
      timeout_seconds: how long to wait for the other processes.

    Returns:
      Whether this run has several processes.

    Raises:
      ValueError: the variables are incomplete or not numbers.
      RunError: the other processes did not come in time, or the address is not reachable.
    """
    if jax.distributed.is_initialized():
        return True
    options = launch_options(environ)
    if options is None:
        return False
    try:
        jax.distributed.initialize(**options, initialization_timeout=timeout_seconds)
    except (RuntimeError, ValueError) as error:
        where = options.get("coordinator_address", "the cluster's coordinator")
        who = f"process {options['process_id']} of {options['num_processes']}" if "process_id" in options else "process"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"multihost: {who} could not join {where} within {timeout_seconds} s: {reason}") from error
    return True


def launch_options(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize` that the environment asks for; None for one process.

    Raises:
      ValueError: some of the three variables are missing, or one has no sense.
    """
    mode = environ.get("JAX_DISTRIBUTED")
    if mode not in (None, "", "auto"):
        raise ValueError(f"JAX_DISTRIBUTED: {did_you_mean(mode, ['auto'])}")
    given = {name: environ[name] for name in VARIABLES if environ.get(name)}
    if not given:
        return {} if mode == "auto" else None
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise ValueError(f"{missing[0]}: missing; {', '.join(given)} is set, a multi-process run needs all three")
    numbers = {}
    for name in VARIABLES[1:]:
        if not given[name].isdigit():
            raise ValueError(f"{name}: {given[name]!r} is not a number")
        numbers[name] = int(given[name])
    count, index = numbers["JAX_NUM_PROCESSES"], numbers["JAX_PROCESS_ID"]
    if index >= count:
        raise ValueError(f"JAX_PROCESS_ID: {index} is outside 0..{count - 1} (JAX_NUM_PROCESSES is {count})")
    return {"coordinator_address": given[VARIABLES[0]], "num_processes": count, "process_id": index}


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first dim over `data` and `fsdp`, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """One copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Puts this process's examples on the mesh as parts of one global batch.

    Args:
      batch: (nested) dict of numpy arrays `[B / processes, ...]`, in the order of the processes.  64-bit integers
        keep their low 32 bits (a global example index only seeds random numbers on the device).
      mesh: of `make_mesh`.

    Returns:
      The same dict of global arrays `[B, ...]`, split by `batch_sharding`.

    Raises:
      ValueError: an array that is not numeric, without a batch dim, or that the mesh does not divide.
    """
    sharding = batch_sharding(mesh)
    parts = batch_shards(mesh)

    def place(path: tuple, value: Any) -> jax.Array:
        name = "/".join(str(getattr(key, "key", key)) for key in path)
        array = np.asarray(value)
        if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
            raise ValueError(f"batch[{name!r}]: dtype {array.dtype} cannot go on a device; tokenise or drop it first")
        count = array.shape[0] * jax.process_count() if array.ndim else 0
        if not count or count % parts:
            raise ValueError(f"batch[{name!r}]: {count} examples do not divide into {parts} parts (data x fsdp)")
        array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
        return jax.make_array_from_process_local_data(sharding, array)

    return jax.tree_util.tree_map_with_path(place, dict(batch))
