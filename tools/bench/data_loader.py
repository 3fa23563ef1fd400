"""Section `loader`: clips a second of our loader against PyTorch's `DataLoader` and WebDataset.

Each turn opens its side anew, leaves out the first batches (more than any side reads ahead, so that no full buffer is
drained within the time), and times the following ones.  PyTorch's sides take the number of workers that was best in a
first look.  Our loader gives each clip once an epoch, in an order of the seed, at random places of the files.
"""

import contextlib
import functools
import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.data_material import Material, materials
from bench.data_sets import config_of, write
from bench.options import Options, say
from data_pipelines.loading.loader import make_loader
from vdm_jax.media.figures import Figure

BATCH = 8
READ_AHEAD = 6  # batches that any side may have ready
WORKERS = (0, 1, 2)
TORCH, TARS = "torch_dataloader", "webdataset"
BARS = {TORCH: {"latents": 1.0}, TARS: {}}
BAR = {TORCH: 1.2, TARS: 1.0}
Open = Callable[[], Iterator]


def measure(options: Options) -> list[Figure]:
    """Every kind of clips against both."""
    found = []
    for material in materials(options.quick):
        if options.case in material.name:
            with tempfile.TemporaryDirectory(prefix="bench_data_") as folder:
                found += _kind(material, Path(folder), rounds=1 if options.quick else 5)
    return found


def _kind(material: Material, folder: Path, rounds: int) -> list[Figure]:
    from bench import data_peers  # needs PyTorch, which the other sections do not

    write(material, folder)
    sides: dict[str, Open] = {"vdm_jax": functools.partial(_ours, material, folder / "shards")}
    for name, opener, part in ((TORCH, data_peers.of_files, "files"), (TARS, data_peers.of_tars, "tars")):
        opened = functools.partial(opener, material, folder / part, BATCH)
        rates = {workers: clips_a_second(functools.partial(opened, workers), material) for workers in WORKERS}
        best = max(rates, key=rates.get)
        looked = ", ".join(f"{workers} workers {rate:,.0f}" for workers, rate in rates.items())
        say(f"  {material.name}, {name}: {looked} clips/s")
        sides[name] = functools.partial(opened, best)
    found = {name: [] for name in sides}
    for round_ in range(rounds):
        for name in [*sides][round_ % len(sides) :] + [*sides][: round_ % len(sides)]:
            found[name].append(clips_a_second(sides[name], material))
    return [_figure(material, peer, found["vdm_jax"], found[peer]) for peer in (TORCH, TARS)]


def _ours(material: Material, shards: Path) -> Iterator:
    config = config_of(material, shards)
    with make_loader(config, "train", [config.bucket(BATCH)], seed=0) as loader:
        yield from loader


def clips_a_second(opened: Open, material: Material) -> float:
    """Opens a side, and times it past what it has read ahead."""
    gc.collect()
    with contextlib.closing(opened()) as batches:
        for _ in itertools.islice(batches, READ_AHEAD):
            pass
        begin = time.perf_counter()
        clips = sum(len(b["video"] if isinstance(b, dict) else b) for b in itertools.islice(batches, material.batches))
        return clips / (time.perf_counter() - begin)


def _figure(material: Material, peer: str, ours: list[float], theirs: list[float]) -> Figure:
    ratios = [a / b for a, b in zip(ours, theirs)]
    ratio, bar = statistics.median(ratios), BARS[peer].get(material.name, BAR[peer])
    ours_median, theirs_median = statistics.median(ours), statistics.median(theirs)
    say(f"  {material.name}: vdm_jax {ours_median:,.0f} clips/s, {peer} {theirs_median:,.0f}, ratio {ratio:.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}; at least {bar})")  # fmt: skip
    spread = statistics.stdev(ours) if len(ours) > 1 else 0.0
    return Figure(
        f"data/loader/{material.name}/{peer}",
        ours_median,
        "clips/s",
        theirs_median,
        ratio,
        len(ours),
        spread,
        ratio >= bar,
    )
