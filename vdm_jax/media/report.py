"""One `report.html` that says how a run went, and opens anywhere: no network, no files beside it.

Header with the summary figures, the loss curve, samples next to real clips as looping videos, a table of prompts
with what an oracle read off the pixels, timings, environment, the whole config.  This file turns plain data into
what the template `report.html.j2` shows; it knows nothing about training.
"""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from vdm_jax.media.charts import Curve, line_chart, panels
from vdm_jax.media.embed import embed_clip
from vdm_jax.media.grid import check_clip

SHOWN = 12  # samples shown at once; the others wait behind one click
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "vdm_jax")


def software() -> dict[str, str]:
    """Python, system and the versions of the packages that matter; "absent" for one that is not installed."""
    versions = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return versions


@dataclasses.dataclass(frozen=True)
class Sample:
    """One generated clip.

    Attributes:
      prompt: its caption; "" when the model is unconditional.
      clip: uint8 `[T, H, W, 3]`.
      real: a real clip with this caption, of any size, or None.
      verdict: aspect -> what the oracle says: True or False (agrees with the prompt or not), or any text.
    """

    prompt: str
    clip: np.ndarray
    real: np.ndarray | None = None
    verdict: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What a report shows; every field but the title may be empty, and its section is then left out.

    Attributes:
      title, subtitle: the head of the page.
      summary: the few figures that matter, e.g. `{"prompt_agreement": 0.92, "total_seconds": 431.0}`; names that end
        in `_seconds` are written as durations, in `_agreement` or `_fraction` as per cent.
      curves: `{"train/loss": [(step, value), ...], "eval/loss": ...}`; what stands after "/" names the picture.
      samples: shown in this order.
      fps: frames per second of the samples.
      notes: paragraphs under the header, e.g. what was dropped and why.
      timings: seconds per phase.
      config: as run, nested.
      environment: device, versions ...; see `software`.
    """

    title: str
    subtitle: str = ""
    summary: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, Curve] = dataclasses.field(default_factory=dict)
    samples: Sequence[Sample] = ()
    fps: float = 8.0
    notes: Sequence[str] = ()
    timings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, Any] = dataclasses.field(default_factory=software)


def write_report(path: str | os.PathLike, report: Report) -> None:
    """Renders `report` and writes it to `path`, whole or not at all.

    Raises:
      ValueError: a sample that is not uint8 `[T, H, W, 3]`; names which one.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(render(report), encoding="utf-8")
    os.replace(partial, path)


def render(report: Report) -> str:
    """The page as text.

    Raises:
      ValueError: as `write_report`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        summary=[(spoken(name), format_value(name, value)) for name, value in report.summary.items()],
        charts=_charts(report.curves),
        samples=[_sample(i, sample, report.fps) for i, sample in enumerate(report.samples)],
        shown=SHOWN,
        aspects=_aspects(report.samples),
        timings=_timings(report.timings),
        config=json.dumps(report.config, indent=2, default=str),
        environment=[(name, str(value)) for name, value in report.environment.items()],
    )


def spoken(name: str) -> str:
    """`prompt_agreement -> prompt agreement`, `train_seconds -> train time`."""
    return name.replace("_seconds", " time").replace("_", " ").strip()


def format_value(name: str, value: Any) -> str:
    """A figure as a person writes it; `name` tells durations and fractions (see `Report.summary`)."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return str(value)
    if not math.isfinite(value):
        return "not finite"
    if name.endswith("_seconds"):
        return duration(value)
    if name.endswith(("_agreement", "_fraction")):
        return f"{100 * value:.1f} %"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """`0.034 -> 34 ms`, `4.26 -> 4.3 s`, `75 -> 1m 15s`, `7300 -> 2h 01m`."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def _charts(curves: Mapping[str, Curve]) -> list[tuple[str, str]]:
    """(name, SVG) of every panel, the loss first and wide, the others small."""
    grouped = panels(curves)
    names = sorted(grouped, key=lambda name: name != "loss")
    drawn = []
    for i, name in enumerate(names):
        width, height = (9.4, 3.1) if i == 0 else (4.6, 2.2)
        drawn.append((spoken(name), line_chart(grouped[name], width=width, height=height)))
    return drawn


def _sample(index: int, sample: Sample, fps: float) -> dict[str, Any]:
    """What the template needs of one sample."""
    clips = [("sample", sample.clip)] + ([("real", sample.real)] if sample.real is not None else [])
    verdict = {k: bool(v) if isinstance(v, np.bool_) else v for k, v in (sample.verdict or {}).items()}
    return {
        "number": index + 1,
        "prompt": sample.prompt,
        "media": [(name, embed_clip(check_clip(clip, f"samples[{index}].{name}"), fps)) for name, clip in clips],
        "verdict": verdict,
        "agrees": False not in [v for v in verdict.values() if isinstance(v, bool)],
    }


def _aspects(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The columns of the verdict table: name and, for yes/no aspects, how many agree."""
    aspects: dict[str, list] = {}
    for sample in samples:
        for name, value in (sample.verdict or {}).items():
            aspects.setdefault(name, []).append(value)
    columns = []
    for name, values in aspects.items():
        judged = [v for v in values if isinstance(v, (bool, np.bool_))]
        columns.append({"name": name, "agree": sum(map(bool, judged)), "of": len(judged)})
    return columns


def _timings(timings: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """(phase, duration, share of the longest phase in per cent)."""
    longest = max(timings.values(), default=0.0) or 1.0
    return [(spoken(name), duration(seconds), 100 * seconds / longest) for name, seconds in timings.items()]
