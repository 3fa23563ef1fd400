"""Section `loader`: how long the device waits for data when `vdm train` trains dit_tiny from a shard set.

The figures are those that every run writes beside its loss (`perf/device_idle`, `perf/data_wait`).
"""

import json
import statistics
import tempfile
from pathlib import Path

from bench.options import Options, say
from bench.programs import CONFIGS
from data_pipelines.worlds.sprites.world import SpritesConfig
from data_pipelines.worlds.write import write_world
from vdm_jax.cli.config_file import load_config
from vdm_jax.cli.train import train
from vdm_jax.media.figures import Figure

BAR = 0.02
IDLE, WAIT, RATE = "perf/device_idle", "perf/data_wait", "perf/steps_per_second"


def measure(options: Options) -> list[Figure]:
    """Shares of the time spent on steps, over windows of 20 steps; the first window is left out."""
    steps, every, clips = (6, 2, 32) if options.quick else (240, 20, 4096)
    config = load_config(str(CONFIGS / "dit_tiny.py"))
    with tempfile.TemporaryDirectory(prefix="bench_loader_") as folder:
        config.data.shards = str(Path(folder) / "shards")
        world = SpritesConfig(frames=config.data.frames, height=config.data.height, width=config.data.width)
        write_world(config.data.shards, world, clips, val_clips=8)
        config.train.steps, config.log.every, config.checkpoint.every = steps, every, steps
        with config.ignore_type():
            config.log.eval_every = config.log.sample_every = None
        train(config, Path(folder) / "run")
        windows = read_windows(Path(folder) / "run" / "metrics.jsonl")[1:]
    idle, wait, rate = (statistics.mean(w[name] for w in windows) for name in (IDLE, WAIT, RATE))
    say(f"dit_tiny, {clips} clips: {rate:.2f} steps/s, device idle {idle:.2%}, host waits for data {wait:.2%}")
    values = [w[IDLE] for w in windows]
    spread = max(values) - min(values)
    return [
        Figure("loader/dit_tiny/device_idle", idle, "", n=len(windows), spread=spread, ok=idle < BAR),
        Figure("loader/dit_tiny/data_wait", wait, "", n=len(windows)),
    ]


def read_windows(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl` that hold the figures of a window."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if IDLE in line]
