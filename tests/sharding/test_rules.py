import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from vdm_jax.sharding import (
    LogicalRules,
    MeshConfig,
    activation_sharding,
    constrain,
    logical_axes,
    make_mesh,
    param_shardings,
    undivided,
)

RULES = LogicalRules()


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=1, fsdp=2, tensor=2, context=2))


def abstract(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def specs(params, axes, mesh):
    return jax.tree.map(lambda s: s.spec, param_shardings(params, axes, mesh, RULES))


def test_parameters_are_split_by_name(mesh):
    params = {"mlp": {"up": abstract(3, 8, 16), "bias": abstract(3, 16)}, "table": abstract(10, 8)}
    axes = {"mlp": {"up": ("layers", "embed", "mlp"), "bias": None}, "table": ("vocab", "embed")}
    assert specs(params, axes, mesh) == {
        "mlp": {"up": jax.P(None, ("fsdp", "context"), "tensor"), "bias": jax.P(None, None)},
        "table": jax.P("tensor", ("fsdp", "context")),
    }


def test_what_does_not_divide_stays_whole_and_is_listed(mesh):
    params, axes = {"a": {"kernel": abstract(6, 5)}}, {"a": {"kernel": ("embed", "mlp")}}
    assert specs(params, axes, mesh) == {"a": {"kernel": jax.P("fsdp", None)}}
    assert undivided(params, axes, mesh, RULES) == [
        "a/kernel [6, 5]: embed 6 does not divide by context 2; left whole",
        "a/kernel [6, 5]: mlp 5 does not divide by tensor 2; left whole",
    ]


def test_an_axis_is_used_once_in_an_array(mesh):
    assert specs({"w": abstract(8, 8)}, {"w": ("embed", "embed")}, mesh) == {"w": jax.P(("fsdp", "context"), None)}


def test_wrong_names_say_where(mesh):
    with pytest.raises(ValueError, match="a/w: logical axis: unknown 'embd'; did you mean 'embed'"):
        param_shardings({"a": {"w": abstract(8)}}, {"a": {"w": ("embd",)}}, mesh, RULES)
    with pytest.raises(ValueError, match="w: 1 logical axes"):
        param_shardings({"w": abstract(8, 8)}, {"w": ("embed",)}, mesh, RULES)


def test_names_of_a_stacked_network():
    class Block(nnx.Module):
        def __init__(self, rngs):
            init = nnx.with_partitioning(nnx.initializers.ones, ("embed", "mlp"))
            self.up = nnx.Linear(4, 8, kernel_init=init, rngs=rngs)

    with nnx.use_eager_sharding(False):
        blocks = nnx.vmap(Block, transform_metadata={nnx.PARTITION_NAME: "layers"})(nnx.Rngs(0).split(3))
    assert logical_axes(nnx.state(blocks)) == {"up": {"kernel": ("layers", "embed", "mlp"), "bias": None}}


def sharded_by(mesh, shape, *names):
    def program(x):
        with activation_sharding(mesh, RULES):
            return constrain(x, *names)

    return jax.jit(program)(jax.device_put(jnp.ones(shape), NamedSharding(mesh, jax.P()))).sharding


@pytest.mark.parametrize(("shape", "names", "spec"), [
    ((4, 6, 8), ("batch", "tokens", "embed"), jax.P("fsdp", "context")),
    ((4, 6, 4, 4, 8), ("batch", "frames", "height", "width", "embed"), jax.P("fsdp", "context")),
    ((4, 3, 4, 4, 8), ("batch", "frames", "height", "width", "embed"), jax.P("fsdp", None, "context")),
    ((4, 6, 2, 8), ("batch", "tokens", "heads", None), jax.P("fsdp", "context", "tensor")),
])  # fmt: skip
def test_activations_go_to_the_first_dim_that_divides(mesh, shape, names, spec):
    assert sharded_by(mesh, shape, *names).is_equivalent_to(NamedSharding(mesh, spec), len(shape))


def test_constrain_is_the_identity_without_a_mesh():
    x = jnp.ones((3, 5))
    assert constrain(x, "batch", "embed") is x
    with activation_sharding(make_mesh(MeshConfig(), jax.devices()[:1]), RULES):
        assert constrain(x, "batch", "embed") is x


def test_constrain_follows_the_mesh_of_jax(mesh):
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: constrain(x, "batch", "mlp"))(jnp.ones((4, 8)))
    assert y.sharding.is_equivalent_to(NamedSharding(mesh, jax.P("fsdp", "tensor")), 2)
    np.testing.assert_array_equal(y, np.ones((4, 8)))


def test_constrain_names_what_is_wrong(mesh):
    with pytest.raises(ValueError, match="unknown 'heigth'; did you mean 'height'"):
        sharded_by(mesh, (4, 4), "batch", "heigth")
    with pytest.raises(ValueError, match="1 logical axes"):
        sharded_by(mesh, (4, 4), "batch")


def test_other_rules_replace_the_table(mesh):
    rules = LogicalRules(parameters={"embed": ("tensor",)})
    assert param_shardings({"w": abstract(8)}, {"w": ("embed",)}, mesh, rules)["w"].spec == jax.P("tensor")
