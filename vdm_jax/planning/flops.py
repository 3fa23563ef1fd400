"""What a training step computes, counted in two ways that must not be mixed up.

Model FLOPs (the numerator of MFU) follow from the architecture alone: matrix products and attention, forward once and
backward twice, by the formula of the family (`DiTConfig.forward_flops`; the text encoder's is here).  Executed FLOPs
are counted in the traced program, with the turns of its loops: model FLOPs and what rematerialisation and blockwise
kernels compute a second time.  XLA's own count is of no use for a scanned network: it counts a loop once.

The trace also tells what no formula should guess: the bytes that the forward scan keeps for the backward one under a
remat policy, and the collectives that are written into the program (Ulysses, ring).
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

from vdm_jax.models.text import TextConfig
from vdm_jax.training.run import Run

_SENDS = {
    "all_gather": "all-gather",
    "all_to_all": "all-to-all",
    "ppermute": "collective-permute",
    "psum": "all-reduce",
    "psum_invariant": "all-reduce",
    "reduce_scatter": "reduce-scatter",
}


@dataclasses.dataclass(frozen=True)
class ModelFlops:
    """FLOPs of one training step by formula, over all devices.

    Attributes:
      total: backbone and text encoder, forward and backward.
      attention: the part of it that grows with the square of the tokens.
      tokens: of the backbone, in the whole batch.
    """

    total: float
    attention: float
    tokens: int


@dataclasses.dataclass(frozen=True)
class Sent:
    """Bytes that an explicit collective sends on one device in a step, by ring arithmetic."""

    kind: str
    axes: tuple[str, ...]
    count: int
    out_bytes: float
    wire_bytes: float


@dataclasses.dataclass
class Program:
    """A traced step, counted; over all devices unless said.

    Attributes:
      products: FLOPs of matrix products and convolutions outside of kernels.
      kernels: FLOPs inside Pallas kernels (their cost estimate, else their grid times their body).
      product_bytes: operands and results of both, the least they move; those of batched products apart.
      score_bytes: operands and results of batched products, which are scores of attention outside of kernels.
      kept: bytes that forward scans hand to backward ones on the device.
      offloaded: the same in host memory.
      sent: explicit collectives, per device.
      unknown_loops: `while` loops without a known trip count, counted as one turn.
    """

    products: float = 0.0
    kernels: float = 0.0
    product_bytes: float = 0.0
    score_bytes: float = 0.0
    kept: float = 0.0
    offloaded: float = 0.0
    sent: list[Sent] = dataclasses.field(default_factory=list)
    unknown_loops: int = 0

    @property
    def flops(self) -> float:
        return self.products + self.kernels


def model_flops(run: Run) -> ModelFlops:
    """The formula for a run's batch: three forwards a clip (backward is twice forward), remat not counted."""
    config, clips = run.config, run.config.train.batch_size
    model, text, size = config.networks.model, config.networks.text, config.clip_shape[:3]
    length = config.networks.text_length
    tokens = math.prod(model.token_grid(*size))
    forward = model.forward_flops(*size, length)
    encoder = text_flops(text) if text else 0.0
    # Only scores and values depend on who sees whom: what the network costs beyond one whose queries see nothing.
    attention = model.attention_flops(*size, length)
    return ModelFlops(3 * clips * (forward + encoder), 3 * clips * attention, clips * tokens)


def text_flops(config: TextConfig) -> float:
    """Forward FLOPs of the text encoder for one prompt: 24 L D^2 for projections and MLP, 4 L^2 D for attention."""
    length, width = config.length, config.dim
    return config.depth * (24.0 * length * width**2 + 4.0 * length**2 * width)


def count(traced: ClosedJaxpr) -> Program:
    """Counts a traced program (`jax.jit(f).trace(...).jaxpr`)."""
    program = Program()
    _walk(traced.jaxpr, 1, 1, {}, program)
    return program


def _walk(jaxpr: Jaxpr, times: int, shards: int, axes: Mapping[str, int], into: Program) -> None:
    """Adds a jaxpr that runs `times` times on `shards` parts of arrays whose shapes it sees."""
    _add_kept(jaxpr, into)
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name in ("dot_general", "conv_general_dilated"):
            into.products += times * shards * _product_flops(eqn)
            size = times * shards * sum(_bytes(v.aval) for v in (*eqn.invars, *eqn.outvars))
            if name == "dot_general" and eqn.params["dimension_numbers"][1][0]:
                into.score_bytes += size
            else:
                into.product_bytes += size
        elif name == "pallas_call":
            into.kernels += times * shards * _kernel_flops(eqn)
            into.product_bytes += times * shards * sum(_bytes(v.aval) for v in (*eqn.invars, *eqn.outvars))
        elif name in _SENDS:
            into.sent.append(_sent(eqn, _SENDS[name], times, axes))
        elif name == "scan":
            _walk(params["jaxpr"].jaxpr, times * params["length"], shards, axes, into)
        elif name == "while":
            into.unknown_loops += 1
            _walk(params["body_jaxpr"].jaxpr, times, shards, axes, into)
        elif name == "cond":
            branches = [count(branch) for branch in params["branches"]]
            dearest = max(range(len(branches)), key=lambda i: branches[i].flops)
            _walk(params["branches"][dearest].jaxpr, times, shards, axes, into)
        elif name == "shard_map":
            manual = params.get("newly_manual_axes", params.get("manual_axes", ()))
            inside = {axis: params["mesh"].shape[axis] for axis in manual}
            parts = math.prod(inside.values())
            _walk(_open(params["jaxpr"]), times, shards * parts, {**axes, **inside}, into)
        else:
            for inner in _inner(params):
                _walk(inner, times, shards, axes, into)


def _add_kept(jaxpr: Jaxpr, into: Program) -> None:
    """What a forward scan stacks and a reverse scan of the same length reads is kept for the backward pass."""
    scans = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    read = {id(v) for eqn in scans if eqn.params["reverse"] for v in eqn.invars}
    moved = {id(e.invars[0]): id(e.outvars[0]) for e in jaxpr.eqns if e.primitive.name in ("device_put", "copy")}
    for eqn in scans:
        if eqn.params["reverse"]:
            continue
        for var in eqn.outvars[eqn.params["num_carry"] :]:
            if id(var) not in read and moved.get(id(var)) not in read:
                continue
            host = "host" in str(getattr(var.aval, "memory_space", "")).lower()
            size = _bytes(var.aval)
            into.offloaded += size if host else 0
            into.kept += 0 if host else size


def _inner(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """Programs that an equation calls once (`jit`, `checkpoint`, `custom_vjp_call` ...)."""
    for value in params.values():
        if isinstance(value, (ClosedJaxpr, Jaxpr)):
            yield _open(value)


def _open(jaxpr: ClosedJaxpr | Jaxpr) -> Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def _bytes(aval: Any) -> float:
    shape, dtype = getattr(aval, "shape", ()), getattr(aval, "dtype", None)
    return math.prod(shape) * getattr(dtype, "itemsize", 0)


def _product_flops(eqn: Any) -> float:
    left, right, out = eqn.invars[0].aval, eqn.invars[1].aval, eqn.outvars[0].aval
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * math.prod(out.shape) * math.prod(left.shape[d] for d in contracted)
    kernel = eqn.params["dimension_numbers"].rhs_spec  # (out channels, in channels, *window)
    return 2.0 * math.prod(out.shape) * math.prod(right.shape) / right.shape[kernel[0]]


def _kernel_flops(eqn: Any) -> float:
    if eqn.params.get("cost_estimate") is not None:
        return float(eqn.params["cost_estimate"].flops)
    grid = [size for size in eqn.params["grid_mapping"].grid if isinstance(size, int)]
    body = Program()
    _walk(_open(eqn.params["jaxpr"]), 1, 1, {}, body)
    return math.prod(grid) * body.flops


def _sent(eqn: Any, kind: str, times: int, axes: Mapping[str, int]) -> Sent:
    named = eqn.params.get("axis_name", eqn.params.get("axes"))
    named = (named,) if isinstance(named, str) else tuple(a for a in named if isinstance(a, str))
    groups = eqn.params.get("axis_index_groups")
    size = len(groups[0]) if groups else math.prod(axes.get(axis, 1) for axis in named)
    into = sum(_bytes(v.aval) for v in eqn.invars)
    out = sum(_bytes(v.aval) for v in eqn.outvars)
    share = (size - 1) / size
    wire = {"all-reduce": 2 * share * out, "reduce-scatter": share * into, "collective-permute": out}
    if kind == "collective-permute":
        moving = sum(1 for a, b in eqn.params["perm"] if a != b)
        return Sent(kind, named, times, times * out, times * out * moving / max(size, 1))
    return Sent(kind, named, times, times * out, times * wire.get(kind, share * out))
