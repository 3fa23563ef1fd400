"""The UNet's own behaviour: sizes, times, conditions, what a new network does; parity is in tests/interop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.models.unet import UNet, UNetConfig
from vdm_jax.models.unet.control import ControlConfig, ControlledUNet, ControlNet
from vdm_jax.models.unet.motion import MotionAdapter, MotionConfig, animated
from vdm_jax.models.unet.temporal import MixedResBlock
from vdm_jax.models.unet.transformer import Context

TINY = UNetConfig(widths=(8, 16), layers=(1, 1), heads=(2, 2), depth=(1, 0), text_dim=6, groups=4)
MOTION = dataclasses.replace(
    TINY, temporal="motion", motion_heads=(2, 2), motion_depth=(1, 1), motion_mid_depth=1, max_frames=4
)
UNITS = {
    "none": TINY,
    "convolution": dataclasses.replace(TINY, temporal="convolution"),
    "motion": MOTION,
    "mixed": dataclasses.replace(TINY, temporal="mixed", scalars=("fps", "motion"), concat_channels=4),
}
X = jax.random.normal(jax.random.key(0), (1, 3, 5, 4, 4))
TOKENS = {"tokens": jax.random.normal(jax.random.key(1), (1, 2, 6))}


def built(config, std=0.1):
    """A network without zeros in it, that the outputs say something; drawn in numpy, which compiles nothing."""
    rng = np.random.default_rng(7)
    abstract = jax.eval_shape(lambda: UNet(config, nnx.Rngs(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(std * rng.standard_normal(leaf.shape).astype(np.float32)), abstract)


def run(net, x, t, cond, **more):
    return np.asarray(jax.jit(lambda x: net(x, t, cond, **more))(x))


def test_frames_are_pictures_without_a_temporal_unit():
    net, t = built(TINY), jnp.float32([[1.0, 500.0, 900.0]])
    whole = run(net, X, t, TOKENS)
    alone = run(net, X[:, 1:2], t[:, 1:2], TOKENS)
    np.testing.assert_allclose(whole[:, 1:2], alone, atol=1e-4)
    assert np.abs(whole).max() > 0.1


@pytest.mark.parametrize("unit", ["convolution", "motion", "mixed"])
def test_a_temporal_unit_sees_other_frames(unit):
    net, cond = built(UNITS[unit]), dict(TOKENS)
    if unit == "mixed":
        cond |= {"vector": {"fps": jnp.ones(1), "motion": jnp.ones(1)}, "concat": X}
    run_it = jax.jit(lambda x: net(x, jnp.ones(1), cond))
    before, after = run_it(X), run_it(X.at[:, 2].add(1.0))
    assert np.abs(before - after)[:, 0].max() > 1e-4


def test_a_new_motion_module_changes_nothing():
    t = jnp.ones(1)
    pictures, clip = UNet(TINY, nnx.Rngs(0)), UNet(MOTION, nnx.Rngs(0))
    still, moving = nnx.state(pictures).flat_state(), nnx.state(clip).flat_state()
    flat = dict(still)
    assert flat.keys() < dict(moving).keys()
    noise = jax.random.normal(jax.random.key(3), pictures.last.kernel.shape)
    for net in (pictures, clip):
        net.last.kernel[...] = noise
    for path, variable in dict(moving).items():
        if path in flat:
            variable[...] = flat[path][...]
    np.testing.assert_allclose(run(clip, X, t, TOKENS), run(pictures, X, t, TOKENS), atol=1e-5)


def test_an_adapter_has_the_paths_of_the_network_it_is_put_into():
    adapter = MotionConfig(widths=(8, 16), layers=(1, 1), heads=(2, 2), depth=(1, 1), groups=4, max_frames=4)
    assert animated(TINY, adapter) == MOTION
    module = jax.eval_shape(lambda: nnx.state(MotionAdapter(adapter, nnx.Rngs(0))))
    whole = jax.eval_shape(lambda: nnx.state(UNet(MOTION, nnx.Rngs(0))))
    pictures = jax.eval_shape(lambda: nnx.state(UNet(TINY, nnx.Rngs(0))))
    paths = [{path for path, _ in nnx.to_flat_state(state)} for state in (module, whole, pictures)]
    assert paths[0] == paths[1] - paths[2]
    with pytest.raises(ValueError, match="widths: "):
        animated(TINY, dataclasses.replace(adapter, widths=(8, 32)))


def test_a_new_control_branch_changes_nothing_and_a_trained_one_does():
    net, branch = built(TINY), ControlNet(ControlConfig(TINY, hint_widths=(4, 8)), nnx.Rngs(1))
    cond = TOKENS | {"hint": jnp.ones((1, 3, 10, 8, 3))}
    before = run(net, X, jnp.ones(1), TOKENS)
    np.testing.assert_array_equal(run(ControlledUNet(net, branch), X, jnp.ones(1), cond), before)
    branch.mid_out.bias[...] = jnp.ones(16)
    after = run(ControlledUNet(net, branch), X, jnp.ones(1), cond)
    assert np.abs(after - before).max() > 1e-3
    with pytest.raises(ValueError, match=r"hint has shape \(1, 3, 5, 4, 3\)"):
        ControlledUNet(net, branch)(X, jnp.ones(1), TOKENS | {"hint": jnp.ones((1, 3, 5, 4, 3))})


def test_rematerialised_gradients_are_the_same():
    def gradient(config):
        net = built(config)
        return jax.jit(jax.grad(lambda x: jnp.sum(net(x, jnp.ones(1), TOKENS) ** 2)))(X)

    np.testing.assert_allclose(gradient(TINY), gradient(dataclasses.replace(TINY, remat="full")), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unit", UNITS)
def test_flops_are_those_of_the_traced_program(unit):
    wide = {"widths": (64, 128), "groups": 32, "heads": (2, 4), "text_dim": 64}
    config = dataclasses.replace(UNITS[unit], **wide)
    net = jax.eval_shape(lambda: UNet(config, nnx.Rngs(0)))
    x = jax.ShapeDtypeStruct((1, 4, 16, 16, 4), jnp.float32)
    cond = {"tokens": jax.ShapeDtypeStruct((1, 8, 64), jnp.float32)}
    if unit == "mixed":
        one = jax.ShapeDtypeStruct((1,), jnp.float32)
        cond |= {"vector": {"fps": one, "motion": one}, "concat": x}
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    counted = jax.jit(lambda net, x, t, cond: net(x, t, cond)).lower(net, x, t, cond).cost_analysis()["flops"]
    assert config.forward_flops(4, 16, 16, 8) == pytest.approx(counted, rel=0.06)
    assert 0 < config.attention_flops(4, 16, 16, 8) < config.forward_flops(4, 16, 16, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temporal": "motoin"}, "temporal: unknown 'motoin'; did you mean 'motion'"),
        ({"layers": (1,)}, r"layers: \(1,\) must have 2 entries"),
        ({"heads": (3, 2)}, "heads: 3 must divide the 8 channels"),
        ({"groups": 5}, "widths: 8 is not divisible by groups=5; the nearest that is: 10"),
        ({"motion_heads": (2, 2)}, r"motion_heads: \(2, 2\) must have 0 entries"),
    ],
)
def test_what_makes_no_network_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


def test_a_clip_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="frames: 5 is more than max_frames=4"):
        MOTION.token_grid(5, 4, 4)


def test_conditions_are_named_where_they_are_wrong():
    net = built(UNITS["mixed"])
    with pytest.raises(ValueError, match="UNet needs concat, vector"):
        net(X, jnp.ones(1), TOKENS)
    with pytest.raises(ValueError, match="UNet needs vector entries motion"):
        net(X, jnp.ones(1), TOKENS | {"concat": X, "vector": {"fps": jnp.ones(1)}})


PICTURES = dataclasses.replace(TINY, widths=(8,), layers=(0,), heads=(2,), depth=(1,), temporal="mixed")


def test_frames_that_are_pictures_pass_as_through_the_spatial_network():
    """Bit for bit, whatever the layers over time have learned; and none of them sees another frame."""
    mixed, t, every = built(PICTURES), jnp.float32([[1.0, 500.0, 900.0]]), jnp.ones((1, 3), bool)
    spatial = built(dataclasses.replace(PICTURES, temporal="none"))
    learned = dict(nnx.to_flat_state(nnx.state(mixed)))
    for path, variable in nnx.to_flat_state(nnx.state(spatial)):
        variable[...] = learned[path][...]
    run_it = jax.jit(lambda x, flags: mixed(x, t, TOKENS | {"image_only": flags}))
    pictures = run_it(X, every)
    np.testing.assert_array_equal(pictures, run(spatial, X, t, TOKENS))
    np.testing.assert_array_equal(run_it(X.at[:, 2].add(1.0), every)[:, :2], pictures[:, :2])
    np.testing.assert_array_equal(run_it(X, jnp.asarray([[True, False, False]]))[:, 0], pictures[:, 0])
    assert np.abs(run_it(X, ~every) - pictures).max() > 1e-3


def test_pictures_teach_nothing_over_time():
    graph, params = nnx.split(built(PICTURES))
    cond = TOKENS | {"image_only": jnp.ones((1, 3), bool)}
    slopes = jax.jit(jax.grad(lambda p: jnp.sum(nnx.merge(graph, p)(X, jnp.ones(1), cond) ** 2)))(params)
    for path, slope in nnx.to_flat_state(slopes):
        over_time = {"res_time", "frames", "mix"} & set(path)
        assert (np.abs(slope[...]).max() == 0) == bool(over_time), path


def test_a_new_residual_block_over_time_changes_nothing():
    block = MixedResBlock(PICTURES, PICTURES.mid()[0][1], rngs=nnx.Rngs(0))
    x, time = jax.random.normal(jax.random.key(4), (1, 3, 4, 4, 8)), jnp.ones((1, 3, PICTURES.time_dim))
    np.testing.assert_allclose(block(x, Context(time, TOKENS["tokens"], None)), x, atol=1e-6)


def test_flags_of_another_shape_are_refused():
    net = built(PICTURES)
    with pytest.raises(ValueError, match=r"image_only has shape \(3,\), expected \[B, T\]=\(1, 3\)"):
        net(X, jnp.ones(1), TOKENS | {"image_only": jnp.ones(3, bool)})
    with pytest.raises(ValueError, match="UNet does not read 'image_only'"):
        built(TINY)(X, jnp.ones(1), TOKENS | {"image_only": jnp.ones((1, 3), bool)})
