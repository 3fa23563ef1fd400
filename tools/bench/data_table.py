"""Section `table`: what curation holds of a million clips, from their scores to what is written of them.

The clips are made up: as many scores, facts and bytes of text as `vdm curate` stores of each, twenty clips a source,
of which the first is a near duplicate of that of the source before.  They are compared, filtered, held out, written as
a table, and gone through as they are for encoding and for the shards.
"""

import base64
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.options import Options, say
from data_pipelines.curation.captions import Caption
from data_pipelines.curation.clip_rows import ClipRows
from data_pipelines.curation.curate import compared
from data_pipelines.curation.filters import Selection, decide, parse_filter
from data_pipelines.curation.scores.fingerprint import LOW, PARTS
from data_pipelines.curation.scores.known import choose_scorers
from data_pipelines.curation.settings import CurateSettings, Recipe
from data_pipelines.curation.source import Source
from data_pipelines.curation.table import ClipRow, write_table
from data_pipelines.curation.write import jobs_of
from vdm_jax.media.figures import Figure

MOST = 1000.0  # megabytes
CLIPS, EACH = 1_000_000, 20  # clips; of each source


def measure(options: Options) -> list[Figure]:
    """Peak memory of this process, and the seconds of each step."""
    clips = 20_000 if options.quick else CLIPS
    recipe = Recipe(CurateSettings(), choose_scorers("all"))
    rules = tuple(map(parse_filter, ("score_0>=0.02", "score_1<0.99 or missing", "codec!=mjpeg")))
    with tempfile.TemporaryDirectory(prefix="bench_data_") as folder:
        clock = _Clock()
        rows = ClipRows(Path(folder))
        for source in range(clips // EACH):
            rows.extend(_clips(source))
        clock.say("rows made and stored")
        rows = compared(rows, recipe)
        clock.say("near duplicates")
        decision = decide(rows, Selection(rules), clips // EACH)
        clock.say("filters and splits")
        write_table(Path(folder) / "clips.parquet", decision.rows)
        clock.say("table")
        sources = {name: Source(name, f"/footage/{name}") for name in map(_name, range(clips // EACH))}
        lines = [job.to_json() for job, _ in jobs_of(decision, sources)]
        clock.say(f"jobs of {len(lines):,} sources, {len(decision.kept):,} clips")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [Figure("data/table/peak", peak, "MB", n=clips, ok=peak <= MOST), clock.figure()]


class _Clock:
    """Says what steps took, and what is held at most so far."""

    def __init__(self):
        self._begin = self._last = time.monotonic()

    def say(self, step: str) -> None:
        now, peak = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        say(f"  {step}: {now - self._last:,.0f} s, at most {peak:,.0f} MB")
        self._last = now

    def figure(self) -> Figure:
        return Figure("data/table/seconds", time.monotonic() - self._begin, "s")


def _name(source: int) -> str:
    return f"part-{source // 1000:05d}/{source:012d}.mp4"


def _clips(source: int) -> Iterator[ClipRow]:
    rng = np.random.default_rng(source)
    names = [f"score_{k}" for k in range(25)]
    facts = {"container": "mp4", "codec": "h264" if source % 50 else "mjpeg", "pixel_format": "yuv420p"}
    facts |= {"height": 720, "width": 1280, "rotation": 0, "variable_rate": False, "color_range": "tv"}
    facts |= {"source_fps": 29.97, "source_seconds": 60.0, "sound": True}
    caption = (Caption("a person in a red jacket walks along a wet street at night, lights behind", 1.0, "toy 1"),)
    for k in range(EACH):
        seed = (source - source % 2, k) if k == 0 else (source, k)  # two sources begin alike
        look = np.random.default_rng(seed).integers(-60, 60, PARTS * LOW**2).astype(np.int8)
        scores = dict(zip(names, np.round(rng.random(25), 6).tolist()))
        scores |= {"phash": look[:24].tobytes().hex(), "embedding": base64.b64encode(look.tobytes()).decode()}
        yield ClipRow(_name(source), 3.0 * k, 3.0 * k + 2, "0" * 64, _name(source), facts, scores, caption)
