"""Starting `jax.distributed`, and putting each process's part of a batch on the mesh.

A run is multi-process when its environment says so, in one of two ways:

- `JAX_COORDINATOR_ADDRESS` (host:port), `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID`: all three, set by hand or a launcher;
- a cluster JAX knows itself (Cloud TPU pods, Slurm, Open MPI, GKE), asked for by `JAX_DISTRIBUTED=auto`.

Nothing is guessed: a Slurm variable left over in a login shell must not make a laptop run wait for peers.
"""

import contextlib
import functools
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.sharding.mesh import BATCH_AXES, batch_shards

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
PATIENCE = "VDM_JOIN_SECONDS"  # how long a process waits for the others; 300 by default

_GRACE = 60  # seconds that JAX would wait longer than we do


def start(environ: Mapping[str, str] = os.environ, timeout_seconds: float | None = None) -> bool:
    """Joins the processes of this run; call it before the first use of a device.  Safe to call again.

    Args:
      environ: read instead of `os.environ` in tests.
      timeout_seconds: how long to wait for the other processes; by default what `VDM_JOIN_SECONDS` says, or 300.

    Returns:
      Whether this run has several processes.

    Raises:
      ValueError: the variables are incomplete or not numbers.
      RunError: the address is not reachable in time.
      (If it is, but another process is missing, this one ends with one line and status 1: JAX cannot be interrupted.)
    """
    if jax.distributed.is_initialized():
        return True
    options = launch_options(environ)
    if options is None:
        return False
    if timeout_seconds is None:
        timeout_seconds = _patience(environ)
    who, where = "this process", "the cluster's coordinator"
    if options:
        who = f"process {options['process_id']} of {options['num_processes']}"
        where = options["coordinator_address"]
        if options["process_id"] != 0:
            _await_coordinator(where, who, timeout_seconds)
    message = f"multihost: {who} waited {timeout_seconds:g} s at {where} and not all processes came"
    try:
        with _exit_after(timeout_seconds, message):
            jax.distributed.initialize(**options, initialization_timeout=int(timeout_seconds) + _GRACE)
    except (RuntimeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RunError(f"multihost: {who} could not join {where}: {reason}") from error
    return True


def _await_coordinator(address: str, who: str, timeout_seconds: float) -> None:
    """Waits until somebody listens at the address; JAX would abort the process with a C++ stack instead."""
    host, _, port = address.rpartition(":")
    deadline, reason = time.monotonic() + timeout_seconds, "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            socket.create_connection((host, int(port)), timeout=min(left, 5.0)).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(min(left, 0.2))
    raise RunError(f"multihost: {who} could not reach {address} within {timeout_seconds:g} s: {reason}")


def _patience(environ: Mapping[str, str]) -> float:
    text = environ.get(PATIENCE) or "300"
    if not text.replace(".", "", 1).isdigit() or not float(text):
        raise ValueError(f"{PATIENCE}: {text!r} is not a number of seconds")
    return float(text)


@contextlib.contextmanager
def _exit_after(seconds: float, message: str) -> Iterator[None]:
    """Ends the process with one line and status 1 if the body takes longer.

    The body is a C++ call that cannot be interrupted and that, left to its own timeout, aborts with a stack trace.
    """

    def give_up() -> None:
        print(f"vdm: {message}", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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
    address = given[VARIABLES[0]]
    if not address.rpartition(":")[2].isdigit() or not address.rpartition(":")[0]:
        raise ValueError(f"{VARIABLES[0]}: {address!r} is not host:port")
    numbers = {}
    for name in VARIABLES[1:]:
        if not given[name].isdigit():
            raise ValueError(f"{name}: {given[name]!r} is not a number")
        numbers[name] = int(given[name])
    count, index = numbers["JAX_NUM_PROCESSES"], numbers["JAX_PROCESS_ID"]
    if index >= count:
        raise ValueError(f"JAX_PROCESS_ID: {index} is outside 0..{count - 1} (JAX_NUM_PROCESSES is {count})")
    return {"coordinator_address": address, "num_processes": count, "process_id": index}


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first dim over `data` and `fsdp`, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """One copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Positions in a global batch of the examples that this process must load: those its devices hold, ascending.

    Processes whose devices hold the same part of the batch (`context` or `tensor` spans them) load the same examples.

    Args:
      mesh: of `make_mesh`.
      batch_size: of the global batch, divisible by data x fsdp.
    """
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[rows] for rows in held]))


def place_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Puts this process's examples on the mesh as parts of one global batch.

    Args:
      batch: (nested) dict of numpy arrays, the rows `batch_rows` of the global batch.  64-bit integers keep their low
        32 bits (a global example index only seeds random numbers on the device).
      mesh: of `make_mesh`.

    Returns:
      The same dict of global arrays `[B, ...]`, split by `batch_sharding`.

    Raises:
      ValueError: an array that is not numeric, without a batch dim, or that the mesh does not divide.
    """
    sharding = batch_sharding(mesh)
    parts, here = batch_shards(mesh), _parts_here(mesh)

    def place(path: tuple, value: Any) -> jax.Array:
        name = "/".join(str(getattr(key, "key", key)) for key in path)
        array = np.asarray(value)
        if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
            raise ValueError(f"batch[{name!r}]: dtype {array.dtype} cannot go on a device; tokenise or drop it first")
        count = array.shape[0] if array.ndim else 0
        if not count or count % here:
            raise ValueError(f"batch[{name!r}]: {count} examples do not divide into {here} parts (data x fsdp)")
        array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
        whole = (count // here * parts, *array.shape[1:])
        return jax.make_array_from_process_local_data(sharding, array, whole)

    return jax.tree_util.tree_map_with_path(place, dict(batch))


@functools.lru_cache(maxsize=8)
def _parts_here(mesh: Mesh) -> int:
    """Into how many parts the batch is split on the devices of this process."""
    return len(batch_rows(mesh, batch_shards(mesh)))
