import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.adapters.image_levels import TAG, Encoder, ImageLevelsConfig, pooled
from vdm_jax.models.unet import UNet, UNetConfig
from vdm_jax.nn.embeddings import sinusoidal

UNET = UNetConfig(
    channels=3, widths=(4, 8, 8), layers=(1, 1, 1), heads=(2, 2, 2), depth=(0, 0, 0), groups=4, text_dim=4,
)  # fmt: skip
B, T, SIDE = 2, 3, 6  # 6, 3, 2: one of the ways down is rounded up
QUICK = {"xla_backend_optimization_level": 0}


def awake(network, seed):
    drawn = np.random.default_rng(seed)
    for path, leaf in nnx.to_flat_state(nnx.state(network, nnx.Param)):
        leaf[...] = jnp.asarray((path[-1] == "scale") + drawn.normal(0, 0.1, leaf.shape), jnp.float32)
    return network


def inputs():
    drawn = np.random.default_rng(1)
    x, picture = drawn.normal(size=(B, T, SIDE, SIDE, 3)), drawn.normal(size=(B, 1, SIDE, SIDE, 3))
    cond = {"tokens": np.ones((B, 2, 4), np.float32), "hint": picture.astype(np.float32)}
    return x.astype(np.float32), np.full((B, T), 0.4, np.float32), cond


@jax.jit
def features(encoder, picture):
    return encoder(picture, T)


@pytest.mark.parametrize("motion", [0.0, 0.8])
def test_a_new_one_adds_nothing_but_the_code_of_frames_at_the_finest_level(motion):
    found = features(Encoder(ImageLevelsConfig(3, motion=motion), UNET, nnx.Rngs(0)), inputs()[2]["hint"])
    assert [level.shape for level in found] == [(B, T, 6, 6, 4), (B, T, 3, 3, 8), (B, T, 2, 2, 8)]
    code = motion * sinusoidal(jnp.arange(T), 4)
    np.testing.assert_array_equal(found[0], jnp.broadcast_to(code[None, :, None, None], found[0].shape))
    for level in found[1:]:
        np.testing.assert_array_equal(level, 0.0)


def test_a_unet_starts_as_it_was_without_motion_and_learns_to_see():
    run = jax.jit(lambda network, x, t, cond: network(x, t, cond), compiler_options=QUICK)
    x, t, cond = inputs()
    base = awake(UNet(UNET, nnx.Rngs(0)), 0)
    wanted = np.asarray(run(base, x, t, {"tokens": cond["tokens"]}))
    before = {path: leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(base, nnx.Param))}
    network = ImageLevelsConfig(3, motion=0.0).put_into(base, nnx.Rngs(1))
    after = dict(nnx.to_flat_state(nnx.state(network, nnx.Param)))
    assert {path for path in after if TAG not in path} == before.keys()
    np.testing.assert_array_equal(run(network, x, t, cond), wanted)
    awake(network.image_levels, 2)
    first = np.asarray(run(network, x, t, cond))
    other = run(network, x, t, cond | {"hint": -cond["hint"]})
    assert np.abs(first - wanted).max() > 1e-3
    assert np.abs(first - other).max() > 1e-3


def test_pooling_takes_the_mean_of_the_pixels_that_are_there():
    x = jnp.arange(9.0).reshape(1, 1, 3, 3, 1)
    np.testing.assert_array_equal(pooled(x)[0, 0, ..., 0], [[2.0, 3.5], [6.5, 8.0]])


@pytest.mark.parametrize("hint", [None, (B, T, SIDE, SIDE, 3), (B, 1, 3, 3, 3), (B, 1, SIDE, SIDE, 4)])
def test_a_picture_that_is_missing_or_of_another_size_is_refused(hint):
    network = jax.eval_shape(lambda: ImageLevelsConfig(3).put_into(UNet(UNET, nnx.Rngs(0)), nnx.Rngs(1)))
    x, t, cond = inputs()
    cond = {"tokens": cond["tokens"]} | ({} if hint is None else {"hint": np.zeros(hint, np.float32)})
    with pytest.raises(ValueError, match="hint has shape .* expected one frame" if hint else "hint"):
        jax.eval_shape(lambda network: network(x, t, cond), network)


@pytest.mark.parametrize(("fields", "message"), [
    ({"channels": 0}, "channels: 0"), ({"blocks": 0}, "blocks: 0"), ({"motion": -1.0}, "motion: -1.0"),
])  # fmt: skip
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        ImageLevelsConfig(**fields)


def test_it_is_put_in_once():
    network = ImageLevelsConfig(3).put_into(UNet(UNET, nnx.Rngs(0)), nnx.Rngs(1))
    with pytest.raises(ValueError, match="ImageLevelsUNet cannot see a picture"):
        ImageLevelsConfig(3).put_into(network, nnx.Rngs(1))
