"""What a compiled step communicates: every collective, its bytes, how often, over which mesh axes, and behind what.

Bytes on the wire are those one device sends if each collective runs as a ring over its group of g devices:

    all-gather, all-to-all   (g - 1) / g  output        reduce-scatter   (g - 1) / g  input
    all-reduce             2 (g - 1) / g  output        permute          output, for the devices that send

The text shows one collective in many ways.  It may stand by itself; as a pair `-start` and `-done`, or `async-start`
around a wrapped one, with other work between; inside a fusion (`all-reduce-scatter`: an all-reduce of which every
device keeps its part, run as a reduce-scatter); or in several fusions that start, advance and finish one transfer
while they compute, which share a channel.  Between slices it is a `send` and a `recv` that the hosts complete, with
its kind in an attribute.  Each counts once, times the turns of the loops around it.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from vdm_jax.planning.hlo import Computation, Instruction, Module

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast",
         "ragged-all-to-all")  # fmt: skip
# What the hosts of several slices do between a `send` and a `recv` of the same rendezvous.
_BETWEEN_SLICES = {
    "ALL_REDUCE": "all-reduce", "ALL_GATHER": "all-gather", "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all", "ONE_TO_ONE": "collective-permute",
}  # fmt: skip
NO_WORK = (
    "send",
    "recv",
    "parameter",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "constant",
    "after-all",
    "partition-id",
    "iota",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a step.

    Attributes:
      kind: of `KINDS`.
      name: of the instruction that finishes it.
      dtype: of what is sent.
      count: times a step runs it.
      out_bytes: of its result on one device, each time.
      wire_bytes: sent by one device, each time.
      group: devices that take part together.
      axes: mesh axes along which the group lies, () where it is no part of the mesh.
      members: device numbers of the first group, to find its wires.
      behind: instructions of the sequence `sequence` that run between its start and its end; () if it blocks.
      sequence: the computation it is in.
      hidden: calculated and taken to be hidden by whatever work there is; of no compiled program.
    """

    kind: str
    name: str
    dtype: str
    count: int
    out_bytes: int
    wire_bytes: float
    group: int
    axes: tuple[str, ...]
    members: tuple[int, ...]
    behind: tuple[Instruction, ...]
    sequence: str
    hidden: bool = False

    @property
    def asynchronous(self) -> bool:
        """Whether other work runs between start and end."""
        return self.hidden or bool(self.behind)


def collectives(module: Module, mesh_shape: Mapping[str, int], slices: int = 1) -> list[Collective]:
    """All collectives of a program.

    Args:
      module: of `hlo.parse`.
      mesh_shape: axis -> size, outermost first; devices are numbered along it.
      slices: that the devices of the mesh are of, an equal part of its first axis each.
    """
    found = []
    for computation, times in module.runs:
        for last, inner, behind in _found_in(module, computation):
            found.append(_collective(module, computation, times, last, inner, behind, mesh_shape))
        found += _between_slices(computation, times, mesh_shape, slices)
    return found


def totals(found: Iterable[Collective]) -> dict[tuple[str, tuple[str, ...]], tuple[int, float, float]]:
    """(kind, axes) -> executions, bytes out and bytes on the wire of a step, most wire first."""
    sums: dict = {}
    for c in found:
        n, out, wire = sums.get((c.kind, c.axes), (0, 0, 0.0))
        sums[c.kind, c.axes] = (n + c.count, out + c.count * c.out_bytes, wire + c.count * c.wire_bytes)
    return dict(sorted(sums.items(), key=lambda item: -item[1][2]))


def wire_bytes(found: Iterable[Collective]) -> float:
    """Bytes one device sends in a step."""
    return sum(c.count * c.wire_bytes for c in found)


def replica_groups(text: str, devices: int) -> list[tuple[int, ...]]:
    """Groups of device numbers from any of the spellings of `replica_groups`.

        {{0,1},{2,3}}                        listed; {} is one group of all
        [2,4]<=[8]   [4,2]<=[2,4]T(1,0)      an iota, reshaped, transposed, cut into rows
        mesh['a'=2,'b'=4] {'b'}              axes of a mesh, each `'b':(1)2` a part of one
        mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}    the same of devices in another order

    Raises:
      ValueError: another spelling.
    """
    text = text.strip()
    if text in ("{}", "{{}}"):
        return [tuple(range(devices))]
    if text.startswith("{"):
        return [tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,\s]+)\}", text)]
    if text.startswith("["):
        return [tuple(row) for row in _iota(text).tolist()]
    if text.startswith("mesh["):
        return _mesh_groups(text)
    raise ValueError(f"hlo: replica_groups={text[:80]!r} is in a spelling that is not known")


def group_axes(groups: Iterable[tuple[int, ...]], mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    """Mesh axes along which the members of a group differ."""
    sizes, varying = tuple(mesh_shape.values()), set()
    for group in groups:
        if max(group) >= math.prod(sizes):
            return ()
        places = np.array(np.unravel_index(np.array(group), sizes))
        varying |= {i for i in range(len(sizes)) if len(set(places[i])) > 1}
    return tuple(axis for i, axis in enumerate(mesh_shape) if i in varying)


def _iota(text: str) -> np.ndarray:
    """`[4,2]<=[2,4]T(1,0)`: 0..7 as [2,4], transposed, as [4,2]; without `<=` the last step is left out."""
    match = re.match(r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?$", text)
    if match is None:
        raise ValueError(f"hlo: replica_groups={text[:80]!r} is in a spelling that is not known")
    shape, source = ([int(n) for n in (match[i] or match[1]).split(",")] for i in (1, 2))
    numbers = np.arange(math.prod(source)).reshape(source)
    if match[3]:
        numbers = numbers.transpose([int(n) for n in match[3].split(",")])
    return numbers.reshape(shape) if match[2] else numbers


def _mesh_groups(text: str) -> list[tuple[int, ...]]:
    """Axes of `mesh[...]`, in their order the dims of a group; a part of an axis is split off as a dim of its own."""
    match = re.match(r"mesh\[([^\]]*)\](?:, device_ids=\((.*)\))?\s*\{([^{}]*)\}$", text)
    if match is None:
        raise ValueError(f"hlo: replica_groups={text[:80]!r} is in a spelling that is not known")
    named = re.findall(r"""['"]?([\w.\-]+)['"]?\s*=\s*(\d+)""", match[1])
    wanted = re.findall(r"""['"]?([A-Za-z_][\w.\-]*)['"]?(?::\((\d+)\)(\d+))?""", match[3])
    sizes, dims = [], {}
    for axis, size in named:
        parts = sorted({(int(pre), int(part)) for name, pre, part in wanted if name == axis and pre})
        dims[axis] = []
        done = 1
        for pre, part in parts:
            if pre > done:
                sizes.append(pre // done)
            dims[axis].append((pre, len(sizes)))
            sizes.append(part)
            done = pre * part
        if not parts:
            dims[axis].append((1, len(sizes)))
        if int(size) // done > 1 or not parts:
            sizes.append(int(size) // done)
    numbers = _numbering(match[2], math.prod(sizes)).reshape(sizes)
    kept = [next(d for p, d in dims[name] if p == int(pre or 1)) for name, pre, _ in wanted]
    others = [d for d in range(len(sizes)) if d not in kept]
    rows = numbers.transpose([*others, *kept]).reshape(-1, math.prod(sizes[d] for d in kept))
    return [tuple(row) for row in rows.tolist()]


def _numbering(text: str | None, devices: int) -> np.ndarray:
    """Device numbers along a mesh: in order, an iota, or a list."""
    if text is None:
        return np.arange(devices)
    return _iota(text) if text.startswith("[") else np.array([int(n) for n in text.split(",")])


def _found_in(module: Module, computation: Computation) -> Iterator[tuple[Instruction, Instruction, tuple]]:
    """(instruction that finishes, the collective itself, instructions between start and end) of a sequence."""
    chains: list[tuple[Instruction, list[int]]] = []
    for place, instruction in enumerate(computation.instructions):
        base = _base(instruction.opcode)
        if base in KINDS and not instruction.opcode.endswith(("-done", "-update")):
            end = _end(computation, place) if instruction.opcode.endswith("-start") else place
            yield computation.instructions[end], instruction, _between(computation, place, end)
        elif instruction.opcode == "async-start" and (inner := _inside(module, instruction)):
            end = _end(computation, place)
            for one in inner:
                yield computation.instructions[end], one, _between(computation, place, end)
        elif instruction.opcode == "fusion" and (inner := _inside(module, instruction)):
            before = _fed_by(computation, instruction)
            for one in inner:
                _carry_on(chains, computation, one, place, before)
    for one, places in chains:
        # The fusions that carry a transfer along compute beside it; a fusion alone is nothing but the transfer.
        behind = _between(computation, places[0] - 1, places[-1]) if len(places) > 1 else ()
        yield computation.instructions[places[-1]], one, behind


def _between_slices(
    computation: Computation, times: int, mesh_shape: Mapping[str, int], slices: int
) -> Iterator[Collective]:
    """What goes from slice to slice: each device talks to those in its place in the other slices."""
    meeting = re.compile(r'_xla_host_transfer_rendezvous="([^"]*)"')
    received = {m[1]: i for i in computation.instructions if i.opcode == "recv" and (m := meeting.search(i.attributes))}
    each = math.prod(mesh_shape.values()) // max(slices, 1)
    for place, send in enumerate(computation.instructions):
        kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', send.attributes) if send.opcode == "send" else None
        if kind is None or kind[1] not in _BETWEEN_SLICES:
            continue
        recv = received.get(meeting.search(send.attributes)[1], send)
        done = _end(computation, computation.instructions.index(recv))
        name, array = _BETWEEN_SLICES[kind[1]], recv.arrays[0]
        yield Collective(
            name, recv.name, array.dtype, times, array.bytes, _ring_bytes(name, array.bytes, slices), slices,
            tuple(mesh_shape)[:1], tuple(range(0, each * slices, each)), _between(computation, place, done),
            computation.name,
        )  # fmt: skip


def _ring_bytes(kind: str, out: float, group: int) -> float:
    """Bytes that one device of a group sends, from those of its result; see the top of this file."""
    share = (group - 1) / group
    return out * {"all-reduce": 2 * share, "reduce-scatter": group - 1.0, "collective-permute": 1.0}.get(kind, share)


def _carry_on(chains: list, computation: Computation, one: Instruction, place: int, before: set[str]) -> None:
    """Adds a fused collective to the chain of fusions that it goes on with (its channel, fed by the last), or begins
    one; channels alone do not tell, for those of `shard_map` share their number."""
    channel = one.attribute("channel_id")
    for first, places in chains:
        same = channel is not None and first.attribute("channel_id") == channel
        if same and computation.instructions[places[-1]].name in before:
            places.append(place)
            return
    chains.append((one, [place]))


def _fed_by(computation: Computation, instruction: Instruction) -> set[str]:
    """Names of the instructions whose results it takes, directly or out of a tuple."""
    names = set(instruction.operands)
    for name in instruction.operands:
        found = computation.by_name.get(name)
        if found is not None and found.opcode == "get-tuple-element":
            names.add(found.operands[0])
    return names


def _inside(module: Module, instruction: Instruction) -> list[Instruction]:
    """Collectives in the computations an instruction calls, at any depth; of a start and a done the start."""
    found = []
    for name in instruction.calls:
        for one in module.computations[name].instructions if name in module.computations else ():
            if _base(one.opcode) in KINDS:
                if not one.opcode.endswith(("-done", "-update")):
                    found.append(one)
            elif one.calls and one.opcode in ("fusion", "async-start", "call"):
                found += _inside(module, one)
    return found


def _base(opcode: str) -> str:
    return re.sub(r"-(start|done|update)$", "", opcode)


def _end(computation: Computation, place: int) -> int:
    """Where the asynchronous work that starts at `place` is waited for."""
    names = {computation.instructions[place].name}
    for index in range(place + 1, len(computation.instructions)):
        later = computation.instructions[index]
        if names & set(later.operands):
            if later.opcode.endswith("-done"):
                return index
            if later.opcode.endswith("-update") or later.opcode in ("get-tuple-element", "tuple", "bitcast"):
                names.add(later.name)
    return place


def _between(computation: Computation, start: int, end: int) -> tuple[Instruction, ...]:
    """Work that runs between two places of the schedule."""
    inner = computation.instructions[start + 1 : end]
    idle = (*NO_WORK, "send", "recv")
    return tuple(i for i in inner if i.opcode not in idle and not i.opcode.endswith(("-start", "-done", "-update")))


def _collective(module, computation, times, last, inner, behind, mesh_shape) -> Collective:
    kind, devices = _base(inner.opcode), math.prod(mesh_shape.values())
    arrays = last.arrays if last.opcode == "fusion" else inner.arrays
    if inner.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
        half = len(inner.operands)  # the type is (operands, results, contexts)
        arrays = inner.arrays[half : 2 * half]
    elif last.opcode == "fusion" and not _scatters(module, last, inner):
        arrays = inner.arrays
    if kind == "all-reduce" and _scatters(module, last, inner):
        kind = "reduce-scatter"
    out = sum(array.bytes for array in arrays)
    if kind == "collective-permute":
        pairs = re.findall(r"\{(\d+),(\d+)\}", inner.attribute("source_target_pairs") or "")
        pairs = [(int(a), int(b)) for a, b in pairs if a != b]
        groups, size, wire = pairs[:64], 2, out * len(pairs) / devices
    else:
        groups = replica_groups(inner.attribute("replica_groups") or "{}", devices)
        size = len(groups[0])
        wire = _ring_bytes(kind, out, size)
    axes = group_axes(groups, mesh_shape) if groups else ()
    dtype = max(arrays, key=lambda array: array.bytes).dtype if arrays else ""
    return Collective(
        kind, last.name, dtype, times, out, wire, size, axes, groups[0] if groups else (), behind, computation.name
    )


def _scatters(module: Module, fusion: Instruction, inner: Instruction) -> bool:
    """Whether a fusion keeps only this device's part of the all-reduce inside it."""
    if fusion.opcode != "fusion" or _base(inner.opcode) != "all-reduce":
        return False
    names = [name for name in fusion.calls if name in module.computations]
    sliced = any(i.opcode == "dynamic-slice" for n in names for i in module.computations[n].instructions)
    return sliced and fusion.bytes < inner.bytes
