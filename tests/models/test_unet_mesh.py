"""A UNet on a mesh computes what it computes on one device, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.attention.meshes import mesh_of
from vdm_jax.models.unet import UNet, UNetConfig
from vdm_jax.sharding import LogicalRules, activation_sharding, logical_axes, param_shardings

MODEL = UNetConfig(
    channels=4,
    widths=(8,),
    layers=(1,),
    heads=(2,),
    depth=(1,),
    groups=4,
    text_dim=8,
    temporal="motion",
    motion_heads=(2,),
    motion_depth=(1,),
    max_frames=4,
)


def test_loss_and_gradients_are_those_of_one_device():
    mesh, rng = mesh_of(fsdp=2, context=2, tensor=2), np.random.default_rng(0)
    graph, state = nnx.split(nnx.eval_shape(lambda: UNet(MODEL, nnx.Rngs(0))))
    params = jax.tree.map(lambda leaf: 0.2 * rng.standard_normal(leaf.shape, np.float32), nnx.to_pure_dict(state))
    x, target = rng.standard_normal((2, 2, 3, 4, 4, 4), np.float32)  # three frames: the mesh cuts pixels
    cond = {"tokens": rng.standard_normal((2, 3, 8), np.float32)}

    def loss(params):
        network = nnx.merge(graph, params)
        return jnp.mean((network(x, jnp.full((2, 3), 500.0), cond) - target) ** 2)

    def on_mesh(params):
        with activation_sharding(mesh, LogicalRules()):
            return jax.value_and_grad(loss)(params)

    placed = jax.device_put(params, param_shardings(params, logical_axes(state), mesh, LogicalRules()))
    found, wanted = jax.jit(on_mesh)(placed), jax.jit(jax.value_and_grad(loss))(params)
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max() + 1e-7)
