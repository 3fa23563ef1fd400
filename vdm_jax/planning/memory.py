"""Bytes of a step on one device: what the state takes, what the program makes, and what is left.

What an array of the state takes follows from its sharding and needs no compiler.  What the program makes beside it
(activations, gradients, gathered weights, all temporaries) is the compiler's to say; it gives two accounts, its own
peak and the sum of arguments and temporaries, and the larger one is held against the memory of the chip.  A program
that is too large is not compiled at all; then libtpu lists its largest buffers, and `DoesNotFitError` carries the list.
"""

import dataclasses
import math
import re
from typing import Any

import jax

from vdm_jax.errors import RunError
from vdm_jax.planning.chips import GIB
from vdm_jax.planning.targets import Target
from vdm_jax.training.state import StatePlan


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      parameters, optimizer, averages, batch: arguments of the step; it updates them in place.
      temporaries: all else, at the worst moment.
      peak: by the compiler's own account; None where it was not asked.
      host: in host memory (offloaded).
      usable: of the chip; None for a CPU.
    """

    parameters: float
    optimizer: float
    averages: float
    batch: float
    temporaries: float = 0.0
    peak: float | None = None
    host: float = 0.0
    usable: float | None = None

    @property
    def state(self) -> float:
        """Parameters, optimiser and averages."""
        return self.parameters + self.optimizer + self.averages

    @property
    def needed(self) -> float:
        """The larger of the two accounts; what was compiled for a chip fits it, so never more than is usable there."""
        larger = max(self.state + self.batch + self.temporaries, self.peak or 0.0)
        return larger if self.peak is None or self.usable is None else min(larger, self.usable)

    @property
    def headroom(self) -> float | None:
        """What is left; negative if it does not fit, None where nobody knows how much there is."""
        return None if self.usable is None else self.usable - self.needed

    @property
    def fits(self) -> bool | None:
        return None if self.headroom is None else self.headroom >= 0


class DoesNotFitError(RunError):
    """A program larger than the memory of its chip.

    Attributes:
      needed, usable: bytes on one device.
      breakdown: the compiler's list: what takes how much, and the largest buffers.
    """

    def __init__(self, target: str, needed: float, usable: float, breakdown: list[str]):
        self.needed, self.usable, self.breakdown = needed, usable, breakdown
        largest = f"; {'; '.join(breakdown)}" if breakdown else ""
        super().__init__(
            f"target: {target} has {usable / GIB:.2f} GiB a device, the step needs {needed / GIB:.2f} GiB{largest}"
        )


def state_memory(plan: StatePlan, batch: Any, target: Target) -> Memory:
    """What is known before compiling: the arguments of a step."""
    return Memory(
        parameters=device_bytes(plan.abstract.params),
        optimizer=device_bytes(plan.abstract.opt_state),
        averages=device_bytes(plan.abstract.ema),
        batch=device_bytes(batch),
        usable=target.usable,
    )


def device_bytes(tree: Any) -> float:
    """Bytes that abstract arrays with shardings take on one device."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "sharding")]
    return float(sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves))


def compiled_memory(known: Memory, compiled: jax.stages.Compiled) -> Memory:
    """The same with what the compiler says of the program."""
    found = compiled.memory_analysis()
    beside = found.temp_size_in_bytes + max(0, found.output_size_in_bytes - found.alias_size_in_bytes)
    peak, host = float(getattr(found, "peak_memory_in_bytes", 0)) or None, float(found.host_temp_size_in_bytes)
    if peak is not None and host:  # this account has what lies on the host in it; these are bounds without it
        peak = min(peak, known.state + known.batch + beside, known.usable or peak)
    return dataclasses.replace(known, temporaries=float(beside), peak=peak, host=host)


def does_not_fit(target: Target, error: Exception, known: Memory) -> DoesNotFitError | None:
    """The compiler's out-of-memory error as ours; None if it is another one."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        return None
    amounts = re.search(r"[Uu]sed ([\d.]+\w) of ([\d.]+\w)", text)
    needed, usable = (_bytes(amounts[1]), _bytes(amounts[2])) if amounts else (None, None)
    if amounts is None:
        asked = re.search(r"\(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)", text)
        # What it then calls temporaries has arguments and results in it (tried with both large and small ones).
        needed = _bytes(asked[1]) if asked else known.needed
        usable = _bytes(asked[2]) if asked else known.usable or 0.0
    held = known.state + known.batch
    lines = breakdown(text) or [f"arguments {held / GIB:.2f}G", f"all else {(needed - held) / GIB:.2f}G"]
    return DoesNotFitError(target.name, needed, usable, lines)


def breakdown(text: str) -> list[str]:
    """The parts of a program and its largest buffers, in libtpu's message: `arguments 4.23G`, `2.5G bf16[...]`."""
    parts = re.findall(r"^\s+(reserved|program|arguments)\s+([\d.]+\w+)\s*$", text, re.MULTILINE)
    first = dict(reversed(parts))  # a second list tells the program apart again
    lines = [f"{name} {first[name]}" for name in ("reserved", "program", "arguments") if name in first]
    buffers = re.split(r"^\s*\d+\.\s+Size:\s*", text, flags=re.MULTILINE)[1:]
    for buffer in buffers[:5]:
        size = buffer.split(None, 1)[0]
        shape = re.search(r"Shape:\s*(\S+)", buffer)
        operator = re.search(r'op_name="([^"]*)"', buffer)
        shown = [size, *(m[1] for m in (shape, operator) if m)]
        lines.append(" ".join(shown))
    return lines


def _bytes(amount: str) -> float:
    number = float(amount[:-1]) if amount[-1].isalpha() else float(amount)
    return number * {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}.get(amount[-1], 1)
