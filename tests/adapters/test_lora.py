import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from tests.adapters.frozen import DEPTH, DIM, Network, check_only_the_adapter_trains, inputs, matrix_products, training
from vdm_jax.adapters.lora import LoRAConfig, Site, add_lora, beside, merged, sites
from vdm_jax.nn.conv import Conv
from vdm_jax.nn.linear import Linear
from vdm_jax.sharding import MeshConfig, place_batch
from vdm_jax.training.state import split_params

QUICK = {"xla_backend_optimization_level": 0}  # compiling takes all the time
ALL = LoRAConfig(("attention", "cross/kv/k", "mlp", "ends", "over_time"), rank=4, alpha=8.0)


def adapt(network, rngs):
    return add_lora(network, ALL, rngs)


def awake(network):
    """The network with B drawn too."""
    graphdef, state = nnx.split(network)
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(state))))
    return nnx.merge(
        graphdef, jax.tree.map(lambda leaf: leaf + 0.05 * jax.random.normal(next(keys), leaf.shape), state)
    )


def test_every_kind_of_layer_is_found_and_chosen():
    names = [site.name for site in sites(Network(nnx.Rngs(0)))]
    assert names == [
        "blocks.attention.out", "blocks.attention.qkv.k", "blocks.attention.qkv.q", "blocks.attention.qkv.v",
        "blocks.cross.kv.k", "blocks.cross.kv.v", "blocks.cross.out", "blocks.cross.q", "blocks.mlp.down",
        "blocks.mlp.up", "ends.0", "ends.1", "over_time",
    ]  # fmt: skip
    network = Network(nnx.Rngs(0))
    chosen = [site.name for site in adapt(network, nnx.Rngs(0))]
    assert chosen == [name for name in names if name not in ("blocks.cross.kv.v", "blocks.cross.out", "blocks.cross.q")]
    assert network.blocks.attention.qkv.lora.q.a.kernel.shape == (DEPTH, DIM, 4)
    assert network.blocks.attention.qkv.lora.q.b.kernel.shape == (DEPTH, 4, 2, 8)
    assert network.over_time.lora.a.kernel.shape == (3, 1, 1, DIM, 4)


def test_layers_are_chosen_by_their_published_names_too():
    published = {Site(("blocks", "cross", "kv"), "k"): "blocks.{i}.attn2.to_k", Site(("ends", "1")): "proj_out"}
    chosen = add_lora(Network(nnx.Rngs(0)), LoRAConfig(("attn2.to_k", "proj_out")), nnx.Rngs(0), published)
    assert chosen == sorted(published)


@pytest.mark.parametrize("kind", ["matrix", "fused", "convolution"])
def test_a_layer_starts_as_it_was(kind):
    rngs, x = nnx.Rngs(0), jax.random.normal(jax.random.key(2), (2, 5, 6))
    make = {
        "matrix": lambda: Linear(6, 7, axes=("embed", "mlp"), rngs=rngs),
        "fused": lambda: Linear(6, (2, 3, 4), axes=("embed", "heads", None, "head_dim"), rngs=rngs),
        "convolution": lambda: Conv(6, 7, (3,), rngs=rngs),
    }
    network = nnx.Dict(layer=make[kind]())
    wanted = network.layer(x)
    add_lora(network, LoRAConfig(("layer",), rank=4), rngs)
    assert np.asarray(network.layer(x)).tobytes() == np.asarray(wanted).tobytes()


def test_a_pair_adds_its_product():
    rng = nnx.Rngs(0)
    x = jax.random.normal(jax.random.key(2), (2, 5, 6))
    network = nnx.Dict(layer=Linear(6, 7, axes=("embed", "mlp"), rngs=rng))
    base = network.layer(x)
    add_lora(network, LoRAConfig(("layer",), rank=4, alpha=2.0, rank_stabilised=True), rng)
    a, b = jax.random.normal(jax.random.key(3), (6, 4)), jax.random.normal(jax.random.key(4), (4, 7))
    network.layer.lora.a.kernel[...], network.layer.lora.b.kernel[...] = a, b
    np.testing.assert_allclose(network.layer(x), base + 2.0 / 4**0.5 * x @ a @ b, rtol=1e-5, atol=1e-5)
    conv = nnx.Dict(layer=Conv(6, 7, (3,), rngs=rng))
    base = conv.layer(x)
    add_lora(conv, LoRAConfig(("layer",), rank=1), rng)
    a, b = jax.random.normal(jax.random.key(5), (3, 6, 1)), jax.random.normal(jax.random.key(6), (1, 7))
    conv.layer.lora.a.kernel[...], conv.layer.lora.b.kernel[...] = a, b
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    wanted = sum(padded[:, k : k + 5] @ a[k] for k in range(3)) @ b
    np.testing.assert_allclose(conv.layer(x), base + wanted, rtol=1e-5, atol=1e-5)


def test_merged_weights_compute_the_same():
    batch = inputs(batch=2)
    run = jax.jit(lambda network: network(batch["x"], batch["text"]), compiler_options=QUICK)
    adapted = plain = Network(nnx.Rngs(0))
    start, shapes = run(plain), jax.tree.map(jnp.shape, split_params({"backbone": plain}))
    graphdef = nnx.graphdef(plain)
    adapt(adapted, nnx.Rngs(1))
    np.testing.assert_allclose(run(adapted), start, rtol=0, atol=1e-6)  # a program of more parts may sum otherwise
    adapted = awake(adapted)
    params = merged(split_params({"backbone": adapted}), ALL.scale)
    assert jax.tree.map(jnp.shape, params) == shapes
    params["backbone"]["ends"] = {int(key): leaf for key, leaf in params["backbone"]["ends"].items()}
    got, wanted = run(nnx.merge(graphdef, params["backbone"])), run(adapted)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
    assert np.abs(got - start).max() > 0.1


def test_only_the_pairs_train():
    losses = check_only_the_adapter_trains(adapt, "lora")
    assert losses[-1] < losses[0]


def test_nothing_of_the_size_of_a_kernel_is_computed():
    def products(trains):
        """How many in a step are as large as the kernel of `mlp.up`; that of an activation is a multiple of 3."""
        plan, step = training(adapt, trains)
        batch = place_batch(inputs(batch=6), plan.mesh)
        return matrix_products(step.trace(plan.abstract, batch).jaxpr.jaxpr).count(DIM * 4 * DIM)

    assert products(("lora",)) == 0
    assert products(("*",)) > 0


def test_pairs_are_cut_as_their_kernels_are():
    plan, _ = training(adapt, ("lora",), MeshConfig(data=1, fsdp=2, context=2, tensor=2))
    block = plan.shardings.params["backbone"]["blocks"]
    qkv, out = block["attention"]["qkv"], block["attention"]["out"]
    assert qkv["lora"]["q"]["a"]["kernel"].spec == P(None, ("fsdp", "context"), None)
    assert qkv["lora"]["q"]["b"]["kernel"].spec == P(None, ("fsdp", "context"), "tensor", None)
    assert out["lora"]["a"]["kernel"].spec == P(None, "tensor", ("fsdp", "context"))
    assert out["lora"]["b"]["kernel"].spec == P(None, ("fsdp", "context"), None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": ()}, "targets: .. adapts nothing"),
        ({"rank": 0}, "rank: 0 must be 1 or more"),
        ({"alpha": 0.0}, "alpha: 0.0 must be above 0"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LoRAConfig(**{"targets": ("mlp",), **fields})


def test_a_target_without_a_layer_names_the_nearest():
    with pytest.raises(ValueError, match="targets: no parameter matches 'atention'; .*did you mean 'attention'"):
        add_lora(Network(nnx.Rngs(0)), LoRAConfig(("atention",)), nnx.Rngs(0))


def drawn(make, seed):
    """Parameters of a network as arrays of numpy, so that nothing is compiled; none is zero."""
    rng, shapes = np.random.default_rng(seed), split_params({"backbone": jax.eval_shape(make)})["backbone"]
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def with_pairs():
    network = Network(nnx.Rngs(0))
    adapt(network, nnx.Rngs(0))
    return network


def test_pairs_go_beside_the_same_layers_of_another_network():
    """At scale 0 nothing of them is left, bit for bit, whatever they are."""
    trained, other = drawn(with_pairs, 0), drawn(lambda: Network(nnx.Rngs(0)), 1)
    together = beside(other, trained)
    for found, wanted in zip(jax.tree.leaves(merged(together, 0.0)), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(found, wanted)
    pair = trained["over_time"]["lora"]
    delta = np.einsum("twhir,ro->twhio", pair["a"]["kernel"], pair["b"]["kernel"])
    changed = merged(together, 2.0)["over_time"]["kernel"]
    np.testing.assert_allclose(changed, other["over_time"]["kernel"] + 2.0 * delta, rtol=1e-4, atol=1e-5)


def test_pairs_of_another_network_are_listed():
    trained, other = drawn(with_pairs, 0), drawn(lambda: Network(nnx.Rngs(0)), 1)
    other["blocks"]["attention"]["qkv"]["kernel"] = np.zeros((DEPTH + 1, DIM, 2, 3, 8), np.float32)
    del other["over_time"]
    with pytest.raises(ValueError, match="pairs: 4 are of another network") as refused:
        beside(other, trained)
    assert "blocks/attention/qkv/lora/q [2, 16, 2, 8] ([3, 16, 2, 8] here)" in str(refused.value)
    assert "over_time/lora [3, 1, 1, 16, 16] (there is no such layer)" in str(refused.value)
    with pytest.raises(ValueError, match="pairs: there are none"):
        beside(other, other)
