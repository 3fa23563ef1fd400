"""Which mesh, remat policy, kernel and batch are best: all of them by calculation, the best few by the compiler.

The trace of a step depends on the policy, the kernel and the `context` axis; everything else (how many devices share
the batch, the weights or the heads; a larger batch) scales what it counts.  So one trace stands for many candidates:

    FLOPs, bytes of products and of live activations   ~ batch
    explicit collectives on a device                   ~ batch / (data x fsdp x tensor)

Candidates are ranked by seconds for a clip; those that do not fit come last.  Calculated and compiled figures are not
mixed in one ranking: the best few are compiled and ranked again among themselves.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

from vdm_jax.attention import KERNELS
from vdm_jax.errors import RunError
from vdm_jax.nn.stack import REMAT_POLICIES
from vdm_jax.planning.compile import Traced, batch_shapes, trace_step
from vdm_jax.planning.flops import Program
from vdm_jax.planning.memory import state_memory
from vdm_jax.planning.plan import Plan, calculated_plan, make_plan
from vdm_jax.planning.targets import Target, target_mesh
from vdm_jax.sharding import MeshConfig
from vdm_jax.training.run_config import RunConfig
from vdm_jax.training.state import on_mesh
from vdm_jax.training.step import abstract_batch

BATCHES = (1, 2, 4)  # times the batch of the config
MOST_TENSOR, MOST_CONTEXT = 8, 64


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to run a config."""

    mesh: MeshConfig
    remat: str
    kernel: str
    batch_size: int

    def apply(self, config: RunConfig) -> RunConfig:
        """The config with it."""
        model = dataclasses.replace(config.networks.model, remat=self.remat, kernel=self.kernel)
        return dataclasses.replace(
            config,
            mesh=self.mesh,
            networks=dataclasses.replace(config.networks, model=model),
            train=dataclasses.replace(config.train, batch_size=self.batch_size),
        )

    def __str__(self) -> str:
        mesh = " x ".join(f"{a} {n}" for a, n in dataclasses.asdict(self.mesh).items() if n > 1) or "one device"
        return f"{mesh}, remat {self.remat}, kernel {self.kernel}, batch {self.batch_size}"

    @property
    def overrides(self) -> str:
        """As they are typed."""
        fields = {f"mesh.{axis}": size for axis, size in dataclasses.asdict(self.mesh).items()}
        fields |= {"model.remat": self.remat, "model.kernel": self.kernel, "train.batch_size": self.batch_size}
        return " ".join(f"--config.{name}={value}" for name, value in fields.items())


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A candidate with its plan."""

    candidate: Candidate
    plan: Plan

    @property
    def seconds_per_clip(self) -> float:
        """By which candidates are ranked; without a step time, bytes on the wire for each clip stand for it."""
        batch = self.candidate.batch_size
        if self.plan.times is None:
            return sum(c.count * c.wire_bytes for c in self.plan.found) / batch
        return self.plan.times.step / batch

    @property
    def order(self) -> tuple[bool, float, float]:
        """What fits comes first, then what is fast, then what leaves more memory."""
        return self.plan.fits is False, self.seconds_per_clip, self.plan.memory.needed


def search(config: RunConfig, target: Target, compile_best: int, say: Callable[[str], None] = lambda line: None):
    """Ranks all candidates by calculation and the best few again by the compiler.

    Args:
      config: what is trained; its own mesh, policy, kernel and batch are among the candidates where they fit.
      target: the machine.
      compile_best: how many to compile, where the target can be compiled for.
      say: takes a line when something begins that takes long.

    Returns:
      Two lists of `Ranked`, calculated and compiled, best first.

    Raises:
      ValueError: no candidate fits the devices, the batch and the heads.
    """
    calculated = sorted(_calculated(config, target, say), key=lambda r: r.order)
    if not calculated:
        heads = " and ".join(map(str, config.networks.heads))
        raise ValueError(
            f"search: no mesh of {target.devices} devices divides a batch of {config.train.batch_size} x"
            f" {' or '.join(map(str, BATCHES))} and {heads} heads; raise config.train.batch_size"
        )
    compiled = []
    for ranked in _different(calculated)[: compile_best if target.compiles else 0]:
        say(f"compiling {ranked.candidate}")
        try:
            plan = make_plan(ranked.candidate.apply(config), target)
        except RunError as error:
            say(f"  {error}")
            continue
        compiled.append(dataclasses.replace(ranked, plan=plan))
    return calculated, sorted(compiled, key=lambda r: r.order)


def _different(ranked: list[Ranked]) -> list[Ranked]:
    """The best of those that differ in more than the batch."""
    best: dict[tuple, Ranked] = {}
    for one in ranked:
        best.setdefault((one.candidate.mesh, one.candidate.remat, one.candidate.kernel), one)
    return list(best.values())


def meshes(config: RunConfig, target: Target, batch_size: int) -> Iterator[MeshConfig]:
    """Every mesh of the target that divides batch, heads and slices."""
    devices, heads = target.devices, math.gcd(*config.networks.heads)
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    for tensor, context, fsdp in itertools.product(divisors, divisors, divisors):
        if tensor > MOST_TENSOR or context > MOST_CONTEXT or heads % tensor or devices % (tensor * context * fsdp):
            continue
        data = devices // (tensor * context * fsdp)
        if data % target.slices == 0 and batch_size % (data * fsdp * config.train.accumulate) == 0:
            yield MeshConfig(data=data, fsdp=fsdp, tensor=tensor, context=context)


def _calculated(config: RunConfig, target: Target, say: Callable[[str], None]) -> Iterator[Ranked]:
    batches = sorted({config.train.batch_size * factor for factor in BATCHES})
    shapes = [(mesh, batch) for batch in batches for mesh in meshes(config, target, batch)]
    for context in sorted({mesh.context for mesh, _ in shapes}):
        mine = [(mesh, batch) for mesh, batch in shapes if mesh.context == context]
        for kernel in kernels(config, target):
            say(f"tracing context {context}, kernel {kernel}: {len(mine) * len(REMAT_POLICIES)} candidates")
            for remat in REMAT_POLICIES:
                first = Candidate(mine[0][0], remat, kernel, mine[0][1])
                try:
                    traced = trace_step(first.apply(config), target)
                except (ValueError, NotImplementedError) as error:  # this kernel or partition cannot do it
                    say(f"  not {kernel} with context {context}: {str(error).splitlines()[0]}")
                    break
                for mesh, batch in mine:
                    candidate = Candidate(mesh, remat, kernel, batch)
                    yield Ranked(candidate, calculated_plan(rescaled(traced, candidate.apply(config))))


def kernels(config: RunConfig, target: Target) -> tuple[str, ...]:
    """What the config asks for, and every kernel by name; one that cannot is found out when it is traced."""
    return tuple(dict.fromkeys((config.networks.model.kernel, *KERNELS))) if target.compiles else ("auto",)


def rescaled(traced: Traced, config: RunConfig) -> Traced:
    """A trace made to stand for the same step on another mesh, or with another batch."""
    run = traced.run
    mesh = target_mesh(traced.target, config.mesh)
    plan = on_mesh(run.plan, mesh)
    more = config.train.batch_size / run.config.train.batch_size
    here = more * math.prod(run.mesh.shape[a] / mesh.shape[a] for a in ("data", "fsdp", "tensor"))
    sent = [dataclasses.replace(s, out_bytes=s.out_bytes * here, wire_bytes=s.wire_bytes * here)
            for s in traced.program.sent]  # fmt: skip
    grown = {name: more * getattr(traced.program, name) for name in _GROWS}
    program: Program = dataclasses.replace(traced.program, sent=sent, **grown)
    batch = abstract_batch(plan, batch_shapes(config))
    return dataclasses.replace(
        traced,
        run=dataclasses.replace(run, config=config, plan=plan),
        program=program,
        memory=state_memory(plan, batch, traced.target),
        batch_growth=more,
    )


_GROWS = ("products", "kernels", "product_bytes", "score_bytes", "kept", "offloaded")
