import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from vdm_jax.media import charts

STEPS = np.arange(200)


def curve(values):
    return list(zip(range(len(values)), values))


def test_curves_of_one_quantity_share_a_panel():
    grouped = charts.panels({"train/loss": curve([1]), "eval/loss": curve([2]), "rate": curve([3]), "empty": []})
    assert {name: list(series) for name, series in grouped.items()} == {"loss": ["train", "eval"], "rate": ["rate"]}


def test_log_scale_only_for_positive_values_of_a_wide_range():
    assert charts.use_log_scale({"a": curve(np.geomspace(1, 1e-3, 50))})
    assert not charts.use_log_scale({"a": curve(np.linspace(1, 2, 50))})
    assert not charts.use_log_scale({"a": curve([1e-3, 1.0, 0.0])})
    assert not charts.use_log_scale({"a": curve([np.nan, np.nan])})


def test_smoothing_keeps_a_line_where_it_is_and_steps_over_gaps():
    line = 3.0 * STEPS + 1
    np.testing.assert_allclose(charts.smooth(line, 20)[:190], line[:190])
    gap = np.where(STEPS == 50, np.nan, 2.0)
    np.testing.assert_allclose(charts.smooth(gap, 10), 2.0)
    noise = np.random.default_rng(0).normal(size=200)
    assert charts.smooth(noise, 30)[20:].std() < 0.4 * noise.std()


@pytest.mark.parametrize("values", [[1.0], [1.0, np.nan, np.inf], list(np.geomspace(9, 1e-4, 3000)), [np.nan]])
def test_chart_is_svg_in_the_colours_of_the_page(values):
    svg = charts.line_chart({"train <&> $x$": curve(values), "eval": curve([1.0, 2.0])})
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "width" not in root.attrib
    assert not [color for color in charts.VARIABLES if color in svg]
    for variable in ("--muted", "--line", "--series-1", "--series-2"):
        assert f"var({variable})" in svg
    assert "train <&> $x$" in "".join(root.itertext())


def test_chart_is_the_same_each_time_and_small():
    long = {"loss": curve(np.random.default_rng(0).uniform(size=20_000))}
    assert charts.line_chart(long) == charts.line_chart(long)
    assert len(charts.line_chart(long)) < 100_000


def bars(svg):
    """How many bars of each colour are drawn, those without height left out."""
    return {k: len(re.findall(rf"fill: var\(--series-{k}\)", svg)) for k in (1, 2)}


def test_a_histogram_shows_what_is_outside_of_the_range():
    values = [0.0, 0.1, 0.2, 0.5, 0.5, 0.9]
    svg = charts.histogram(values, least=0.2, most=0.5, name="motion")
    assert svg.startswith("<svg")
    assert "motion" in svg
    found = bars(svg)
    assert found[1] > 3
    assert found[2] > 3
    assert found[1] + found[2] == charts.BINS + 2
    assert bars(charts.histogram(values))[2] == 0
    assert charts.histogram([3, 3, 3]).startswith("<svg")
    assert charts.histogram(values, least=0.2) == charts.histogram(values, least=0.2)


@pytest.mark.parametrize(("least", "most", "outside"), [(0.2, 0.5, 3), (0.5, 1, 3), (-1, 0.9, 0), (0.95, 2, 6)])
def test_both_ends_belong_to_the_range(least, most, outside):
    values = np.array([0.0, 0.1, 0.2, 0.5, 0.5, 0.9])
    counts, edges = charts._binned(values, [least, np.nextafter(most, np.inf)])
    inside = (edges[:-1] >= least) & (edges[:-1] <= most)
    assert (counts[~inside].sum(), counts.sum()) == (outside, 6)
