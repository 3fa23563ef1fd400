"""One seed of a claim in a process of its own; started by `vdm claim`.

python -m vdm_jax.cli.claim_seed FOLDER SEED BUDGET CACHE OUT CPUS PICTURES
"""

import json
import os
import sys
import time
from pathlib import Path

from vdm_jax.cli.main import guarded


def measure(folder: Path, seed: int, budget: str, cache: Path, out: Path, pictures: Path | None) -> int:
    """Measures a claim and writes `{"measured": {name: number}, "seconds": wall time}`."""
    import jax

    from vdm_jax.evaluation.claims import Lab
    from vdm_jax.evaluation.claims.methods import CLAIM, load

    jax.config.update("jax_compilation_cache_dir", str(cache / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    begin = time.perf_counter()
    lab = Lab(seed, budget, cache / "bases", pictures, lambda text: print(f"{folder.name} {seed}: {text}", flush=True))
    measured = {name: float(value) for name, value in load(folder / CLAIM).CLAIM.measure(lab).items()}
    partial = out.with_suffix(".part")
    partial.write_text(json.dumps({"measured": measured, "seconds": time.perf_counter() - begin}))
    os.replace(partial, out)
    return 0


def main(words: list[str]) -> int:
    """See the top of this file; returns the exit status."""
    folder, seed, budget, cache, out, cpus, pictures = words
    if hasattr(os, "sched_setaffinity"):  # before JAX counts the CPUs for its threads
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    shown = Path(pictures) if pictures else None
    return guarded(lambda: measure(Path(folder), int(seed), budget, Path(cache), Path(out), shown))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
