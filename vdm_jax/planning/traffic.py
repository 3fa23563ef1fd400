"""What a compiled step moves through HBM, and how long each of its instructions takes at least.

Every instruction of a sequence reads its operands and writes its result once, for that is what fusion means.  Three
kinds of access touch less than their operands: slices (a scanned layer takes its own weights out of the stack of all),
updates in place (a layer writes its residuals into a stack), and buffers in fast memory (`S(1)`), which are no traffic
at all.  XLA's `bytes accessed` counts a loop once, so it cannot be used.
"""

import functools
import math
import re
from collections.abc import Iterable

import numpy as np

from vdm_jax.planning.chips import Chip
from vdm_jax.planning.collectives import KINDS, NO_WORK, Collective
from vdm_jax.planning.hlo import Array, Computation, Instruction, Module
from vdm_jax.planning.network import Network

_SLICES = ("dynamic-slice", "slice", "gather")
_SILENT = (*NO_WORK, "while", "conditional", "call", "copy-done", "async-done", "async-update", "partition-id",
           "slice-done", "domain", "opt-barrier", "add-dependency")  # fmt: skip


def hbm_bytes(module: Module) -> float:
    """Bytes one device reads and writes in a step."""
    return float(sum(times * sum(moved(module, c, i) for i in c.instructions) for c, times in module.runs))


def moved(module: Module, computation: Computation, instruction: Instruction) -> int:
    """HBM bytes of one run of an instruction of a sequence."""
    opcode = instruction.opcode
    if opcode in _SILENT or opcode.endswith("-done"):
        return 0
    if opcode == "async-start":
        inner = module.computations[instruction.calls[0]]
        return sum(moved(module, inner, i) for i in inner.instructions)
    operands = [computation.by_name[name] for name in instruction.operands if name in computation.by_name]
    if opcode == "fusion" and instruction.calls[0] in module.computations:
        return _fused(module.computations[instruction.calls[0]], instruction, operands)
    if opcode in _SLICES:
        return 2 * _slow(instruction.arrays)
    if opcode == "dynamic-update-slice":
        return 2 * _slow(operands[1].arrays)
    if opcode.endswith("-start") or opcode in ("send", "recv"):  # the type holds source and destination
        return _slow(instruction.arrays)
    return _slow(instruction.arrays) + sum(_slow(operand.arrays) for operand in operands)


def products(module: Module, instruction: Instruction, within: Computation | None = None) -> float:
    """FLOPs of the matrix products in one run of an instruction, those of a fusion included.

    Args:
      module: of `hlo.parse`.
      instruction: one of a sequence.
      within: the computation it is in; looked up by name where it is not given.
    """
    if instruction.opcode == "fusion":
        inner = (module.computations[name] for name in instruction.calls if name in module.computations)
        return sum(products(module, i, c) for c in inner for i in c.instructions)
    if instruction.opcode not in ("dot", "convolution"):
        return 0.0
    within = within or next(c for c in module.computations.values() if c.by_name.get(instruction.name) is instruction)
    return _product(within, instruction)


def step_products(module: Module) -> float:
    """FLOPs of all matrix products outside of kernels that one device runs in a step."""
    return float(sum(times * sum(products(module, i, c) for i in c.instructions) for c, times in module.runs))


def seconds(module: Module, chip: Chip) -> "functools._lru_cache_wrapper":
    """A function of (sequence, instruction): the least time one run of it takes, by products or by HBM."""

    @functools.cache
    def least(sequence: str, name: str) -> float:
        computation = module.computations[sequence]
        instruction = computation.by_name[name]
        product = products(module, instruction, computation)
        return max(product / chip.flops, moved(module, computation, instruction) / chip.hbm_bandwidth)

    return least


def sequence_seconds(module: Module, chip: Chip, kernels: float) -> float:
    """The work of a step if every instruction runs alone: the sum of its least times.

    Args:
      module: the program.
      chip: of its devices.
      kernels: seconds of arithmetic in kernels, which the text does not tell.
    """
    least, plain, traffic = seconds(module, chip), 0.0, 0.0
    for computation, times in module.runs:
        for instruction in computation.instructions:
            taken = times * least(computation.name, instruction.name)
            if instruction.opcode == "custom-call" and "tpu_custom_call" in instruction.attributes:
                traffic += taken
            else:
                plain += taken
    return plain + max(kernels, traffic)


def exposed_seconds(module: Module, found: Iterable[Collective], chip: Chip, network: Network) -> tuple[float, float]:
    """Time of a step in collectives: in all, and the part that no computation hides.

    A blocking collective is exposed whole.  One that is started early is hidden by the work that the schedule puts
    before its end; that work hides one collective at a time, in the order in which they end.
    """
    least = seconds(module, chip)
    left: dict[tuple[str, str], float] = {}
    total = exposed = 0.0
    for collective in found:
        time = collective.wire_bytes / network.bandwidth(collective.members)
        total += collective.count * time
        for instruction in collective.behind:
            if instruction.opcode in KINDS:
                continue
            key = (collective.sequence, instruction.name)
            free = left.setdefault(key, least(*key))
            used = min(free, time)
            left[key], time = free - used, time - used
        exposed += collective.count * time
    return total, exposed


def _slow(arrays: Iterable[Array]) -> int:
    return sum(array.bytes for array in arrays if not array.fast)


def _fused(inner: Computation, fusion: Instruction, operands: list[Instruction]) -> int:
    """Reads of a fusion's operands, each only where the fusion looks, and writes of its results."""
    total = 0
    updated = {u.operands[0] for u in inner.instructions if u.opcode == "dynamic-update-slice"}
    for parameter, operand in zip(inner.parameters, operands):
        if all(array.fast for array in operand.arrays):
            continue
        users = [i for i in inner.instructions if parameter.name in i.operands and i.opcode != "tuple"]
        if not users and inner.root is not parameter:
            continue  # handed through
        if users and all(u.opcode in _SLICES and u.operands[0] == parameter.name for u in users):
            total += sum(min(u.bytes, operand.bytes) for u in users)
        elif parameter.name in updated and len(users) == 1:
            continue  # written in place: neither read nor copied
        else:
            total += _slow(operand.arrays)
    results = [inner.by_name[n] for n in inner.root.operands] if inner.root.opcode == "tuple" else [inner.root]
    for result, array in zip(results, fusion.arrays):
        while result.opcode in ("bitcast", "copy", "reshape") and result.operands[0] in inner.by_name:
            result = inner.by_name[result.operands[0]]
        if array.fast or (inner.root.opcode == "tuple" and result.opcode in ("parameter", *KINDS)):
            continue  # handed through; a transfer under way is written by the fusion that finishes it
        written = result.opcode == "dynamic-update-slice" and inner.by_name.get(result.operands[1])
        total += written.bytes if written else array.bytes
    return total


def _product(computation: Computation, instruction: Instruction) -> float:
    """FLOPs of a `dot` or `convolution` (a TPU writes every product as one)."""
    if instruction.opcode == "dot":
        left = computation.by_name.get(instruction.operands[0])
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        if left is None or contracted is None:
            return 0.0
        dims = [int(d) for d in contracted[1].split(",") if d]
        return 2.0 * math.prod(instruction.arrays[0].shape) * math.prod(left.arrays[0].shape[d] for d in dims)
    if instruction.opcode != "convolution":
        return 0.0
    left, right = (computation.by_name.get(name) for name in instruction.operands[:2])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if left is None or right is None or labels is None:
        return 0.0
    image, kernel, out = (dict(zip(labels[i], x.arrays[0].shape)) for i, x in ((1, left), (2, right), (3, instruction)))
    window = _window(instruction.attributes)
    spatial = (d for d in out if d.isdigit())
    terms = (_terms(image[d], kernel[d], out[d], {k: v[int(d)] for k, v in window.items()}) for d in spatial)
    return 2.0 * out["b"] * out["f"] * kernel["i"] * math.prod(terms)


def _window(attributes: str) -> dict[str, list[str]]:
    """`window={size=2x3 pad=1_1x0_0}` as `{"size": ["2", "3"], "pad": ["1_1", "0_0"]}`."""
    found = re.search(r"window=\{([^}]*)\}", attributes)
    pairs = (pair.split("=") for pair in found[1].split()) if found else ()
    return {name: values.split("x") for name, values in pairs}


def _terms(image: int, kernel: int, out: int, window: dict[str, str]) -> int:
    """Pairs of an output and a kernel place, along one dim, that meet the image.

    A TPU writes the batch and head dims of a product as windows that hang over an image of size one, so what meets
    padding or falls between dilated places must not count.
    """
    low = int(window.get("pad", "0_0").split("_")[0])
    stride, spread, dilation = (int(window.get(k, 1)) for k in ("stride", "lhs_dilate", "rhs_dilate"))
    at = np.arange(out)[:, None] * stride + np.arange(kernel)[None] * dilation - low
    return int(((at >= 0) & (at < (image - 1) * spread + 1) & (at % spread == 0)).sum())
