"""Section `reading`: how fast latents come out of shards on one core, against reading the bare files.

The peer is what a core can have: the same files read one after the other into one buffer, from the page cache, or
1 GB/s if that is less.  Our loader takes the records in its random order, checks each one's hash, and makes batches.
Seconds are those of CPU time, so that other work on the machine is not counted; nothing here waits for a disk.
"""

import dataclasses
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

from bench.data_loader import BATCH, READ_AHEAD
from bench.data_material import Material
from bench.data_sets import config_of, write
from bench.options import Options, say
from data_pipelines.loading.loader import make_loader
from vdm_jax.media.figures import Figure

BAR, ENOUGH = 0.8, 1e9  # of the lower of the file's rate and this many bytes a second
CHUNK = 1 << 20


def materials(quick: bool) -> list[Material]:
    """Latents of a small network (131 kB a clip), and of 81 frames of 480 x 832 pixels as Wan has them (4.2 MB)."""
    small = Material("latents_131kB", "latents", (4, 32, 32, 16), (4, 32, 32), 256, 4096, 1000)
    large = Material("latents_4MB", "latents", (21, 60, 104, 16), (21, 60, 104), 16, 192, 60)
    if quick:
        return [dataclasses.replace(small, distinct=8, clips=64, batches=4)]
    return [small, large]


def measure(options: Options) -> list[Figure]:
    """Both sizes."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found = []
    for material in materials(options.quick):
        with tempfile.TemporaryDirectory(prefix="bench_data_") as folder:
            write(material, Path(folder))
            shards = Path(folder) / "shards"
            ours, theirs = [], []
            for _ in range(1 if options.quick else 7):
                theirs.append(_files(shards))
                ours.append(_loader(material, shards))
        ceilings = [min(rate, ENOUGH) for rate in theirs]
        ratio = statistics.median(a / b for a, b in zip(ours, ceilings))
        rate, ceiling = statistics.median(ours), statistics.median(ceilings)
        say(
            f"  {material.name}: {rate / 1e6:,.0f} MB/s, bare files {statistics.median(theirs) / 1e6:,.0f}, {ratio:.2f}"
        )
        name = f"data/reading/{material.name}"
        found.append(Figure(name, rate / 1e6, "MB/s", ceiling / 1e6, ratio, len(ours), ok=ratio >= BAR))
    return found


def _files(shards: Path) -> float:
    """Bytes a second of reading the shards whole."""
    buffer, total = bytearray(CHUNK), 0
    begin = time.process_time()
    for path in sorted(shards.glob("*array_record*")):
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total / (time.process_time() - begin)


def _loader(material: Material, shards: Path) -> float:
    """Bytes of latents a second that come in batches."""
    config = config_of(material, shards)
    with make_loader(config, "train", [config.bucket(BATCH)], seed=0) as loader:
        for _ in itertools.islice(loader, READ_AHEAD):
            pass
        begin = time.process_time()
        total = sum(batch["video"].nbytes for batch in itertools.islice(loader, material.batches))
        return total / (time.process_time() - begin)
