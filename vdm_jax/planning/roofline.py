"""From counts to seconds: the roofline of a step.

    compute  = executed FLOPs / peak            HBM = bytes / bandwidth
    step     = max(compute, HBM) + exposed      exposed: time in collectives that no work hides
    bound    = max(compute, HBM, collectives)   if everything overlapped
    MFU      = model FLOPs / (step x peak)

All rates are peaks (`chips.py`), so a real step is slower: this is the time that no change of kernels or layout can
beat, and the place to see what a step is limited by.
"""

import dataclasses

from vdm_jax.planning.collectives import Collective
from vdm_jax.planning.hlo import Module
from vdm_jax.planning.network import Network
from vdm_jax.planning.targets import Target
from vdm_jax.planning.traffic import exposed_seconds


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step, on any one device.

    Attributes:
      compute, hbm: at peak rates.
      collectives: in all.
      exposed: the part of `collectives` that nothing hides.
      mfu: model FLOPs utilisation in [0, 1] at the time `step`.
      in_turn: the step if each instruction takes the larger of its own two times, in the order of the schedule, and
        what is exposed; None where nothing was compiled.
    """

    compute: float
    hbm: float
    collectives: float
    exposed: float
    mfu: float
    in_turn: float | None = None

    @property
    def step(self) -> float:
        return max(self.compute, self.hbm) + self.exposed

    @property
    def bound(self) -> float:
        """With perfect overlap."""
        return max(self.compute, self.hbm, self.collectives)

    @property
    def limit(self) -> str:
        """What most of a step is."""
        times = {"compute": self.compute, "HBM": self.hbm, "collectives": self.exposed}
        return max(times, key=times.get)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What N training samples take.

    Attributes:
      samples: N.
      tokens_per_second: of the backbone, over all devices.
      days: of wall clock.
      device_hours: accelerator-hours.
    """

    samples: float
    tokens_per_second: float
    days: float
    device_hours: float


def roofline(
    target: Target,
    model_flops: float,
    executed_flops: float,
    hbm_bytes: float,
    collectives: tuple[float, float],
) -> Roofline | None:
    """The roofline of a step; None for a machine whose peaks nobody knows.

    Args:
      target: the machine.
      model_flops, executed_flops: of a step over all devices.
      hbm_bytes: of a step on one device.
      collectives: seconds in all, and exposed.
    """
    chip = target.chip
    if chip is None:
        return None
    compute = executed_flops / target.devices / chip.flops
    total, exposed = collectives
    times = Roofline(compute, hbm_bytes / chip.hbm_bandwidth, total, exposed, 0.0)
    return dataclasses.replace(times, mfu=model_flops / (times.step * target.devices * chip.flops))


def collective_seconds(
    target: Target, network: Network, found: list[Collective], module: Module | None, work: float
) -> tuple[float, float]:
    """Seconds of a step in collectives, in all and exposed.

    Args:
      target, network: the machine and its wires.
      found: the collectives.
      module: the compiled program, from which overlap is read; None if they are calculated.
      work: seconds of work that can hide what is calculated to be hidden.
    """
    if target.chip is None:
        return 0.0, 0.0
    if module is not None:
        return exposed_seconds(module, found, target.chip, network)
    times = [(c, c.count * c.wire_bytes / network.bandwidth(c.members)) for c in found]
    behind = sum(t for c, t in times if c.hidden)
    return sum(t for _, t in times), sum(t for c, t in times if not c.hidden) + max(0.0, behind - work)


def cost(step_seconds: float, samples: float, batch_size: int, tokens: int, devices: int) -> Cost:
    """Days and device-hours.

    Args:
      step_seconds: of one step.
      samples: clips to train on, repeats counted.
      batch_size, tokens: clips and backbone tokens of one step.
      devices: of the machine.
    """
    seconds = step_seconds * samples / batch_size
    return Cost(samples, tokens / step_seconds, seconds / 86_400, seconds / 3600 * devices)
