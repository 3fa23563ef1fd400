"""Section `worlds`: clips that each world renders in a second of a core, with all that is known of them.

Seconds are those of CPU time, so that other work on the machine is not counted.
"""

import os
import statistics
import time

from bench.options import Options, say
from data_pipelines.worlds.known import WORLDS
from vdm_jax.media.figures import Figure

SIZE = {"height": 64, "width": 64, "frames": 16}
BARS = {"sprites": 200.0}


def measure(options: Options) -> list[Figure]:
    """Every world at 64 x 64 x 16."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    size = {"height": 16, "width": 16, "frames": 4} if options.quick else SIZE
    found = []
    for name, world in WORLDS.items():
        if options.case not in name:
            continue
        config = world.config(**size)
        world.clip(config, 0, 0)  # what is cached for the config
        rates, index = [], 1
        for _ in range(1 if options.quick else 5):
            begin, made = time.process_time(), 0
            while (spent := time.process_time() - begin) < (0.05 if options.quick else 1.0):
                world.clip(config, index + made, 0)
                made += 1
            rates.append(made / spent)
            index += made
        rate, bar = statistics.median(rates), BARS.get(name)
        say(f"  {name}: {rate:,.0f} clips/s" + (f" (at least {bar:.0f})" if bar else ""))
        found.append(
            Figure(f"data/worlds/{name}", rate, "clips/s", n=len(rates), ok=None if bar is None else rate >= bar)
        )
    return found
