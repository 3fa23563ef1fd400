"""Section `steps`: the training step of a 14 B video model, compiled for absent TPUs.

Two lists of cases.  `ours` is how the project trains: float32 masters, Adam and an average of the weights, bfloat16
computation.  `peer` is the work of MaxDiffusion's Wan 2.1 14B step as compiled with the same jax and libtpu (commit
7cfb8801): 40 layers, d 5120, 40 heads, 512 text tokens, state in bfloat16 and no average, the same tokens, batch and
chips.  Its figures stand here as constants, since its own step takes minutes to compile and a tree of stand-ins to
import; what is compared are facts of two compiled programs (bytes sent by a device, the compiler's peak), not times.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bench.options import Options, say
from bench.programs import CONFIGS
from vdm_jax.cli.config_file import load_config
from vdm_jax.config import to_dict
from vdm_jax.media.figures import Figure
from vdm_jax.planning.chips import GIB
from vdm_jax.planning.collectives import wire_bytes
from vdm_jax.planning.plan import Plan, make_plan
from vdm_jax.planning.targets import parse_target
from vdm_jax.training.run_config import run_config_from

REMAT = {"model.remat": "offload"}  # what was exchanged is not exchanged again
HD = {"data.height": 90, "data.width": 160}  # 720x1280: 75,600 tokens; the config itself is 480x832: 32,760
LEAN = {"train.masters": "bfloat16", "ema.decays": (), "sample.ema": None, "guard.spike_sigma": None}


@dataclasses.dataclass(frozen=True)
class Peer:
    """What ours is held against: GiB sent by a device in a step, GiB of the compiler's peak, and the bars for ours."""

    wire: float
    peak: float
    at_most_wire: float
    at_most_peak: float
    least_mfu: float | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """One compiled step.

    Attributes:
      name: of the figures.
      target, slices: the machine.
      changes: of `configs/dit_14b.py`.
      peer: None for a case of our own.  Ours is then compiled for chips with no more memory than the bar's peak, since
        the compiler's own account of a peak has in it what lies on the host.
    """

    name: str
    target: str
    changes: Mapping[str, Any]
    slices: int = 1
    peer: Peer | None = None


def _mesh(data: int = 1, fsdp: int = 1, context: int = 1, tensor: int = 1) -> dict[str, int]:
    return {"mesh.data": data, "mesh.fsdp": fsdp, "mesh.context": context, "mesh.tensor": tensor}


def _ours() -> list[Case]:
    """Both resolutions on v5p-128 (64 chips), v5p-256, v6e-256 and two slices of v6e-256; clips as the chips allow."""
    machines = {
        "v5p-128": ("v5p:4x4x4", 1, _mesh(fsdp=16, context=4), 16),
        "v5p-256": ("v5p:4x4x8", 1, _mesh(fsdp=32, context=4), 32),
        "v6e-256": ("v6e:16x16", 1, _mesh(fsdp=32, context=8), 32),
        "2 x v6e-256": ("v6e:16x16", 2, _mesh(data=2, fsdp=32, context=8), 64),
    }
    cases = []
    for machine, (target, slices, mesh, batch) in machines.items():
        for tokens, size in (("32,760", {}), ("75,600", HD)):
            changes = {**size, **mesh, "train.batch_size": batch}
            cases.append(Case(f"ours/{machine}/{tokens} tokens", target, changes, slices))
    return cases


def _peers() -> list[Case]:
    """The peer's cases S1, S2 and S3."""
    return [
        Case("peer/v5p:2x2x1/75,600 tokens/batch 1", "v5p:2x2x1",
             {**LEAN, **REMAT, **HD, **_mesh(context=4), "train.batch_size": 1},
             peer=Peer(249.2, 41.96, 125, 42.0, least_mfu=0.45)),
        Case("peer/v5p:4x4x4/32,760 tokens/batch 16", "v5p:4x4x4",
             {**LEAN, **REMAT, **_mesh(fsdp=16, context=4), "train.batch_size": 16},
             peer=Peer(272.9, 8.98, 100, 12.0)),
        Case("peer/v6e:16x16/32,760 tokens/batch 64", "v6e:16x16",
             {**LEAN, **REMAT, **_mesh(fsdp=64, context=4), "train.batch_size": 64},
             peer=Peer(203.4, 8.85, 120, 8.85)),
    ]  # fmt: skip


def cases(quick: bool) -> list[Case]:
    """All cases; `quick` makes them shallow and narrow, and drops the bars that such a model cannot be held to."""
    found = [*_peers(), *_ours()]
    if not quick:
        return found
    small = {"model.dim": 320, "model.depth": 2, "model.mlp_dim": 640, "data.height": 12, "data.width": 16}
    first = [next(c for c in found if c.peer), next(c for c in found if not c.peer)]
    return [dataclasses.replace(case, changes={**case.changes, **small}, peer=None) for case in first]


def plan_of(case: Case) -> Plan:
    """Compiles a case."""
    config = to_dict(load_config(str(CONFIGS / "dit_14b.py")))
    for field, value in case.changes.items():
        section, _, key = field.partition(".")
        config[section][key] = value
    most = case.peer.at_most_peak if case.peer else None
    return make_plan(run_config_from(config), parse_target(case.target, case.slices, most))


def measure(options: Options) -> list[Figure]:
    """GiB and predicted times of each case."""
    figures = []
    for case in cases(options.quick):
        if options.case and options.case not in case.name:
            continue
        figures += figures_of(case, plan_of(case))
    return figures


def figures_of(case: Case, plan: Plan) -> list[Figure]:
    """Whether it fits, bytes, time and MFU; against the peer and its bars where there is one."""
    wire = wire_bytes(plan.found) / GIB
    memory, peer = plan.memory, case.peer
    peak = (memory.peak if memory.peak is not None else memory.needed) / GIB
    if plan.too_large:
        say(f"{case.name}: does not fit: {plan.too_large}")
    else:
        say(
            f"{case.name}: peak {peak:.1f} GiB, {wire:.1f} GiB on the wire, {plan.times.step:.2f} s a step, "
            f"MFU {plan.times.mfu:.1%}, compiled in {plan.compiled.seconds:.0f} s"
        )
    bars = {} if peer is None else {
        "wire": (peer.wire, wire <= peer.at_most_wire),
        "peak": (peer.peak, peak <= peer.at_most_peak),
        "mfu": (None, None if peer.least_mfu is None else plan.times.mfu >= peer.least_mfu),
    }  # fmt: skip

    def figure(name: str, value: float, unit: str = "") -> Figure:
        theirs, ok = bars.get(name, (None, None))
        ratio = value / theirs if theirs else None
        return Figure(f"steps/{case.name}/{name}", value, unit, theirs, ratio, ok=ok, command=_command(case))

    return [
        Figure(f"steps/{case.name}/fits", plan.fits, ok=plan.fits, command=_command(case)),
        figure("state", memory.state / GIB, "GiB"),
        figure("peak", peak, "GiB"),
        figure("host", memory.host / GIB, "GiB"),
        figure("wire", wire, "GiB"),
        figure("step", plan.times.step, "s"),
        figure("mfu", plan.times.mfu),
    ]


def _command(case: Case) -> str:
    return f"./tools/bench_scale --only steps --case {case.name!r}"
