"""Ranks tile sizes of the splash kernels; run it as `./tools/tune_splash`.

    ./tools/tune_splash --chip v5p                          both passes of a 720p clip of 14B's shape on four chips
    ./tools/tune_splash --chip v6e --queries 32760 --keys 32760 --heads 5
    ./tools/tune_splash --quick                             two tiles: does everything run?

Where a TPU is present its tiles are timed.  Elsewhere libtpu (the `tpu` extra) compiles them for the chip, and they
are ranked by a prediction: the cycles of the compiler's own instruction schedule, or the time to stream a step's
operands from HBM if that is longer, times the steps.  The winners belong into `vdm_jax/attention/splash_blocks.py`.
"""

import argparse
import dataclasses
import functools
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from bench import schedules
from bench.options import say
from jax._src import hardware_utils

from vdm_jax.attention.kernel import View
from vdm_jax.attention.splash import Splash
from vdm_jax.attention.splash_blocks import CHIP_OF, Blocks, Tile
from vdm_jax.cli.main import guarded
from vdm_jax.errors import did_you_mean
from vdm_jax.media.figures import Figure, add_json_argument, figures_table, write_figures
from vdm_jax.planning.chips import CHIPS
from vdm_jax.planning.targets import parse_target, target_mesh, use_cpu
from vdm_jax.sharding import MeshConfig

PRODUCTS = {"forward": 2, "backward": 5}
# Cores of a JAX device, and FLOP of one core's matrix units in a cycle (four of 128 x 128, or of 256 x 256).
CORES = {"v5e": (1, 2**17), "v5p": (2, 2**17), "v6e": (1, 2**19), "tpu7x": (1, 2**19)}
TOPOLOGY = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}
DTYPE = jnp.bfloat16


@dataclasses.dataclass(frozen=True)
class Work:
    """The attention of one device."""

    queries: int
    keys: int
    heads: int
    head_dim: int


def main() -> int:
    """Parses, ranks, prints."""
    parser = argparse.ArgumentParser(prog="./tools/tune_splash", description="Ranks tile sizes of the splash kernels.")
    parser.add_argument("--chip", metavar="NAME", nargs="+", default=list(CORES), help=f"{', '.join(CORES)} (all)")
    parser.add_argument("--queries", type=int, default=75_600, help="of one device (75600)")
    parser.add_argument("--keys", type=int, default=75_600, help="of one device (75600)")
    parser.add_argument("--heads", type=int, default=10, help="of one device (10)")
    parser.add_argument("--head-dim", type=int, default=128, help="(128)")
    parser.add_argument("--passes", metavar="NAME", nargs="+", default=list(PRODUCTS), help="forward, backward (both)")
    parser.add_argument("--quick", action="store_true", help="two small tiles")
    add_json_argument(parser)
    args = parser.parse_args()
    return guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Ranks the tiles of every chip and pass; returns the exit status."""
    for option, names, known in (("--chip", args.chip, CORES), ("--passes", args.passes, PRODUCTS)):
        for name in names:
            if name not in known:
                raise ValueError(f"{option}: {did_you_mean(name, known)}")
    work = Work(args.queries, args.keys, args.heads, args.head_dim)
    tiles = [Tile(128, 256, 128), Tile(256, 256, 256)] if args.quick else list(candidates())
    present = present_chip()
    if present is not None:
        figures = [f for name in args.passes for f in rank(present, name, tiles, measure, work)]
    else:
        use_cpu()
        with schedules.dumps() as folder:
            seconds = functools.partial(predict, folder)
            cases = itertools.product(args.chip, args.passes)
            figures = [f for chip, name in cases for f in rank(chip, name, tiles, seconds, work)]
    print(f"\n{figures_table(figures)}")
    if args.json:
        write_figures(args.json, figures)
    return 0


def present_chip() -> str | None:
    """The TPU of this machine, if it has one; asked of the PCI bus, for libtpu must not be loaded yet."""
    chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
    return CHIP_OF[jax.devices()[0].device_kind] if chips else None


def candidates() -> Iterator[Tile]:
    """Tiles whose scores are between 1 and 4 MiB; fewer keep the units waiting, more do not fit."""
    for q, kv, compute in itertools.product((512, 1024, 2048), (1024, 2048, 4096), (256, 512, 1024, 2048)):
        if compute <= kv and 2**18 <= q * compute <= 2**20:
            yield Tile(q, kv, compute)


def rank(chip: str, name: str, tiles: list[Tile], seconds: Callable, work: Work) -> list[Figure]:
    """Figures of every tile that fits, the fastest first."""
    say(f"\n== {chip}, {name} pass, {work}")
    useful = PRODUCTS[name] * 2 * work.heads * work.queries * work.keys * work.head_dim
    found = {}
    for tile in tiles:
        fitted = tile.fit(work.queries, work.keys)
        try:
            found[fitted] = seconds(chip, name, fitted, work)
        except jax.errors.JaxRuntimeError as error:
            if not schedules.out_of_fast_memory(error):
                raise
            say(f"{spelled(fitted):>16}  does not fit into the fast memory")
            continue
        taken, remark = found[fitted]
        say(f"{spelled(fitted):>16}  {1e3 * taken:8.2f} ms  {useful / taken / CHIPS[chip].flops:5.1%}  {remark}")
    ordered = sorted(found.items(), key=lambda item: item[1][0])
    return [
        Figure(f"splash/{chip}/{name}/{spelled(tile)}", round(1e3 * taken, 3), "ms", ok=None)
        for tile, (taken, _) in ordered
    ]


def spelled(tile: Tile) -> str:
    """`1024x2048x512`: queries, keys, and keys at once."""
    return f"{tile.q}x{tile.kv}x{tile.compute}"


def predict(folder: Path, chip: str, name: str, tile: Tile, work: Work) -> tuple[float, str]:
    """Seconds of the pass by the compiler's schedule, and what its units do."""
    found = schedules.schedule(folder, f"splash_{name}", lambda: compile_step(chip, name, tile, work.head_dim))
    cores, per_cycle = CORES[chip]
    bandwidth = CHIPS[chip].hbm_bandwidth
    clock = CHIPS[chip].flops / cores / per_cycle
    steps = work.heads * math.ceil(work.queries / tile.q) * math.ceil(work.keys / tile.kv)
    operand, result = tile.q * work.head_dim * 2, 0
    if name == "forward":
        streamed = 2 * tile.kv * work.head_dim * 2
    else:  # q and dO come, dQ goes, and is read again when it is added up
        streamed, result = 3 * operand, steps * operand / bandwidth
    taken = steps / cores * max(found.cycles / clock, streamed / (bandwidth / cores)) + result
    busy = ", ".join(f"{unit} {found.busy[unit]:.0%}" for unit in ("MXU", "VALU", "EUP", "VSTORE:SPILL"))
    return taken, f"{found.cycles} cycles a step: {busy}"


def compile_step(chip: str, name: str, tile: Tile, head_dim: int) -> None:
    """Compiles a pass of a few blocks for a chip that is not there: a step is the same, however many there are."""
    mesh = target_mesh(parse_target(TOPOLOGY[chip]), MeshConfig())
    everywhere = jax.sharding.NamedSharding(mesh, jax.P())
    step, shapes = program(name, tile, Work(2 * tile.q, 2 * tile.kv, 2, head_dim))
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere) for x in shapes]
    with jax.set_mesh(mesh):
        jax.jit(jax.shard_map(step, in_specs=jax.P(), out_specs=jax.P(), check_vma=False)).lower(*shapes).compile()


def measure(chip: str, name: str, tile: Tile, work: Work, repeats: int = 10) -> tuple[float, str]:
    """Seconds of the pass on this machine's TPU, the median."""
    step, shapes = program(name, tile, work)
    operands = [jax.random.normal(jax.random.key(i), x.shape, x.dtype) for i, x in enumerate(shapes)]
    step = jax.jit(step)
    jax.block_until_ready(step(*operands))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(step(*operands))
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[repeats // 2], f"median of {repeats}"


def program(name: str, tile: Tile, work: Work, interpret: bool = False):
    """A pass with one tile, and the shapes of its operands."""
    kernel, view = Splash(Blocks(tile, tile), interpret), View(work.head_dim**-0.5)
    q = jax.ShapeDtypeStruct((1, work.heads, work.queries, work.head_dim), DTYPE)
    k = jax.ShapeDtypeStruct((1, work.heads, work.keys, work.head_dim), DTYPE)
    row = jax.ShapeDtypeStruct(q.shape[:3], jnp.float32)
    if name == "forward":
        return lambda q, k, v: kernel.forward(q, k, v, view), (q, k, k)
    return lambda q, k, v, lse, delta, d: kernel.backward(q, k, v, lse, delta, d, view), (q, k, k, row, row, q)


if __name__ == "__main__":
    sys.exit(main())
