"""What only the UNets have."""

import numpy as np
import pytest

from vdm_jax.interop.cases.unet import types
from vdm_jax.interop.component import Component, read
from vdm_jax.interop.families.unet import UNET_2D
from vdm_jax.interop.families.unet_motion import MOTION_ADAPTER, UNET_MOTION
from vdm_jax.interop.parity import build_published, redraw, to_published
from vdm_jax.models.unet.motion import animated, animated_params


def test_a_unet_and_an_adapter_become_the_unet_that_diffusers_makes_of_them(tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="it is the oracle")
    sizes = {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4}
    pictures = {**sizes, **types("2D"), "cross_attention_dim": 6, "attention_head_dim": 2}
    modules = {
        "block_out_channels": [8, 16], "motion_layers_per_block": 1, "motion_norm_num_groups": 4,
        "motion_num_attention_heads": 4, "motion_max_seq_length": 8, "motion_transformer_layers_per_block": [1, 2],
    }  # fmt: skip
    made, parts = {}, {}
    for seed, (family, options) in enumerate(((UNET_2D, pictures), (MOTION_ADAPTER, modules))):
        made[family] = build_published(family, options)
        redraw(made[family], 0.02, seed)
        made[family].save_pretrained(tmp_path / family.published)
        parts[family] = read(tmp_path / family.published)
    theirs = diffusers.UNetMotionModel.from_unet2d(made[UNET_2D], made[MOTION_ADAPTER])
    config = animated(parts[UNET_2D].config, parts[MOTION_ADAPTER].config)
    assert config == UNET_MOTION.config(theirs.config)
    params = animated_params(parts[UNET_2D].params, parts[MOTION_ADAPTER].params)
    found = to_published(Component(UNET_MOTION, config, params), params)
    wanted = {name: value.numpy() for name, value in theirs.state_dict().items() if not name.endswith(".pe")}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)
