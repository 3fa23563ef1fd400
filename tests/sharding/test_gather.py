import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from vdm_jax.nn.linear import Linear
from vdm_jax.sharding import LogicalRules, MeshConfig, activation_sharding, gathered, make_mesh
from vdm_jax.sharding.gather import _steps

DIM = 16


@pytest.mark.parametrize(
    ("stored", "steps"),
    [
        (P(("fsdp", "context"), "tensor"), [P("fsdp", "tensor"), P(None, "tensor")]),
        (P("tensor", ("context", "fsdp")), [P("tensor", "context"), P("tensor", None)]),
        (
            P(
                ("data", "fsdp", "context"),
            ),
            [
                P(
                    ("data", "fsdp"),
                ),
                P("data"),
            ],
        ),
        (P(None, "context"), [P(None, None)]),
        (P("tensor", None), []),
    ],
)
def test_one_axis_at_a_time_the_innermost_first(stored, steps):
    assert [*_steps(stored)] == [stored, *steps]


class Network(nnx.Module):
    """Two layers, one of which reads what all context devices have."""

    def __init__(self, rngs):
        self.up = Linear(DIM, DIM, axes=("embed", "mlp"), rngs=rngs)
        self.read = Linear(DIM, DIM, axes=("condition", "embed_out"), rngs=rngs)

    def __call__(self, x, clip):
        return jnp.tanh(self.up(x)) + self.read(clip)[:, None]


def gradients(params, graphdef, x, clip):
    return jax.grad(lambda p: jnp.sum(gathered(nnx.merge(graphdef, p))(x, clip) ** 2))(params)


@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"fsdp": 2, "context": 4}, {"fsdp": 2, "context": 2, "tensor": 2}])
def test_gradients_are_those_of_one_device(axes):
    graphdef, params = nnx.split(Network(nnx.Rngs(0)))
    x, clip = jax.random.normal(jax.random.key(1), (8, 4, DIM)), jax.random.normal(jax.random.key(2), (8, DIM))
    want = gradients(params, graphdef, x, clip)
    mesh = make_mesh(MeshConfig(data=1, **axes))

    @functools.partial(jax.jit, static_argnums=1)
    def on_mesh(params, graphdef, x, clip):
        with activation_sharding(mesh, LogicalRules()):
            return gradients(params, graphdef, x, clip)

    everywhere = jax.sharding.NamedSharding(mesh, P())
    got = on_mesh(*jax.device_put((params,), everywhere), graphdef, *jax.device_put((x, clip), everywhere))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_without_a_mesh_it_is_the_module_itself():
    network = Network(nnx.Rngs(0))
    assert gathered(network) is network
