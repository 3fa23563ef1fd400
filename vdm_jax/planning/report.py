"""The plan as a person reads it, and as figures for programs."""

from collections.abc import Iterable, Sequence

from vdm_jax.media.figures import Figure
from vdm_jax.planning.chips import GIB
from vdm_jax.planning.collectives import totals, wire_bytes
from vdm_jax.planning.plan import Plan
from vdm_jax.planning.search import Ranked

SHOWN = 10


def report(plan: Plan, samples: float) -> str:
    """The whole plan as text.

    Args:
      plan: of `make_plan`.
      samples: clips to train on.
    """
    sections = (_head(plan), _memory(plan), _flops(plan), _collectives(plan), _times(plan, samples), _peaks(plan))
    notes = [f"note: {note}" for note in plan.notes]
    return "\n\n".join(["\n".join(section) for section in sections if section] + (["\n".join(notes)] if notes else []))


def figures(plan: Plan, samples: float) -> list[Figure]:
    """The plan as figures; memory, traffic and times are those of one device and one step."""
    memory = {
        "parameters": plan.memory.parameters, "optimizer": plan.memory.optimizer, "averages": plan.memory.averages,
        "batch": plan.memory.batch, "temporaries": plan.memory.temporaries, "peak": plan.memory.peak,
        "host": plan.memory.host, "needed": _needed(plan), "usable": plan.memory.usable,
    }  # fmt: skip
    found = [
        Figure("target", plan.target.name),
        Figure("mesh", _mesh(plan)),
        Figure("compiled", plan.compiled is not None),
        Figure("fits", plan.fits, ok=plan.fits),
        *(Figure(f"memory/{name}", value / GIB, "GiB") for name, value in memory.items() if value is not None),
        Figure("flops/model", plan.model.total, "FLOP"),
        Figure("flops/attention", plan.model.attention, "FLOP"),
        Figure("flops/executed", plan.executed, "FLOP"),
        Figure("flops/recomputed", plan.recomputed, "FLOP"),
        Figure("hbm_traffic", plan.hbm / GIB, "GiB"),
        Figure("collectives/total", wire_bytes(plan.found) / GIB, "GiB"),
    ]
    for (kind, axes), (count, _, wire) in totals(plan.found).items():
        found.append(Figure(f"collectives/{kind}/{'+'.join(axes) or 'none'}", wire / GIB, "GiB", n=max(1, count)))
    if plan.compiled is not None:
        found.append(Figure("compile_time", plan.compiled.seconds, "s"))
    if plan.times is None:
        return found
    times, cost = plan.times, plan.cost(samples)
    seconds = {
        "compute": times.compute, "hbm": times.hbm, "collectives": times.collectives, "exposed": times.exposed,
        "step": times.step, "bound": times.bound, "in_turn": times.in_turn,
    }  # fmt: skip
    return [
        *found,
        *(Figure(f"time/{name}", value, "s") for name, value in seconds.items() if value is not None),
        Figure("mfu", times.mfu),
        Figure("tokens_per_second", cost.tokens_per_second, "1/s"),
        Figure("samples", cost.samples),
        Figure("days", cost.days, "d"),
        Figure("accelerator_hours", cost.device_hours, "h"),
    ]


def ranking(title: str, ranked: Iterable[Ranked]) -> str:
    """Candidates, best first."""
    rows = [("s/clip", "s/step", "MFU", "GiB", "wire GiB", "")]
    for one in list(ranked)[:SHOWN]:
        plan, times = one.plan, one.plan.times
        rows.append(
            (
                f"{one.seconds_per_clip:.3g}" if times else "",
                f"{times.step:.3g}" if times else "",
                f"{times.mfu:.1%}" if times else "",
                f"{_needed(plan) / GIB:.1f}{' too much' if plan.fits is False else ''}",
                f"{wire_bytes(plan.found) / GIB:.1f}",
                str(one.candidate),
            )
        )
    return "\n".join([title, *_table(rows, left=(5,))])


def ranking_figures(name: str, ranked: Iterable[Ranked]) -> list[Figure]:
    """One figure a candidate: seconds for a clip, and whether it fits."""
    return [
        Figure(f"search/{name}/{place}", one.seconds_per_clip if one.plan.times else None, "s/clip",
               ok=one.plan.fits, command=one.candidate.overrides)
        for place, one in enumerate(ranked, 1)
    ]  # fmt: skip


def _head(plan: Plan) -> list[str]:
    train, model = plan.config.train, plan.config.networks.model
    how = "calculated" if plan.compiled is None else f"compiled in {plan.compiled.seconds:.0f} s"
    accumulate = f" in {train.accumulate} microbatches" if train.accumulate > 1 else ""
    return [
        f"{plan.target.name}: {plan.target.devices} devices as {_mesh(plan)}; {how}",
        f"batch {train.batch_size}{accumulate}, {plan.model.tokens:,} tokens a step, {train.precision}, "
        f"remat {model.remat}, kernel {model.kernel}",
    ]


SIZES = ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
WORK = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))


def _scaled(value: float, units: Sequence[tuple[float, str]] = SIZES) -> str:
    """A number in the largest unit of which it is at least a tenth: a toy's bytes are not 0.00 GiB."""
    unit, name = next((pair for pair in units if abs(value) >= pair[0] / 10), units[-1])
    return f"{value / unit:,.2f} {name}"


def _memory(plan: Plan) -> list[str]:
    memory = plan.memory
    answer = {True: "it fits", False: "it does NOT fit", None: "whether it fits depends on the host"}[plan.fits]
    rows = [
        ("parameters", memory.parameters, ""), ("optimiser", memory.optimizer, ""),
        ("averages", memory.averages, ""), ("batch", memory.batch, ""),
        ("temporaries", memory.temporaries, "activations, gradients, gathered weights"),
    ]  # fmt: skip
    if memory.peak is not None:
        rows.append(("peak", memory.peak, "of all, by the compiler's account"))
    if memory.host:
        rows.append(("host", memory.host, "offloaded, in the memory of the host"))
    if memory.usable is not None:
        rows.append(("headroom", memory.usable - _needed(plan), f"of {_scaled(memory.usable)} usable"))
    lines = [f"memory of a device: {answer}"]
    lines += _table([(f"  {name}", _scaled(size), why) for name, size, why in rows], left=(0, 2))
    if plan.too_large is not None:
        lines.append(f"  the compiler: {_scaled(plan.too_large.needed)} needed")
        lines += [f"    {line}" for line in plan.too_large.breakdown]
    return lines


def _flops(plan: Plan) -> list[str]:
    model = plan.model
    rows = [
        ("  model", model.total, f"attention {model.attention / model.total:.0%}; the numerator of MFU"),
        ("  recomputed", plan.recomputed, "by remat and by backward kernels"),
        ("  executed", plan.executed, f"{_scaled(plan.executed / plan.target.devices, WORK)} a device"),
    ]
    return ["FLOPs of a step", *_table([(name, _scaled(value, WORK), why) for name, value, why in rows], left=(0, 2))]


def _collectives(plan: Plan) -> list[str]:
    if not plan.found:
        return ["collectives of a step: none"]
    rows = [("  kind", "axes", "n", "out", "wire", "async")]
    behind: dict = {}
    for c in plan.found:
        behind[c.kind, c.axes] = behind.get((c.kind, c.axes), 0) + (c.count if c.asynchronous else 0)
    for key, (count, out, wire) in totals(plan.found).items():
        share = f"{behind[key] / count:.0%}"
        rows.append((f"  {key[0]}", " x ".join(key[1]) or "-", f"{count:,}", _scaled(out), _scaled(wire), share))
    line = f"collectives of a step, a device: {_scaled(wire_bytes(plan.found))} on the wire"
    return [line, *_table(rows, left=(0, 1))]


def _times(plan: Plan, samples: float) -> list[str]:
    times, chip = plan.times, plan.target.chip
    if times is None:
        return [f"step time: unknown, as nobody knows the peaks of {plan.target.kind}"]
    cost = plan.cost(samples)
    rows = [
        ("  compute", times.compute, f"executed FLOPs at {chip.flops / 1e12:,.0f} TFLOP/s"),
        ("  HBM", times.hbm, f"{_scaled(plan.hbm)} at {chip.hbm_bandwidth / 1e9:,.0f} GB/s"),
        ("  collectives", times.collectives, f"of which {times.exposed:.3f} s are not hidden by work"),
        ("  step", times.step, f"the larger of compute and HBM, and what is not hidden; mostly {times.limit}"),
        ("  if all overlapped", times.bound, ""),
    ]
    if times.in_turn is not None:
        mfu = times.mfu * times.step / times.in_turn
        rows.append(
            ("  if nothing is", times.in_turn, f"each instruction in its turn, by compute or HBM: MFU {mfu:.1%}")
        )
    return [
        "roofline of a step, at peak rates",
        *_table([(name, f"{value:.3f} s", why) for name, value, why in rows], left=(0, 2)),
        f"  MFU {times.mfu:.1%}, {cost.tokens_per_second:,.0f} tokens/s; {samples:,.0f} clips take "
        f"{cost.days:,.1f} days, {cost.device_hours:,.0f} accelerator-hours",
    ]


def _peaks(plan: Plan) -> list[str]:
    chip = plan.target.chip
    if chip is None:
        return []
    rates = (chip.flops / 1e12, chip.hbm / GIB, chip.hbm_bandwidth / 1e9, chip.link / 1e9, chip.network / 1e9)
    names = ("bf16 TFLOP/s", "usable GiB", "HBM GB/s", "link GB/s", "network GB/s")
    pairs = ", ".join(f"{name} {rate:,.4g}" for name, rate in zip(names, rates))
    return [f"peaks of one {chip.kind} device (sources in vdm_jax/planning/chips.py): {pairs}"]


def _needed(plan: Plan) -> float:
    return plan.too_large.needed if plan.too_large else plan.memory.needed


def _mesh(plan: Plan) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in plan.mesh_shape.items())


def _table(rows: list[tuple[str, ...]], left: tuple[int, ...]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    ]
