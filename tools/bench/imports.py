"""Bringing a published model in, against diffusers loading it: seconds and peak memory of whole processes.

    import     `vdm import FOLDER --out RUN`
    open       a process that opens that run into arrays
    diffusers  a process that calls `from_pretrained` on the same folder, in the dtype of its files

The folder is Wan 2.1 1.3B, bfloat16, with random weights.  Each is a process of its own, from its start to its end with
all that it imports; they take turns, after one round that brings the files into the system's cache.  diffusers maps the
file and reads a page when it is used, so a second process of it adds up every parameter, as a first step would; it
alone is timed against `open`, which reads everything, while `import` is timed against the plain one.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from bench.options import Options, say
from vdm_jax.errors import RunError
from vdm_jax.interop.families.wan import WAN
from vdm_jax.interop.files.tensors import STEMS, TensorWriter
from vdm_jax.media.figures import Figure

ROUNDS = 3
ROOM = 1 << 30  # bytes of memory beside the weights
SIZES = {"attention_head_dim": 128, "ffn_dim": 8960, "num_attention_heads": 12, "num_layers": 30}
SMALL = {"attention_head_dim": 16, "ffn_dim": 64, "num_attention_heads": 2, "num_layers": 2, "text_dim": 32}
THEIRS = """
import sys, torch
from diffusers import WanTransformer3DModel
model = WanTransformer3DModel.from_pretrained(sys.argv[1], torch_dtype=torch.bfloat16)
if len(sys.argv) > 2:
    print(sum(float(p.float().sum()) for p in model.parameters()))
"""
OPEN = """
import sys
from pathlib import Path
from vdm_jax.interop.imported import open_imported
open_imported(Path(sys.argv[1]))
"""

# A process's peak begins with that of the one that started it, so a small one does.
LAUNCH = """
import json, os, subprocess, sys, time
begin = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(child.pid, 0)
seconds = time.perf_counter() - begin
found = {"seconds": seconds, "bytes": used.ru_maxrss * 1024, "status": os.waitstatus_to_exitcode(status)}
print(json.dumps(found), flush=True)
os._exit(0)
"""


def measure(options: Options) -> list[Figure]:
    """Seconds and bytes of each process; the bars are to be faster, and at most 1 GiB above the weights."""
    with tempfile.TemporaryDirectory(prefix="bench_import_") as work:
        folder, run = Path(work) / "published", Path(work) / "run"
        size = write_random(folder, SMALL if options.quick else SIZES)
        say(f"{size / 2**30:.2f} GiB of weights")
        vdm = [sys.executable, "-m", "vdm_jax.cli.main"]
        commands = {
            "import": [*vdm, "import", str(folder), "--out", str(run)],
            "open": [sys.executable, "-c", OPEN, str(run)],
            "diffusers": [sys.executable, "-c", THEIRS, str(folder)],
            "diffusers_used": [sys.executable, "-c", THEIRS, str(folder), "used"],
        }
        seconds, peaks = _turns(commands, run, 1 if options.quick else ROUNDS)
    return _figures("import", "diffusers", seconds, peaks, size, options) + _figures(
        "open", "diffusers_used", seconds, peaks, size, options
    )


def write_random(folder: Path, sizes: Mapping[str, int]) -> int:
    """Writes a Wan transformer of these sizes; returns the bytes of its weights."""
    published = WAN.published_config(WAN.config(dict(sizes)))
    config = WAN.config(published)
    shapes = WAN.keymap(config).shapes(WAN.shapes(config))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(published))
    writer = TensorWriter(folder, STEMS["diffusers"], {name: (s, ml_dtypes.bfloat16) for name, s in shapes.items()})
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.put(name, (0.02 * rng.standard_normal(shape, np.float32)).astype(ml_dtypes.bfloat16))
    writer.close()
    return sum(2 * int(np.prod(shape)) for shape in shapes.values())


def _turns(commands: Mapping[str, Sequence[str]], run: Path, rounds: int) -> tuple[dict, dict]:
    seconds = {name: [] for name in commands}
    peaks = {name: [] for name in commands}
    for number in range(-1, rounds):
        shutil.rmtree(run, ignore_errors=True)
        for name, command in commands.items():
            took, peak = _process(name, command)
            if number >= 0:
                seconds[name].append(took)
                peaks[name].append(peak)
    return seconds, peaks


def _process(name: str, command: Sequence[str]) -> tuple[float, int]:
    """Seconds, and the most bytes that were resident.

    Raises:
      RunError: it failed; its own lines were printed by it.
    """
    launched = [sys.executable, "-c", LAUNCH, *command]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    found = json.loads(subprocess.run(launched, stdout=subprocess.PIPE, env=environment, check=True).stdout)
    if found["status"]:
        raise RunError(f"{name}: exit status {found['status']}")
    return found["seconds"], found["bytes"]


def _figures(ours: str, theirs: str, seconds, peaks, size: int, options: Options) -> list[Figure]:
    took = {name: statistics.median(seconds[name]) for name in (ours, theirs)}
    peak = {name: max(peaks[name]) / 2**30 for name in (ours, theirs)}
    ratio = statistics.median(a / b for a, b in zip(seconds[ours], seconds[theirs]))
    bars = (None, None) if options.quick else (ratio < 1.0, peak[ours] * 2**30 <= size + ROOM)
    spread = statistics.stdev(seconds[ours]) if len(seconds[ours]) > 1 else 0.0
    say(f"{ours}: {took[ours]:.1f} s, {peak[ours]:.2f} GiB; {theirs}: {took[theirs]:.1f} s, {peak[theirs]:.2f} GiB")
    return [
        Figure(f"{ours}/time", took[ours], "s", took[theirs], ratio, len(seconds[ours]), spread, bars[0]),
        Figure(f"{ours}/peak", peak[ours], "GiB", peak[theirs], peak[ours] / peak[theirs], ok=bars[1]),
    ]
