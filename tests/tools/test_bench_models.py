"""The networks of tools/bench_models are those that the peers were timed with first."""

import numpy as np
import pytest
from bench.networks import NETWORKS


@pytest.mark.parametrize(("name", "millions"), [("latte_s", 26.4), ("wan_s", 36.2)])
def test_sizes(name, millions):
    case = NETWORKS[name][0]()
    shapes = case.family.shapes(case.family.config(case.published)).values()
    assert round(sum(np.prod(shape) for shape in shapes) / 1e6, 1) == millions
    config = case.family.config(case.published)
    assert np.prod(config.token_grid(*case.inputs["x"][1:4])) == 2048


@pytest.mark.parametrize("name", NETWORKS)
def test_quick_ones_are_small(name):
    case = NETWORKS[name][1]()
    shapes = case.family.shapes(case.family.config(case.published)).values()
    assert sum(np.prod(shape) for shape in shapes) < 1e6
