"""The networks of tools/bench_models are those that the peers were timed with first."""

import numpy as np
import pytest
from bench.imports import SIZES, write_random
from bench.networks import NETWORKS

from vdm_jax.interop.component import examine
from vdm_jax.interop.families.wan import WAN


@pytest.mark.parametrize(("name", "millions"), [("latte_s", 26.4), ("wan_s", 36.2)])
def test_sizes(name, millions):
    case = NETWORKS[name].case()
    shapes = case.family.shapes(case.family.config(case.published)).values()
    assert round(sum(np.prod(shape) for shape in shapes) / 1e6, 1) == millions
    config = case.family.config(case.published)
    assert np.prod(config.token_grid(*case.inputs["x"][1:4])) == 2048


@pytest.mark.parametrize("name", NETWORKS)
def test_quick_ones_are_small(name):
    case = NETWORKS[name].small()
    shapes = case.family.shapes(case.family.config(case.published)).values()
    assert sum(np.prod(shape) for shape in shapes) < 4e6


def test_what_is_imported_is_wan_of_1_4_billion(tmp_path):
    config = WAN.config(dict(SIZES))
    assert round(sum(np.prod(shape) for shape in WAN.shapes(config).values()) / 1e9, 1) == 1.4
    small = {"attention_head_dim": 16, "ffn_dim": 32, "num_attention_heads": 1, "num_layers": 1, "text_dim": 8}
    assert write_random(tmp_path / "published", small) == 2 * examine(tmp_path / "published").parameters
