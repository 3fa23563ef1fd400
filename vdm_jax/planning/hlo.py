"""Compiled HLO text as computations of instructions, with how often each one runs.

    HloModule jit_train_step, is_scheduled=true, num_partitions=128
    %body.1 (param: (s32[], bf16[40,8])) -> (s32[], bf16[40,8]) {
      %x = bf16[8]{0:T(256)} fusion(%a, %b), kind=kLoop, calls=%fused
      ...
    }
    ENTRY %main { ... while(%tuple), condition=%cond.1, body=%body.1 ... }

A step of a scanned network runs the body of its loops many times, which no count of XLA's own takes into account
(`cost_analysis` counts a loop once).  So every instruction is given the product of the trip counts of the loops around
it.  What fusions hold inside runs as the one instruction that calls it and is not listed by itself.

Three things in the text of a real step must not mislead: kernels carry payloads of many lines with braces of their
own, a tuple's type holds comments, and a layout may say that a buffer lives in fast memory (`S(1)`) and costs no HBM.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Sequence

_DTYPE_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64,
    "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128, "f8e4m3fn": 8, "f8e5m2": 8, "f8e4m3": 8,
    "f8e4m3b11fnuz": 8, "f8e8m0fnu": 8, "f4e2m1fn": 4, "s2": 2, "u2": 2, "s1": 1, "u1": 1,
}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*->.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([^\s=]+) = ")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_NAME = re.compile(r"%?([A-Za-z_][\w.\-]*)")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's type: `dtype[shape]`; `fast` if it lives outside of HBM."""

    dtype: str
    shape: tuple[int, ...]
    fast: bool = False

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * _DTYPE_BITS.get(self.dtype, 0) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      name, opcode: `%fusion.3`, `fusion`.
      arrays: those of its type, in order; one unless it is a tuple.
      operands: names.
      attributes: the text after the operands.
      root: whether the computation returns it.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    literal: str = ""
    root: bool = False

    @property
    def bytes(self) -> int:
        """Of its result."""
        return sum(array.bytes for array in self.arrays)

    @functools.cached_property
    def calls(self) -> tuple[str, ...]:
        """Computations that run as a part of it."""
        found = re.findall(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([^\s,}]+)",
                           self.attributes)  # fmt: skip
        for several in re.findall(r"\b(?:branch_computations|called_computations)=\{([^{}]*)\}", self.attributes):
            found += _NAME.findall(several)
        return tuple(found)

    def attribute(self, name: str) -> str | None:
        """The value of `name=value` up to the next comma outside of brackets, None where it is absent.

        Groups along a mesh, `mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}`, go on to their brace.
        """
        match = re.search(rf"(?:^|[\s,]){re.escape(name)}=(mesh\[[^{{]*\{{[^}}]*\}})?", self.attributes)
        if match is None:
            return None
        return match[1] or _until_comma(self.attributes, match.end())


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions in the order of the text, which is the schedule of a compiled program."""

    name: str
    instructions: tuple[Instruction, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}

    @property
    def root(self) -> Instruction:
        return next((i for i in self.instructions if i.root), self.instructions[-1])

    @functools.cached_property
    def parameters(self) -> tuple[Instruction, ...]:
        """In the order of their numbers."""
        found = [i for i in self.instructions if i.opcode == "parameter"]
        return tuple(sorted(found, key=lambda i: int(i.literal or 0)))


@dataclasses.dataclass(frozen=True)
class Module:
    """A parsed program.

    Attributes:
      computations: by name.
      entry: the name of the first.
      partitions: devices the program is for.
    """

    computations: dict[str, Computation]
    entry: str
    partitions: int

    @functools.cached_property
    def runs(self) -> tuple[tuple[Computation, int], ...]:
        """Every computation that is a sequence of its own (the entry, loop bodies, branches, calls), and how often it
        runs in one step.  One of several branches is taken to run: the one with the most instructions."""
        return tuple(self._sequences(self.entry, 1))

    @functools.cached_property
    def unknown_loops(self) -> tuple[str, ...]:
        """Loops whose trip count the text does not tell; they count as one turn."""
        loops = (i for c, _ in self.runs for i in c.instructions if i.opcode == "while")
        return tuple(i.name for i in loops if self.trip_count(i) is None)

    def _sequences(self, name: str, times: int) -> Iterator[tuple[Computation, int]]:
        computation = self.computations[name]
        yield computation, times
        for instruction in computation.instructions:
            if instruction.opcode == "while":
                turns = self.trip_count(instruction)
                body = instruction.attribute("body").lstrip("%")
                yield from self._sequences(body, times * (1 if turns is None else turns))
            elif instruction.opcode == "conditional":
                branches = [c for c in instruction.calls if c in self.computations]
                yield from self._sequences(max(branches, key=self._size), times)
            elif instruction.opcode == "call":
                yield from self._sequences(instruction.calls[0], times)

    def _size(self, name: str) -> int:
        return sum(len(computation.instructions) for computation, _ in self._sequences(name, 1))

    def trip_count(self, loop: Instruction) -> int | None:
        """Turns of a `while`: what XLA notes, else read from the comparison in its condition."""
        if noted := re.search(r'"?known_trip_count"?\s*:\s*\{\s*"?n"?\s*:\s*"?(\d+)', loop.attributes):
            return int(noted[1])
        condition = self.computations[loop.attribute("condition").lstrip("%")]
        compare = self._comparison(condition)
        if compare is None:
            return None
        direction, left, right = compare
        bound = self._constant(condition, right, loop)
        start = self._constant(condition, left, loop)
        if bound is None or direction not in ("LT", "LE"):
            return None
        return max(0, bound - (start or 0) + (direction == "LE"))

    def _comparison(self, condition: Computation) -> tuple[str, str, str] | None:
        """(direction, left, right) of a condition's root, where the operands are names of that computation."""
        root, inner = condition.root, condition
        if root.opcode == "fusion":
            inner = self.computations[root.calls[0]]
            if inner.root.opcode != "compare":
                return None
            outside = {p.name: operand for p, operand in zip(inner.parameters, root.operands)}
            left, right = (outside.get(o, o) for o in inner.root.operands)
            return inner.root.attribute("direction"), left, right
        return (root.attribute("direction"), *root.operands) if root.opcode == "compare" else None

    def _constant(self, condition: Computation, name: str, loop: Instruction) -> int | None:
        """The integer a name of the condition stands for; an element of the loop's tuple is looked up at its start."""
        found = condition.by_name.get(name)
        for computation in self.computations.values() if found is None else ():
            found = found or computation.by_name.get(name)
        if found is None:
            return None
        if found.opcode == "constant":
            return int(found.literal) if re.fullmatch(r"-?\d+", found.literal) else None
        if found.opcode != "get-tuple-element":
            return None
        index = int(found.attribute("index"))
        outer = next(c for c in self.computations.values() if loop.name in c.by_name)
        start = outer.by_name.get(loop.operands[0])
        if start is None or start.opcode != "tuple":
            return None
        value = outer.by_name.get(start.operands[index])
        while value is not None and value.opcode in ("copy", "bitcast"):
            value = outer.by_name.get(value.operands[0])
        literal = "" if value is None or value.opcode != "constant" else value.literal
        return int(literal) if re.fullmatch(r"-?\d+", literal) else None


def parse(text: str) -> Module:
    """Reads what `jax.stages.Compiled.as_text()` returns.

    Raises:
      ValueError: it is no HLO module.
    """
    partitions = re.search(r"num_partitions=(\d+)", text[: text.find("\n") + 1 or len(text)])
    computations, entry, name, body = {}, None, None, []
    for statement in _statements(text):
        if header := _HEADER.match(statement):
            name, body = header[2], []
            entry = name if header[1] else entry
        elif statement.startswith("}") and name is not None:
            computations[name] = Computation(name, tuple(body))
            name = None
        elif name is not None and (match := _INSTRUCTION.match(statement)):
            body.append(_instruction(statement, match))
    if entry is None:
        raise ValueError("hlo: the text has no ENTRY computation")
    return Module(computations, entry, int(partitions[1]) if partitions else 1)


def array_types(text: str) -> tuple[Array, ...]:
    """The arrays of a type: `(bf16[8,128]{1,0:T(8,128)S(1)}, s32[])`."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        shape = tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)
        found.append(Array(dtype, shape, bool(re.search(r"S\([1-9]", layout))))
    return tuple(found)


def _statements(text: str) -> Iterator[str]:
    """Lines, but an instruction whose braces or quotes are still open takes the lines that follow."""
    held, depth, quoted = "", 0, False
    for line in text.splitlines():
        if not held and _balanced(line):
            yield line
            continue
        if not held and not _INSTRUCTION.match(line):  # a computation's header opens a brace that its last line closes
            yield line
            continue
        depth, quoted = _open(line, depth, quoted)
        held = f"{held}\n{line}" if held else line
        if depth <= 0 and not quoted:
            yield held
            held, depth, quoted = "", 0, False
    if held:
        yield held


def _balanced(line: str) -> bool:
    """Quick and nearly always right: no escapes, quotes in pairs and outside of them as many braces open as close."""
    if "\\" in line:
        return _open(line, 0, False) == (0, False)
    if line.count('"') % 2:
        return False
    bare = re.sub(r'"[^"]*"', "", line)
    return bare.count("{") == bare.count("}")


def _open(line: str, depth: int, quoted: bool) -> tuple[int, bool]:
    """Open braces and whether a quote is open at the end of a line that began with these."""
    for token in re.findall(r'\\.|["{}]', line):
        if token == '"':
            quoted = not quoted
        elif not quoted and token in "{}":
            depth += 1 if token == "{" else -1
    return depth, quoted


def _instruction(statement: str, match: re.Match) -> Instruction:
    rest = statement[match.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else re.match(r"[^\s{]*(\{[^{}]*\})?", rest).end()
    opcode = _OPCODE.match(rest, end)
    if opcode is None:
        raise ValueError(f"hlo: no opcode in {statement[:120]!r}")
    close = _closing(rest, opcode.end() - 1)
    inside = rest[opcode.end() : close]
    literal = inside if opcode[1] in ("constant", "parameter", "iota") else ""
    operands = () if literal else tuple(_operands(inside))
    return Instruction(
        match[2], opcode[1], array_types(rest[:end]), operands, rest[close + 1 :], literal, bool(match[1])
    )


def _operands(text: str) -> Iterator[str]:
    """Names, with or without their types before them and comments between."""
    for part in _split(re.sub(r"/\*.*?\*/", "", text)):
        words = part.split()
        if words:
            yield words[-1].lstrip("%")


def _split(text: str) -> Sequence[str]:
    """At commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"[()\[\]{},]", text):
        if match[0] in "([{":
            depth += 1
        elif match[0] in ")]}":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return start + match.start()
    raise ValueError(f"hlo: a parenthesis is not closed in {text[:120]!r}")


def _until_comma(text: str, start: int) -> str:
    depth = 0
    for match in re.finditer(r"[()\[\]{},]", text[start:]):
        if match[0] in "([{":
            depth += 1
        elif match[0] in ")]}":
            depth -= 1
        elif depth == 0:
            return text[start : start + match.start()]
    return text[start:].strip()
