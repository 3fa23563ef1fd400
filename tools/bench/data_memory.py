"""Section `memory`: what the loader holds while it goes over a set, in megabytes of resident memory.

After the first tenth of an epoch everything that is read ahead is there; from then on memory must not grow.
"""

import gc
import tempfile
from pathlib import Path

from bench.data_loader import BATCH
from bench.data_material import materials
from bench.data_sets import config_of, write
from bench.options import Options, say
from data_pipelines.loading.loader import make_loader
from vdm_jax.media.figures import Figure

GROWTH = 64.0  # megabytes: less than the batches read ahead
EPOCHS = 2


def measure(options: Options) -> list[Figure]:
    """Growth of each kind of clips over two epochs."""
    found = []
    for material in materials(options.quick):
        if options.case not in material.name:
            continue
        with tempfile.TemporaryDirectory(prefix="bench_data_") as folder:
            write(material, Path(folder))
            config = config_of(material, Path(folder) / "shards")
            steps = EPOCHS * material.clips // BATCH
            with make_loader(config, "train", [config.bucket(BATCH)], seed=0) as loader:
                gc.collect()
                seen = [(next(loader), resident())[1] for _ in range(steps)]
        first, last = max(seen[: max(1, len(seen) // 10)]), max(seen[len(seen) // 10 :])
        say(f"  {material.name}: {first:,.0f} MB after a tenth of {EPOCHS} epochs, at most {last:,.0f} MB later")
        growth = max(0.0, last - first)
        found.append(Figure(f"data/memory/{material.name}", growth, "MB", n=steps, ok=growth <= GROWTH))
    return found


def resident() -> float:
    """Megabytes of this process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
