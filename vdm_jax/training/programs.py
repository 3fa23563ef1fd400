"""The compiled programs of a run: its train step, once for each bucket, made at the start or loaded from disk.

Compiling is paid before the first step, so that no bucket stops the run when its first turn comes.  Two things make the
next start cheap:

  compile.cache            JAX's persistent cache, a directory that runs share: spares XLA's work, not the tracing
  compile.keep_programs    RUN/programs/: the executables themselves, spares both; for a run that is started often

    programs/8x16x16x32.0-of-2.program      one line of JSON: its key, and the SHA-256 of what follows; the executable

A kept program is used only if everything it depends on is the same (`ProgramKey`); else it is refused in one line that
says what differs, and compiled again.  It is executable code: keep the run directory as safe as the code.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pickle
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from vdm_jax.config import difference
from vdm_jax.training.state import TrainState
from vdm_jax.training.step import Batch, Metrics, TrainStep

# What of a config decides nothing about the program: where data and results lie, and when something is written.
_OUTSIDE = ("data", "log", "checkpoint", "compile")
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


@dataclasses.dataclass(frozen=True)
class CompileConfig:
    """The `compile` section.

    Attributes:
      cache: directory of JAX's persistent compilation cache; None leaves it to `JAX_COMPILATION_CACHE_DIR`.
      keep_programs: keep the compiled steps in the run directory, and load them at the next start.
    """

    cache: str | None = None
    keep_programs: bool = False


def use_cache(config: CompileConfig) -> None:
    """Makes JAX use the persistent cache that the config names; to be called before anything is compiled."""
    if config.cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(Path(config.cache).absolute()))
        compilation_cache.reset_cache()


@dataclasses.dataclass(frozen=True)
class Programs:
    """A train step for a fixed list of batch shapes, all compiled; called like the `TrainStep` it was made from.

    Raises `ValueError` for a batch of another shape.
    """

    step: TrainStep
    compiled: Mapping[tuple, jax.stages.Compiled]

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        program = self.compiled.get(signature(batch))
        if program is None:
            known = "; ".join(map(str, self.compiled))
            raise ValueError(f"batch: no step was compiled for {signature(batch)}; there are: {known}")
        return program(state, batch, self.step.placed_seed)


def signature(batch: Batch) -> tuple:
    """What tells batches of different programs apart: names and shapes."""
    return tuple((name, batch[name].shape) for name in sorted(batch))


def compile_programs(
    step: TrainStep, state: TrainState, batches: Sequence[Batch], kept: "Kept | None", say: Callable[[str], None]
) -> Programs:
    """Compiles the step for each shape of batch, or loads it.

    Args:
      step: of `make_train_step`.
      state: abstract, with shardings.
      batches: one of each shape, abstract or on the mesh.
      kept: where programs are kept; None compiles all.
      say: told in one line how many there are and how long it took, and why a kept one was refused.
    """
    begin, compiled, loaded = time.perf_counter(), {}, 0
    for batch in batches:
        shape = signature(batch)
        if shape in compiled:
            continue
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), dict(batch))
        program = kept.load(state, abstract, say) if kept else None
        loaded += program is not None
        if program is None:
            lowered = step.lower(state, abstract)
            with kept.compiling() if kept else contextlib.nullcontext():
                program = lowered.compile()
            if kept:
                kept.save(program, state, abstract)
        compiled[shape] = program
    names = ", ".join(_name(dict(shape)) for shape in compiled)
    seconds, count = time.perf_counter() - begin, len(compiled)
    made = "loaded" if loaded == count else "compiled" if not loaded else f"{loaded} loaded, {count - loaded} compiled"
    say(f"step programs: {count} {made} in {seconds:.1f} s, for batches of {names}")
    return Programs(step, compiled)


@dataclasses.dataclass(frozen=True)
class Kept:
    """The folder where a run keeps its programs.

    Attributes:
      folder: made when it is first needed.
      config: of the run, as plain JSON.
      mesh: what the programs run on.
    """

    folder: Path
    config: Mapping[str, Any]
    mesh: jax.sharding.Mesh

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Within, what is compiled can be kept: on CPUs it does not come out of JAX's persistent cache.

        An executable that was loaded from there and is written again lacks functions (jax 0.10.2): it loads, and fails
        when it runs, which leaves the devices of a mesh waiting for each other.
        """
        if self.mesh.devices.flat[0].platform != "cpu":
            yield
            return
        before = jax.config.jax_enable_compilation_cache
        try:
            jax.config.update("jax_enable_compilation_cache", False)
            compilation_cache.reset_cache()
            yield
        finally:
            jax.config.update("jax_enable_compilation_cache", before)
            compilation_cache.reset_cache()

    def save(self, program: jax.stages.Compiled, state: TrainState, batch: Batch) -> None:
        """Keeps a program; raises OSError."""
        payload = pickle.dumps(serialize_executable.serialize(program))
        header = {"key": self.key(state, batch), "sha256": hashlib.sha256(payload).hexdigest()}
        self.folder.mkdir(exist_ok=True)
        path = self._path(batch)
        part = path.with_suffix(".part")
        part.write_bytes(json.dumps(header).encode() + b"\n" + payload)
        part.replace(path)

    def load(self, state: TrainState, batch: Batch, say: Callable[[str], None]) -> jax.stages.Compiled | None:
        """The program kept for such a batch; None, and a line that says why, if there is none that may be used."""
        path = self._path(batch)
        if not path.exists():
            return None
        header, _, payload = path.read_bytes().partition(b"\n")
        try:
            read = json.loads(header)
            key, digest = read["key"], read["sha256"]
        except (ValueError, KeyError, TypeError):
            key, digest = {}, None
        if digest != hashlib.sha256(payload).hexdigest():
            say(f"step program {path}: damaged; compiling it again")
            return None
        if stale := difference(key, self.key(state, batch)):
            say(f"step program {path}: stale ({'; '.join(stale)}); compiling it again")
            return None
        serialized, in_tree, out_tree = pickle.loads(payload)
        devices = self.mesh.devices.flatten().tolist()
        return serialize_executable.deserialize_and_load(serialized, in_tree, out_tree, execution_devices=devices)

    def key(self, state: TrainState, batch: Batch) -> dict[str, Any]:
        """Everything a program depends on, as plain JSON."""
        device = self.mesh.devices.flat[0]
        inside = {name: section for name, section in self.config.items() if name not in _OUTSIDE}
        return {
            "config": inside,
            "code": code_digest(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "backend": getattr(device.client, "platform_version", ""),
            "machine": _cpu() if device.platform == "cpu" else device.device_kind,
            "mesh": dict(self.mesh.shape),
            "devices": [int(d.id) for d in self.mesh.devices.flat],
            "processes": jax.process_count(),
            "flags": {name: os.environ.get(name, "") for name in _FLAGS},
            "arrays": _digest([f"{jax.tree_util.keystr(p)} {x}" for p, x in jax.tree.leaves_with_path((state, batch))]),
        }

    def _path(self, batch: Batch) -> Path:
        name = _name({key: x.shape for key, x in batch.items()}).replace(" ", "")
        return self.folder / f"{name}.{jax.process_index()}-of-{jax.process_count()}.program"


@functools.cache
def code_digest() -> str:
    """SHA-256 over the sources of the package: another code may compile to another program."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def _cpu() -> str:
    """A CPU by its instructions: a program compiled for others may not run."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    wanted = {line.partition(":")[0].strip(): line for line in lines if line.startswith(("model name", "flags"))}
    return f"{platform.machine()} {_digest(sorted(wanted.values()))[:12]}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _name(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """`8x16x16 x 32`: the size of its sequences, and how many; `8x16x16 of 3 x 32` where each packs three clips."""
    batch, *clip = shapes["video"][:4]
    packed = f" of {shapes['index'][1]}" if "segments" in shapes else ""
    return f"{'x'.join(map(str, clip))}{packed} x {batch}"
