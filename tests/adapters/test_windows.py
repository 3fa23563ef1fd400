import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.adapters.splice import swap
from vdm_jax.adapters.windows import BlockInWindows, WindowAttention, WindowBlock, window_attention
from vdm_jax.attention import CAUSAL, FULL, Policy
from vdm_jax.diffusion.windows import Windows
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.models.unet import UNet, UNetConfig
from vdm_jax.models.unet.temporal import TemporalTransformer
from vdm_jax.models.wan import Wan, WanConfig
from vdm_jax.nn.attention import SelfAttention
from vdm_jax.nn.rotary import rotary_table

DIT = DiTConfig(patch=(1, 4, 4), dim=16, depth=2, heads=2, attention="factorised", mlp_dim=16)
MOTION = UNetConfig(
    widths=(8,), layers=(1,), heads=(2,), depth=(1,), groups=4, text_dim=4, temporal="motion", motion_heads=(2,),
    motion_depth=(1,), motion_mid_depth=1, max_frames=8,
)  # fmt: skip
WINDOWS = Windows(4, 2)


def redrawn(network):
    """A network in which every parameter says something."""
    state = nnx.state(network, nnx.Param)
    leaves, tree = jax.tree.flatten(state)
    drawn = np.random.default_rng(0)
    leaves = [jnp.asarray(drawn.normal(0, 0.2, leaf.shape), leaf.dtype) for leaf in leaves]
    nnx.update(network, jax.tree.unflatten(tree, leaves))
    return network


def dit(**options):
    return redrawn(DiT(dataclasses.replace(DIT, **options), nnx.Rngs(0)))


def unet(**options):
    return redrawn(UNet(dataclasses.replace(MOTION, **options), nnx.Rngs(0)))


def run(network, frames):
    x = jax.random.normal(jax.random.key(1), (1, frames, 4, 4, 3))
    return np.asarray(jax.jit(lambda net, x: net(x, jnp.full((1, frames), 0.4)))(network, x))


call = jax.jit(lambda layer, x, rotary: layer(x, FULL, rotary, tokens="GN", partition="groups"))


@pytest.fixture(scope="module")
def layer():
    return redrawn(SelfAttention(8, 2, qk_norm="head", rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("rotary", [False, True])
def test_each_window_is_attention_by_itself_and_windows_are_averaged(layer, rotary):
    x = jax.random.normal(jax.random.key(0), (2, 3, 8, 8))  # [B, G, N, D]
    table = jnp.asarray(rotary_table((8,), 4)) if rotary else None
    places = None if table is None else table[:4]
    parts = [call(layer, x[:, :, s : s + 4], places) for s in (0, 2, 4)]
    fused = call(WindowAttention(layer, WINDOWS), x, table)
    np.testing.assert_allclose(fused, WINDOWS.fuse(jnp.stack(parts, 2), 8, axis=2), atol=1e-6)


def test_places_are_those_in_a_window(layer):
    x, places = jax.random.normal(jax.random.key(0), (1, 2, 8, 8)), jax.random.normal(jax.random.key(1), (16, 8))
    parts = [call(layer, x[:, :, s : s + 4] + places[:4], None) for s in (0, 2, 4)]
    fused = jax.jit(lambda layer, x: layer(x, positions=places))(WindowAttention(layer, WINDOWS), x)
    np.testing.assert_allclose(fused, WINDOWS.fuse(jnp.stack(parts, 2), 8, axis=2), atol=1e-5)


@pytest.mark.parametrize("policy", [CAUSAL, Policy(q_segments=jnp.zeros((1, 8)), k_segments=jnp.zeros((1, 8)))])
def test_a_layer_refuses_to_look_ahead(layer, policy):
    with pytest.raises(ValueError, match="windows: the attention is causal or of packed clips"):
        WindowAttention(layer, WINDOWS)(jnp.zeros((1, 1, 8, 8)), policy)


def test_one_window_is_full_attention():
    network = dit()
    before = run(network, 8)
    assert np.abs(before).max() > 0.01
    np.testing.assert_allclose(run(window_attention(network, Windows(8, 4), 8), 8), before, atol=1e-5)


@pytest.mark.parametrize("kind", [WindowBlock, BlockInWindows])
def test_one_window_is_a_temporal_transformer_as_it_was(kind):
    options = {"groups": 4, "max_frames": 8, "kernel": "auto", "rngs": nnx.Rngs(0)}
    module = redrawn(TemporalTransformer(8, 8, 2, 1, **options))
    x = jax.random.normal(jax.random.key(1), (1, 8, 2, 2, 8))
    once = jax.jit(lambda module, x: module(x))
    before = np.asarray(once(module, x))
    assert np.abs(before - x).max() > 0.01
    swap(module, ("blocks",), lambda blocks: kind(blocks, Windows(8, 4)))
    np.testing.assert_allclose(once(module, x), before, atol=1e-5)


def test_parameters_stay_where_they_were():
    for network in (dit(), unet()):
        before = nnx.to_pure_dict(nnx.state(network, nnx.Param))
        windowed = window_attention(network, WINDOWS, 8)
        after = nnx.to_pure_dict(nnx.state(windowed, nnx.Param))
        jax.tree.map(np.testing.assert_array_equal, before, after)


def test_a_frame_is_told_nothing_by_those_that_share_no_window_with_it():
    network = window_attention(dit(depth=1), WINDOWS, 8)
    once = jax.jit(lambda network, x: network(x, jnp.ones((1, 8))))
    x = jax.random.normal(jax.random.key(1), (1, 8, 4, 4, 3))
    other, plain = (np.asarray(once(network, clip)) for clip in (x.at[:, 7].add(1.0), x))
    np.testing.assert_array_equal(other[:, :4], plain[:, :4])
    assert (other[:, 4:7] != plain[:, 4:7]).any(axis=(0, 2, 3, 4)).all()


def test_longer_clips_than_there_are_positions_for():
    x, cond = jnp.zeros((1, 12, 8, 8, 4)), {"tokens": jnp.zeros((1, 3, 4))}
    shape = lambda network: jax.eval_shape(lambda x: network(x, jnp.zeros((1, 12)), cond), x).shape  # noqa: E731
    with pytest.raises(ValueError, match="frames: 12 is more than max_frames=8"):
        shape(unet())
    for whole in (False, True):
        assert shape(window_attention(unet(), Windows(8, 4), 12, whole_blocks=whole)) == x.shape


@pytest.mark.parametrize(
    ("make", "windows", "frames", "message"),
    [
        (lambda: dit(attention="full"), WINDOWS, 8, "attention='full' has no temporal attention"),
        (lambda: dit(causal=True), WINDOWS, 8, "temporal attention is causal; the fusion would look ahead"),
        (lambda: dit(positions="sincos"), WINDOWS, 8, "positions='sincos' is told where a frame is before"),
        (lambda: dit(patch=(2, 4, 4)), Windows(4, 1), 8, "stride: 1 is not divisible by the 2 frames of a token"),
        (dit, WINDOWS, 9, "frames: 9 leaves the last 1 in no window"),
        (dit, Windows(16, 4), 8, "frames: 8 is less than a window of 16"),
        (unet, Windows(9, 1), 10, "size: 9 is more than the 8 frames that there are positions for"),
        (lambda: Wan(WanConfig(dim=24, depth=1, heads=2, text_dim=4, channels=4), nnx.Rngs(0)), WINDOWS, 8,
         "Wan has no temporal attention"),
    ],
)  # fmt: skip
def test_networks_that_windows_do_not_suit_are_refused(make, windows, frames, message):
    with pytest.raises(ValueError, match=message):
        window_attention(make(), windows, frames)


def test_pictures_have_no_temporal_attention():
    pictures = UNetConfig(widths=(8,), layers=(1,), heads=(2,), depth=(1,), groups=4, text_dim=4)
    with pytest.raises(ValueError, match="temporal='none' has no temporal attention"):
        window_attention(UNet(pictures, nnx.Rngs(0)), WINDOWS, 8)
    with pytest.raises(ValueError, match="whole_blocks: True is of the blocks of a UNet"):
        window_attention(dit(), WINDOWS, 8, whole_blocks=True)
