"""The plan of a run on a target: everything `vdm plan` says, as one value."""

import dataclasses
from collections.abc import Callable

from jax.sharding import Mesh

from vdm_jax.planning.collectives import Collective, collectives
from vdm_jax.planning.compile import Compiled, Traced, compile_step, trace_step
from vdm_jax.planning.estimate import estimated_collectives, estimated_hbm_bytes
from vdm_jax.planning.flops import ModelFlops, model_flops
from vdm_jax.planning.hlo import Module, parse
from vdm_jax.planning.liveness import peak_live
from vdm_jax.planning.memory import DoesNotFitError, Memory
from vdm_jax.planning.network import Network
from vdm_jax.planning.roofline import Cost, Roofline, collective_seconds, cost, roofline
from vdm_jax.planning.targets import Target
from vdm_jax.planning.traffic import hbm_bytes, sequence_seconds
from vdm_jax.training.run_config import RunConfig


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run needs and takes on a target.

    Attributes:
      config: of the run.
      target: the machine.
      mesh_shape: axis -> size.
      memory: on one device.
      model: FLOPs by formula.
      executed: FLOPs of a step over all devices as traced, recomputation included.
      found: collectives of a step.
      hbm: bytes one device moves through its memory in a step.
      times: the roofline; None where no peaks are known.
      compiled: the compiled step; None if all this is calculated.
      too_large: why there is no compiled step, if it did not fit.
      notes: what a person should know of how these figures came about.
    """

    config: RunConfig
    target: Target
    mesh_shape: dict[str, int]
    memory: Memory
    model: ModelFlops
    executed: float
    found: list[Collective]
    hbm: float
    times: Roofline | None
    compiled: Compiled | None = None
    too_large: DoesNotFitError | None = None
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool | None:
        """None where nobody knows how much memory there is."""
        return False if self.too_large else self.memory.fits

    @property
    def recomputed(self) -> float:
        """FLOPs beyond those of the model: rematerialisation and blockwise backward passes."""
        return self.executed - self.model.total

    def cost(self, samples: float) -> Cost | None:
        """What that many clips take; None where no step time is known."""
        if self.times is None:
            return None
        return cost(self.times.step, samples, self.config.train.batch_size, self.model.tokens, self.target.devices)


def make_plan(
    config: RunConfig, target: Target, compiles: bool = True, say: Callable[[str], None] = lambda line: None
) -> Plan:
    """Plans a run: compiled where the target's compiler is here, calculated elsewhere or where it does not fit.

    Args:
      config: of the run.
      target: the machine.
      compiles: False calculates in any case, which takes seconds where the compiler takes minutes.
      say: takes a line when something begins that may take long.

    Raises:
      ValueError: the config does not fit the target (mesh, batch, heads, kernel); before any compile.
      RunError: there is no compiler, or it failed for another reason than memory.
    """
    say("tracing the step")
    traced = trace_step(config, target)
    if not target.compiles or not compiles:
        return calculated_plan(traced)
    try:
        return compiled_plan(traced, compile_step(traced, say))
    except DoesNotFitError as error:
        return dataclasses.replace(calculated_plan(traced), too_large=error)


def compiled_plan(traced: Traced, compiled: Compiled) -> Plan:
    """The plan of a compiled step: memory, collectives and overlap are the compiler's."""
    module, shape = parse(compiled.text), dict(traced.run.mesh.shape)
    found = collectives(module, shape, traced.target.slices)
    notes = [*_notes(traced)]
    if module.unknown_loops:
        notes.append(f"loops of unknown length, counted once: {', '.join(module.unknown_loops)}")
    return _plan(traced, compiled.memory, found, hbm_bytes(module), module, compiled, tuple(notes))


def calculated_plan(traced: Traced) -> Plan:
    """The plan of a traced step: memory by liveness, collectives by formula."""
    live = peak_live(traced.stages.jaxpr, traced.run.plan, traced.batch_growth)
    memory = dataclasses.replace(traced.memory, temporaries=live.device, host=live.host)
    found = estimated_collectives(traced)
    notes = ("memory, traffic and collectives are calculated, not compiled", *_notes(traced))
    return _plan(traced, memory, found, estimated_hbm_bytes(traced), None, None, notes)


def _plan(
    traced: Traced, memory: Memory, found: list[Collective], moved: float, module: Module | None,
    compiled: Compiled | None, notes: tuple[str, ...],
) -> Plan:  # fmt: skip
    target, run = traced.target, traced.run
    model, executed = model_flops(run), traced.program.flops
    devices = tuple(run.mesh.devices.flat) if isinstance(run.mesh, Mesh) else ()
    work = 0.0 if target.chip is None else executed / target.devices / target.chip.flops
    seconds = collective_seconds(target, Network.of(target, devices), found, module, work)
    times = roofline(target, model.total, executed, moved, seconds)
    if times is not None and module is not None:
        kernels = traced.program.kernels / target.devices / target.chip.flops
        in_turn = sequence_seconds(module, target.chip, kernels) + times.exposed
        times = dataclasses.replace(times, in_turn=in_turn)
    shape = dict(run.mesh.shape)
    return Plan(run.config, target, shape, memory, model, executed, found, moved, times, compiled, notes=notes)


def _notes(traced: Traced) -> tuple[str, ...]:
    lines = [f"attention {line}" for line in traced.choices]
    lines += [f"not divided by the mesh: {line}" for line in traced.run.plan.undivided]
    if traced.program.unknown_loops:
        lines.append(f"{traced.program.unknown_loops} traced loops of unknown length are counted once")
    return tuple(lines)
