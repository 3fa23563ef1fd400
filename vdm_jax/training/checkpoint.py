"""Checkpoints: one atomic step holds everything a run needs to go on, be sampled or be exported.

    checkpoints/12000/state/     params, optimiser state, EMAs, step, guard: pure pytrees, by field and path
                      meta/      `StepMeta` as JSON: process, data iterator, config, code version, metric window
                      digests/   SHA-256 of every file above (`digests.py`)
    checkpoints/11000.damaged/   a step that failed its digests, kept for whoever wants to look
    frozen/0/                    the same of weights that nothing trains, where a run has such; written once, before
                                 the first step that is saved

Saving is asynchronous: `save` returns when the arrays are copied out of the device's reach, Orbax writes them in
the background, and the directory gets its final name when everything in it is complete.

Restoring walks from the newest step to the oldest.  A step that is not what was written is named in one loud line,
renamed to `<step>.damaged` and the next older one is tried; only when none is left does the run stop.  Two other
faults are not damage, and falling back would hide them: a state of another shape or dtype (Orbax would cast the
dtype silently) is a `ValueError`, and a step whose bytes are all right but which cannot be loaded (no memory, say)
is a `RunError`; both leave the step alone.

Several processes share one directory: process 0 chooses the step and renames, all divide the reading of digests
and go on only together.
"""

import contextlib
import dataclasses
import itertools
import logging
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.nn.path_filter import Path
from vdm_jax.training import digests

_STATE, _META = "state", "meta"
FROZEN = "frozen"  # beside the folder of checkpoints


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep.

    Attributes:
      every: steps between saves; the last step and a stop are always saved.
      keep: how many of the newest steps stay.
      keep_every: steps divisible by this stay for ever; None keeps none of them.
    """

    every: int = 1000
    keep: int = 3
    keep_every: int | None = None

    def __post_init__(self):
        for name in ("every", "keep", "keep_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value!r} is not a number of steps; allowed: 1 or more")


@dataclasses.dataclass(frozen=True)
class StepMeta:
    """What stands beside the arrays of a step; every field is plain JSON.

    Attributes:
      process: `diffusion.process_to_dict` of the run: weights mean nothing without it.
      data: state of the data iterator after the batch of this step was drawn.
      config: the config of the run.
      code: the code version (`run_directory.code_version`).
      window: sums of the metrics since the last log line (`metrics.LateMetrics.window_state`).
    """

    process: dict[str, Any]
    data: dict[str, Any]
    config: dict[str, Any]
    code: dict[str, Any] = dataclasses.field(default_factory=dict)
    window: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Restored:
    """A restored step: its number, its state (or one part of it) and what stood beside it."""

    step: int
    state: Any
    meta: StepMeta


class Checkpointer:
    """Writes and restores the checkpoints of one run; used as a context manager.

    Args:
      directory: the run's `checkpoints/`; made if absent.
      config: when to save, what to keep.
      frozen: paths of `params` that never change, and are kept once beside the steps.

    Raises:
      RunError: the directory cannot be written.
    """

    def __init__(self, directory: epath.PathLike, config: CheckpointConfig, frozen: frozenset[Path] = frozenset()):
        self.directory = epath.Path(directory)
        self.config, self.frozen = config, frozen
        _quiet_orbax()
        keep = [policies.LatestN(config.keep)]
        if config.keep_every is not None:
            keep.append(policies.EveryNSteps(config.keep_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=True,  # what a killed save left; the run's lock says nobody else is saving
        )
        handlers = {
            _STATE: ocp.PyTreeCheckpointHandler(),
            _META: ocp.JsonCheckpointHandler(),
            digests.ITEM: digests.DigestHandler(),  # last: it digests the files of the others
        }
        try:
            self._manager = ocp.CheckpointManager(self.directory, item_handlers=handlers, options=options)
        except OSError as error:
            raise RunError(f"checkpoints: cannot write {self.directory}: {error.strerror or error}") from None

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None or jax.process_count() == 1:
            self.close()
        # Else the others may be anywhere, and closing would wait for them; what was being saved is not complete.

    def save(self, step: int, state: Any, meta: StepMeta) -> None:
        """Starts writing one step and returns as soon as the arrays of `state` may be donated.

        Args:
          step: number of finished steps; must not have been saved before.
          state: a dataclass or dict of pytrees of arrays.
          meta: what stands beside it.

        Raises:
          RunError: this save or the one before it failed; steps that were complete stay as they are.
        """
        state = _as_dict(state)
        if self.frozen:
            state["params"], frozen = _apart(state["params"], self.frozen)
            if _newest(self.directory.parent / FROZEN) is None:
                with Checkpointer(self.directory.parent / FROZEN, CheckpointConfig()) as beside:
                    beside.save(0, {"params": frozen}, meta)
        args = ocp.args.Composite(
            **{
                _STATE: ocp.args.PyTreeSave(state),
                _META: ocp.args.JsonSave(dataclasses.asdict(meta)),
                digests.ITEM: digests.DigestSave(),
            }
        )
        try:
            saved = self._manager.save(step, args=args, force=True)
        except Exception as error:
            raise self._save_error(error) from None
        assert saved, f"Orbax declined to save step {step}"

    def wait(self) -> None:
        """Waits until the last save is complete.  Raises RunError if it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._save_error(error) from None

    def close(self) -> None:
        """Waits for the save under way and lets go of the directory.  Raises RunError if that save failed."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def restore(self, abstract: Any) -> Restored | None:
        """Restores the newest intact step.

        Args:
          abstract: the state as `jax.ShapeDtypeStruct`s with shardings, of any mesh.

        Returns:
          The step, or None when nothing was ever saved here.

        Raises:
          ValueError: the saved state has other leaves, shapes or dtypes.
          RunError: all steps are damaged, or an intact one cannot be loaded.
        """
        wanted, frozen = _as_dict(abstract), {}
        if self.frozen:
            wanted["params"], frozen = _apart(wanted["params"], self.frozen)
        while (step := _newest(self.directory)) is not None:
            path = self.directory / str(step)
            fault = digests.find_damage(path, jax.process_index(), jax.process_count())
            if fault is not None:
                _shout(path, fault)
            if _everywhere(fault is None):
                state, meta = _load(path, wanted)
                if self.frozen:
                    state["params"] = _together(state["params"], self._restore_frozen(frozen))
                return Restored(step, type(abstract)(**state) if dataclasses.is_dataclass(abstract) else state, meta)
            self._put_aside(path)
        damaged = sorted(p.name for p in self.directory.iterdir() if ".damaged" in p.name)
        if damaged:
            raise RunError(
                f"checkpoints: no intact step is left in {self.directory} ({', '.join(damaged)}); "
                "to begin again, choose another workdir or delete this folder"
            )
        return None

    def _restore_frozen(self, abstract: Any) -> Any:
        folder = self.directory.parent / FROZEN
        with Checkpointer(folder, CheckpointConfig()) as beside:
            found = beside.restore({"params": abstract})
        if found is None:
            raise RunError(f"checkpoints: {folder} is gone, and with it the weights that this run does not train")
        return found.state["params"]

    def _put_aside(self, path: epath.Path) -> None:
        if jax.process_index() == 0:
            aside = epath.Path(f"{path}.damaged")
            while aside.exists():
                aside = epath.Path(f"{aside}+")
            path.rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"put aside {path.name}")
        self._manager.reload()

    def _save_error(self, error: Exception) -> RunError:
        """One line for a failed save, whose half-written directory is removed: a full disk needs the room."""
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                for path in self.directory.glob("*.orbax-checkpoint-tmp"):
                    path.rmtree()
        intact = ", ".join(map(str, _steps(self.directory))) or "none"
        return RunError(f"checkpoints: cannot save to {self.directory}: {_line(error)}; complete steps: {intact}")


def restore_weights(
    directory: epath.PathLike, which: str = "params", *, step: int | None = None, abstract: Any = None
) -> Restored:
    """Restores one set of weights, without the optimiser, without touching the directory.

    Args:
      directory: the run's `checkpoints/`.
      which: `params`, or `ema:0.999` for the EMA of that decay (parameters that have no EMA, because nothing trains
        them, are filled in from `params`).
      step: which step; None takes the newest intact one.
      abstract: the weights as `jax.ShapeDtypeStruct`s with shardings; None puts all of them on one device.

    Returns:
      The weights `{network: nested dict}` as `state`, with the step and its `StepMeta`.

    Raises:
      ValueError: no such weights or step (names those there are), or other shapes than `abstract`.
      RunError: no checkpoint, or none intact.
    """
    directory = epath.Path(directory)
    steps = _steps(directory)
    beside = directory.parent / FROZEN
    apart = beside.exists() and directory != beside
    if step is not None and step not in steps:
        raise ValueError(f"step: {did_you_mean(str(step), steps)}")
    _quiet_orbax()
    for candidate in reversed(steps) if step is None else [step]:
        path = directory / str(candidate)
        fault = digests.find_damage(path)
        if fault is None:
            frozen = None
            if apart and abstract is not None:
                frozen, abstract = _apart(abstract, frozenset(flatten_dict(_saved_layout(path)["params"])))
            state, meta = _load(path, _select(path, which, abstract), partial=True)
            parts = [state.get("params", {}), *state.get("ema", {}).values()]
            if apart and frozen != {}:  # nothing of them is asked for
                parts.append(restore_weights(beside, abstract=frozen).state)
            return Restored(candidate, _together(*parts), meta)
        if path.exists():  # else the run that writes here has deleted it in the meantime
            _shout(path, fault)
    raise RunError(f"checkpoints: no intact step in {directory}" if steps else f"checkpoints: none in {directory}")


def _apart(params: Mapping[str, Any], paths: frozenset[Path]) -> tuple[dict, dict]:
    """What does not stand at `paths`, and what does."""
    flat = flatten_dict(params)
    without, within = ({path: leaf for path, leaf in flat.items() if (path in paths) == at} for at in (False, True))
    return unflatten_dict(without), unflatten_dict(within)


def _together(*parts: Mapping[str, Any]) -> dict[str, Any]:
    return unflatten_dict(dict(itertools.chain(*(flatten_dict(part).items() for part in parts))))


def _load(path: epath.Path, target: dict, partial: bool = False) -> tuple[dict, StepMeta]:
    """Loads `target` (all or a part of a step whose bytes are known to be right) and the meta item."""
    _check_layout(path, target, partial)
    restore_args = ocp.checkpoint_utils.construct_restore_args(target)
    args = ocp.args.PyTreeRestore(item=target, restore_args=restore_args, partial_restore=partial)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return reader.restore(path / _STATE, args=args), read_meta(path)
    except Exception as error:
        raise RunError(f"checkpoints: {path} is as it was written but cannot be loaded: {_line(error)}") from None


def read_meta(path: epath.PathLike) -> StepMeta:
    """Reads what stands beside the arrays of one step directory.  Raises OSError or ValueError."""
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        return StepMeta(**reader.restore(epath.Path(path) / _META, args=ocp.args.JsonRestore()))


def _select(path: epath.Path, which: str, abstract: Any) -> dict:
    """The part of a saved state that `which` names, as a nested dict of abstract arrays."""
    saved = _saved_layout(path)
    averages = saved.get("ema") or {}
    allowed = ["params", *(f"ema:{decay}" for decay in averages)]
    if which not in allowed:
        raise ValueError(f"weights: {did_you_mean(which, allowed)}")
    if abstract is None:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=here), saved["params"])
    if which == "params":
        return {"params": abstract}
    decay = which.removeprefix("ema:")
    averaged = flatten_dict(averages[decay])
    flat = flatten_dict(abstract)
    rest = {keys: leaf for keys, leaf in flat.items() if keys not in averaged}
    target = {"ema": {decay: unflatten_dict({keys: leaf for keys, leaf in flat.items() if keys in averaged})}}
    return target | ({"params": unflatten_dict(rest)} if rest else {})


def _check_layout(path: epath.Path, target: dict, partial: bool) -> None:
    """Compares leaves, shapes and dtypes; Orbax itself would cast another dtype without a word."""
    saved, wanted = _leaves(_saved_layout(path)), _leaves(target)
    names = wanted.keys() if partial else wanted.keys() | saved.keys()
    none = "nothing"
    differing = [
        f"{name}: {saved.get(name, none)} saved, {wanted.get(name, none)} wanted"
        for name in sorted(names)
        if saved.get(name) != wanted.get(name)
    ]
    if differing:
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError(f"checkpoint {path} holds another state: {'; '.join(differing[:3])}{more}")


def _saved_layout(path: epath.Path) -> dict:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.metadata(path / _STATE).item_metadata.tree


def _leaves(tree: Any) -> dict[str, str]:
    """`{"params/backbone/kernel": "float32[8,8]"}`; equal for a pytree and for what Orbax keeps of it."""

    def name(key) -> str:
        return str(next(getattr(key, a) for a in ("key", "name", "idx") if hasattr(key, a)))

    return {
        "/".join(map(name, keys)): f"{np.dtype(leaf.dtype)}[{','.join(map(str, leaf.shape))}]"
        for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _as_dict(state: Any) -> dict:
    """One level of a dataclass as a dict, so that what is on disk does not depend on our class."""
    if isinstance(state, Mapping):
        return dict(state)
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _steps(directory: epath.Path) -> list[int]:
    """Committed steps, oldest first."""
    if not directory.exists():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit())


def _newest(directory: epath.Path) -> int | None:
    """The newest step in the eyes of process 0: file systems may show others an older picture."""
    newest = max(_steps(directory), default=-1)
    if jax.process_count() > 1:
        newest = int(multihost_utils.broadcast_one_to_all(np.int32(newest)))
    return newest if newest >= 0 else None


def _everywhere(condition: bool) -> bool:
    """True when `condition` holds in every process."""
    if jax.process_count() == 1:
        return condition
    return bool(np.all(multihost_utils.process_allgather(np.bool_(condition))))


def _shout(path: epath.Path, fault: str) -> None:
    print(
        f"\n!!! DAMAGED CHECKPOINT: step {path.name}, {path}/{fault}; trying an older one\n",
        file=sys.stderr,
        flush=True,
    )


def _line(error: Exception) -> str:
    """The first line of an error, which in Orbax may be many."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


class _NoTracebacks(logging.Filter):
    """Drops what Orbax logs about a failed save: `Checkpointer` raises the same error as one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname or record.levelno < logging.WARNING


def _quiet_orbax() -> None:
    logger = logging.getLogger("absl")
    if not any(isinstance(f, _NoTracebacks) for f in logger.filters):
        logger.addFilter(_NoTracebacks())
