"""Training curves and histograms as inline SVG.

matplotlib draws them; the text stays text (the page's own font) and every colour is a CSS variable of the page, so
one picture fits a light and a dark page alike.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

Curve = Sequence[tuple[float, float]]

# What matplotlib is told -> the variable that the page puts in its place.  The left colours occur nowhere else.
INK, FAINT = "#010203", "#010204"
SERIES = ["#010211", "#010212", "#010213", "#010214", "#010215"]
VARIABLES = {INK: "--muted", FAINT: "--line"} | {c: f"--series-{i + 1}" for i, c in enumerate(SERIES)}

SMOOTH_FROM = 80  # points; longer curves are drawn smoothed, over a faint copy of themselves
BINS = 40  # of a histogram
MAX_POINTS = 800  # more than a screen shows; keeps the page small


def panels(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Groups curves by what they measure: `train/loss` and `eval/loss` share the panel `loss`.

    Curves without points are left out.  A name without "/" is a panel of its own, or joins the one of that name.
    """
    grouped: dict[str, dict[str, Curve]] = {}
    for name, points in curves.items():
        series, _, quantity = name.rpartition("/")
        if len(points):
            grouped.setdefault(quantity, {})[series or quantity] = points
    return grouped


def use_log_scale(curves: Mapping[str, Curve]) -> bool:
    """True if all values are positive and the middle 98 % span more than a factor of ten."""
    values = np.concatenate([np.asarray(points, np.float64)[:, 1] for points in curves.values()])
    values = values[np.isfinite(values)]
    if not len(values) or values.min() <= 0:
        return False
    low, high = np.quantile(values, [0.01, 0.99])
    return bool(high / low > 10)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over `window` points, fewer at the ends; gaps (not finite) are stepped over.

    Centred, because a running mean lags behind a falling loss and would show it higher than it is.
    """
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    place = np.arange(len(values))
    half = np.minimum(window // 2, place)  # symmetric at the start, where the loss is steep
    low, high = place - half, np.minimum(place + half + 1, len(values))
    with np.errstate(invalid="ignore"):
        return (total[high] - total[low]) / (count[high] - count[low])


def line_chart(curves: Mapping[str, Curve], *, width: float = 7.0, height: float = 3.0) -> str:
    """Draws `{name: [(step, value), ...]}` over the step.

    Args:
      curves: at least one, each with at least one point.
      width, height: inches at 96 pixels; the SVG scales with the page.

    Returns:
      An `<svg>` element whose colours are CSS variables (`--muted`, `--line`, `--series-1` ... `--series-5`).
    """
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vdm_jax", "font.size": 9}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        for i, (name, points) in enumerate(curves.items()):
            _draw(axes, np.asarray(points, np.float64), name, SERIES[i % len(SERIES)])
        _scale(axes, log=use_log_scale(curves))
        _style(axes, legend=len(curves) > 1)
        return _as_svg(figure)


def histogram(
    values: Sequence[float],
    *,
    least: float = -math.inf,
    most: float = math.inf,
    name: str = "",
    width: float = 4.6,
    height: float = 2.1,
) -> str:
    """Draws how often values occur; those outside of a range in another colour, and the ends of the range.

    Args:
      values: finite, at least one.
      least, most: the range.
      name: what is measured, under the chart.
      width, height: as in `line_chart`.

    Returns:
      An `<svg>` element, as `line_chart`.
    """
    values = np.asarray(values, np.float64)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vdm_jax", "font.size": 9}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        ends = (least, math.nextafter(most, math.inf))  # both ends belong to the range, and a bin lacks its upper one
        counts, edges = _binned(values, [end for end in ends if math.isfinite(end)])
        inside = (edges[:-1] >= least) & (edges[:-1] <= most)
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=np.where(inside, SERIES[0], SERIES[1]))
        for end in (least, most):
            if math.isfinite(end):
                axes.axvline(end, color=INK, linewidth=1.2, dashes=(3, 2))
        if counts.max() > 25 * np.median(counts[counts > 0]):
            axes.set_yscale("symlog", linthresh=1)  # a peak of clips at one value must not hide the others
            powers = range(math.ceil(math.log10(counts.max())))
            axes.set_yticks([10**k for k in powers[:: max(1, len(powers) // 3)]])
        else:
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        _style(axes, legend=False, label=name, ticks=FuncFormatter(lambda value, _: f"{value:g}"))
        return _as_svg(figure)


def _binned(values: np.ndarray, ends: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Counts and edges of about 40 bins; the ends of the range are edges, so that no bin has both colours."""
    low, high = min([values.min(), *ends]), max([values.max(), *ends])
    if not ends and (values == np.round(values)).all() and high - low < BINS:  # counts: a bar for each
        edges = np.arange(low, high + 2) - 0.5
        return np.histogram(values, edges)[0], edges
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    edges = np.unique(np.concatenate([edges, ends]))
    return np.histogram(values, edges)[0], edges


def _as_svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(out.getvalue())


def _draw(axes, points: np.ndarray, name: str, color: str) -> None:
    points = points[:: math.ceil(len(points) / MAX_POINTS)]
    step, value = points.T
    value = np.where(np.isfinite(value), value, np.nan)
    if len(points) >= SMOOTH_FROM:
        axes.plot(step, value, color=color, linewidth=0.7, alpha=0.28)
        value = smooth(value, len(points) // 25)
    few = "o" if len(points) <= 30 else None
    axes.plot(step, value, color=color, linewidth=1.8, label=name.replace("$", r"\$"), marker=few, markersize=3.2)


def _scale(axes, log: bool) -> None:
    """Ticks at round values, written plainly (0.05, not a power of ten)."""
    locator = MaxNLocator(5)
    if log:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        locator = LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 300 else (1.0,))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _style(axes, legend: bool, label: str = "step", ticks: Formatter | None = None) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, which="both")
    axes.xaxis.set_major_formatter(ticks or EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=ticks is None))
    axes.set_xlabel(label.replace("$", r"\$"), color=INK)
    axes.margins(x=0.01)
    if legend:
        axes.legend(frameon=False, labelcolor=INK, loc="best")


def _inline(svg: str) -> str:
    """Strips what only a file needs and hands the colours to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", svg, flags=re.S)
    head, tail = svg.split(">", 1)
    svg = re.sub(r' (width|height)="[^"]*"', "", head) + ">" + tail
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", svg)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg
