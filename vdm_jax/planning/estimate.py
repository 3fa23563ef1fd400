"""What a step communicates and moves through HBM by calculation, where nothing is compiled.

Of P parameters split into g parts over `fsdp` and `context` (s bytes each in the precision of the computation, t the
`tensor` axis, d the copies over `data`):

    gather weights     (g - 1) / g  P s / t      forward, backward, and once more if the backward pass recomputes
    scatter gradients  (g - 1) / g  P s / t      once
    reduce gradients   2 (d - 1) / d  P s / (t g)  once, over `data`
    `tensor`           2 (t - 1) / t  N D s      for N tokens of the device: after attention and after the MLP, forward
                                                 and backward, and forward again if the backward pass recomputes

What is written into the program (Ulysses, rings) is counted in the trace.  Weights are fetched ahead of their layer
and gradients reduced behind it, so that work hides them; the other exchanges are waited for.
"""

import math
from collections.abc import Iterator

import jax

from vdm_jax.planning.collectives import Collective
from vdm_jax.planning.compile import Traced
from vdm_jax.sharding import batch_shards
from vdm_jax.training.precision import PRECISIONS
from vdm_jax.training.run import Run

_GATHERED = ("fsdp", "context")


def estimated_collectives(traced: Traced) -> list[Collective]:
    """Collectives of a step, one entry for each kind and axes, as `collectives.collectives` finds them in a text."""
    return [*_weights(traced.run), *_tensor(traced.run), *_explicit(traced)]


def estimated_hbm_bytes(traced: Traced) -> float:
    """Operands and results of products, and the state read and written once, on one device: a lower bound.

    Scores of attention count where the program forms them outside of a kernel; a GPU is traced with the blockwise
    form in place of its fused one, which keeps them to itself.
    """
    program = traced.program
    moved = program.product_bytes + (program.score_bytes if traced.target.platform == "tpu" else 0.0)
    return moved / traced.run.mesh.size + 2 * traced.memory.state


def recomputes(run: Run) -> bool:
    """Whether the backward pass runs a part of the forward one again."""
    return run.config.networks.model.remat != "none"


def members(mesh, axes: tuple[str, ...]) -> tuple[int, ...]:
    """Device numbers of the first group along some axes of a mesh."""
    numbers = [0]
    stride = 1
    for axis in reversed(mesh.axis_names):
        if axis in axes:
            numbers = [n + i * stride for i in range(mesh.shape[axis]) for n in numbers]
        stride *= mesh.shape[axis]
    return tuple(sorted(numbers))


def _weights(run: Run) -> Iterator[Collective]:
    """Gathers of weights and reductions of gradients."""
    mesh, width = run.mesh, PRECISIONS[run.config.train.precision](0).dtype.itemsize
    sums: dict[tuple[str, tuple[str, ...]], tuple[float, float]] = {}
    runs = run.config.train.accumulate
    for leaf in jax.tree.leaves(run.plan.abstract.params):
        names = [a for entry in leaf.sharding.spec for a in (entry if isinstance(entry, tuple) else (entry,)) if a]
        over = tuple(a for a in mesh.axis_names if a in names and a in _GATHERED)
        whole = math.prod(leaf.shape) * width / (mesh.shape["tensor"] if "tensor" in names else 1)
        parts = math.prod(mesh.shape[a] for a in over)
        copies = tuple(a for a in ("data", "fsdp", "context") if a not in over and mesh.shape[a] > 1)
        count = math.prod(mesh.shape[a] for a in copies)
        turns = (3 if recomputes(run) else 2) * runs
        for kind, axes, made, wire in (
            ("all-gather", over, turns * whole, turns * whole * (parts - 1) / parts),
            ("reduce-scatter", over, runs * whole / parts, runs * whole * (parts - 1) / parts),
            ("all-reduce", copies, whole / parts, 2 * whole / parts * (count - 1) / count),
        ):
            if wire:
                out, sent = sums.get((kind, axes), (0.0, 0.0))
                sums[kind, axes] = (out + made, sent + wire)
    for (kind, axes), (out, wire) in sums.items():
        yield _one(mesh, kind, axes, out, wire, hidden=True)


def _tensor(run: Run) -> Iterator[Collective]:
    """Sums after the projections that `tensor` splits."""
    mesh, model, config = run.mesh, run.config.networks.model, run.config
    parts = mesh.shape["tensor"]
    if parts == 1:
        return
    tokens = math.prod(model.token_grid(*config.clip_shape[:3])) * config.train.batch_size
    mine = tokens / (batch_shards(mesh) * mesh.shape["context"])
    out = mine * model.dim * PRECISIONS[config.train.precision](0).dtype.itemsize
    blocks = model.depth * (1 if model.attention == "full" else 2)
    sums = blocks * (4 + (2 if recomputes(run) else 0)) + (2 * model.depth if model.text_dim else 0)
    yield _one(mesh, "all-reduce", ("tensor",), sums * out, sums * out * 2 * (parts - 1) / parts, hidden=False)


def _explicit(traced: Traced) -> Iterator[Collective]:
    """The program's own, summed by kind and axes."""
    sums: dict[tuple[str, tuple[str, ...]], tuple[float, float]] = {}
    for sent in traced.program.sent:
        out, wire = sums.get((sent.kind, sent.axes), (0.0, 0.0))
        sums[sent.kind, sent.axes] = (out + sent.out_bytes, wire + sent.wire_bytes)
    for (kind, axes), (out, wire) in sums.items():
        yield _one(traced.run.mesh, kind, axes, out, wire, hidden=False)


def _one(mesh, kind: str, axes: tuple[str, ...], out: float, wire: float, hidden: bool) -> Collective:
    group = members(mesh, axes)
    return Collective(kind, "", "", 1, int(out), wire, len(group), axes, group, (), "", hidden)
