"""What the encoders refuse, and what the oracle does not look at: skipped blocks, remat, meshes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.models.encoders import T5, CLIPText, CLIPTextConfig, CLIPVision, CLIPVisionConfig, T5Config
from vdm_jax.sharding import LogicalRules, MeshConfig, activation_sharding, logical_axes, make_mesh, param_shardings

TOWER = {"dim": 8, "depth": 2, "heads": 2, "mlp_dim": 12}
TEXT = CLIPTextConfig(**TOWER, vocab_size=20, length=6)
VISION = CLIPVisionConfig(**TOWER, image_size=8, patch=4)
TFIVE = T5Config(vocab_size=20, dim=8, depth=2, heads=2, head_dim=6, mlp_dim=12, bias_per_layer=True)
IDS = jnp.array([[1, 7, 3, 19, 0], [1, 2, 19, 0, 0]])
MASK = jnp.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], bool)


def with_drawn_weights(network):
    """Weights that make every part count."""
    leaves, tree = jax.tree.flatten(nnx.state(network, nnx.Param))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys)]
    nnx.update(network, jax.tree.unflatten(tree, drawn))
    return network


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CLIPTextConfig(dim=10, heads=3), "heads: 3 must divide dim=10"),
        (lambda: CLIPTextConfig(mlp="quick_gellu"), "mlp: unknown 'quick_gellu'; did you mean 'quick_gelu'"),
        (lambda: CLIPTextConfig(projection=-1), "projection: -1 must be 0"),
        (lambda: CLIPTextConfig(length=0), "length: 0 must be 1"),
        (lambda: CLIPVisionConfig(patch=30), "patch: 30 must divide image_size=224"),
        (lambda: CLIPVisionConfig(channels=0), "channels: 0 must be 1"),
        (lambda: CLIPVisionConfig(kernel="spalsh"), "kernel: unknown 'spalsh'; did you mean 'splash'"),
        (lambda: T5Config(depth=0), "depth: 0 must be 1"),
        (lambda: T5Config(max_distance=8), "max_distance: 8 must be more than"),
        (lambda: T5Config(remat="ful"), "remat: unknown 'ful'; did you mean 'full'"),
    ],
)
def test_configs_check_themselves(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_inputs_that_do_not_fit_are_refused():
    text, vision = CLIPText(TEXT, nnx.Rngs(0)), CLIPVision(VISION, nnx.Rngs(0))
    with pytest.raises(ValueError, match="text_ids: 7 tokens, the encoder has positions for 6"):
        text(jnp.zeros((1, 7), jnp.int32))
    with pytest.raises(ValueError, match="skip: 3 is not a number of the encoder's 2 blocks"):
        text(IDS, skip=3)
    with pytest.raises(ValueError, match=r"image: shape \(1, 3, 8, 8\), expected"):
        vision(jnp.zeros((1, 3, 8, 8)))


def test_blocks_are_stacked():
    for network in (CLIPText(TEXT, nnx.Rngs(0)), CLIPVision(VISION, nnx.Rngs(0)), T5(TFIVE, nnx.Rngs(0))):
        assert {leaf.shape[0] for leaf in jax.tree.leaves(nnx.state(network.blocks, nnx.Param))} == {2}
        axes = logical_axes(nnx.state(network.blocks, nnx.Param))
        assert all(names[0] == "layers" for names in jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple)))


def test_skipping_leaves_the_other_outputs_as_they_are():
    network = with_drawn_weights(T5(TFIVE, nnx.Rngs(0)))
    run = jax.jit(lambda: [network(IDS, MASK, skip=skip) for skip in (0, 1, 2)])
    whole, one, two = run()
    for out in (one, two):
        np.testing.assert_allclose(out.tokens, whole.tokens, rtol=1e-5, atol=1e-5)
        assert np.abs(out.hidden - whole.hidden).max() > 1e-2
    np.testing.assert_array_equal(two.hidden, network.tokens[...][IDS])


def test_recomputing_changes_no_gradient():
    def gradients(remat):
        network = with_drawn_weights(T5(dataclasses.replace(TFIVE, remat=remat), nnx.Rngs(0)))
        graph, params = nnx.split(network)
        return jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(nnx.merge(graph, p)(IDS, MASK).tokens))))(params)

    plain, again = gradients("none"), gradients("full")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, again)


@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_a_mesh_changes_nothing(kind):
    network = with_drawn_weights(CLIPText(TEXT, nnx.Rngs(0)) if kind == "clip" else T5(TFIVE, nnx.Rngs(0)))
    graph, params = nnx.split(network)
    want = jax.jit(lambda: network(IDS, MASK).tokens)()
    mesh, rules = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2, context=2), jax.devices()), LogicalRules()
    placed = param_shardings(nnx.to_pure_dict(params), logical_axes(params), mesh, rules)
    cut = jax.device_put(nnx.to_pure_dict(params), placed)
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(cut))
    whole = jax.NamedSharding(mesh, jax.P())

    @jax.jit
    def run(params, ids, mask):
        with activation_sharding(mesh, rules):
            return nnx.merge(graph, params)(ids, mask).tokens

    nnx.replace_by_pure_dict(params, cut)
    found = run(params, *jax.device_put((IDS, MASK), whole))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
