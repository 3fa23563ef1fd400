"""A UNet on a mesh computes what it computes on one device, gradients included, whatever its temporal unit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.attention.meshes import mesh_of
from vdm_jax.models.unet import UNet, UNetConfig
from vdm_jax.sharding import LogicalRules, activation_sharding, gathered, logical_axes, param_shardings

ONE = UNetConfig(channels=4, widths=(8,), layers=(0,), heads=(2,), depth=(1,), groups=4, text_dim=8)
MODELS = {  # the middle and the ascending half have every kind of layer; two levels have the ways between them
    "none": dataclasses.replace(ONE, widths=(8, 16), layers=(0, 1), heads=(2, 2), depth=(1, 0)),
    "convolution": dataclasses.replace(ONE, temporal="convolution"),
    "motion": dataclasses.replace(ONE, temporal="motion", motion_heads=(2,), motion_depth=(1,), max_frames=4),
    "mixed": dataclasses.replace(ONE, temporal="mixed", scalars=("fps", "motion"), scalar_dim=8, concat_channels=4),
}


# Two devices of `context` cut four frames, and of three frames the pixels.
@pytest.mark.parametrize(("unit", "frames"), [("none", 3), ("convolution", 4), ("motion", 4), ("mixed", 3)])
def test_loss_and_gradients_are_those_of_one_device(unit, frames):
    mesh, rng = mesh_of(fsdp=2, context=2, tensor=2), np.random.default_rng(0)
    graph, state = nnx.split(nnx.eval_shape(lambda: UNet(MODELS[unit], nnx.Rngs(0))))
    params = jax.tree.map(lambda leaf: 0.2 * rng.standard_normal(leaf.shape, np.float32), nnx.to_pure_dict(state))
    x, target, picture = rng.standard_normal((3, 2, frames, 4, 4, 4), np.float32)
    cond = {"tokens": rng.standard_normal((2, 3, 8), np.float32)}
    if unit == "mixed":
        cond |= {"concat": picture, "vector": {"fps": np.float32([7, 8]), "motion": np.float32([100, 127])}}

    def loss(params):
        network = gathered(nnx.merge(graph, params))
        return jnp.mean((network(x, jnp.full((2, frames), 500.0), cond) - target) ** 2)

    def on_mesh(params):
        with activation_sharding(mesh, LogicalRules()):
            return jax.value_and_grad(loss)(params)

    placed = jax.device_put(params, param_shardings(params, logical_axes(state), mesh, LogicalRules()))
    found, wanted = jax.jit(on_mesh)(placed), jax.jit(jax.value_and_grad(loss))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(wanted))
    for (path, want), got in zip(jax.tree.leaves_with_path(wanted), jax.tree.leaves(found), strict=True):
        atol = 1e-5 * np.abs(want).max() + 1e-8  # of gradients that are sums of much larger numbers
        np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=jax.tree_util.keystr(path))
