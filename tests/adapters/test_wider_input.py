"""A network that reads more starts as the one that it was, whatever it is shown."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.adapters.wider_input import check_wider, widened
from vdm_jax.interop.parity import QUICK
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.models.unet import UNet, UNetConfig

UNET = UNetConfig(
    widths=(8,), layers=(0,), heads=(2,), depth=(1,), groups=4, text_dim=8, temporal="mixed", scalars=("fps", "motion")
)
WIDE_UNET = dataclasses.replace(UNET, concat_channels=UNET.channels, scalars=("fps", "motion", "augmentation"))
DIT = DiTConfig(channels=3, patch=(1, 2, 2), dim=16, depth=1, heads=2, known_channel=True)
WIDE_DIT = dataclasses.replace(DIT, concat_channels=2)


def shapes(net, config):
    return jax.eval_shape(lambda: nnx.to_pure_dict(nnx.state(net(config, nnx.Rngs(0)), nnx.Param)))


def drawn(abstract):
    """No parameter is zero, as many of a fresh network are."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.1, leaf.shape), jnp.float32), abstract)


def test_a_dit_starts_as_the_narrower_one():
    keys = jax.random.split(jax.random.key(1), 2)
    x, concat = (jax.random.normal(key, (2, 3, 4, 4, channels)) for key, channels in zip(keys, (3, 2)))
    cond = {"known": jnp.array([[True, False, False]] * 2)}
    params = drawn(shapes(DiT, DIT))
    check_wider(DIT, WIDE_DIT, ("concat_channels",))
    wide = widened(params, DIT, shapes(DiT, WIDE_DIT))

    def run(config, params, cond):
        net = DiT(config, nnx.Rngs(0))
        nnx.update(net, params)
        return net(x, jnp.full((2, 3), 0.3), cond)

    before, after = (
        jax.jit(functools.partial(run, config), compiler_options=QUICK)(weights, given)
        for config, weights, given in ((DIT, params, cond), (WIDE_DIT, wide, {**cond, "concat": 30 * concat}))
    )
    assert np.abs(before).max() > 0.01
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_a_unet_gets_zero_rows_for_channels_and_numbers():
    have, want = shapes(UNet, UNET), shapes(UNet, WIDE_UNET)
    check_wider(UNET, WIDE_UNET, ("concat_channels", "scalars"))
    params = drawn(have)
    wide = widened(params, UNET, want)
    old, new = (
        {jax.tree_util.keystr(p): leaf for p, leaf in jax.tree.leaves_with_path(tree)} for tree in (params, wide)
    )
    assert {name: leaf.shape for name, leaf in new.items()} == {
        jax.tree_util.keystr(p): leaf.shape for p, leaf in jax.tree.leaves_with_path(want)
    }
    changed = {name for name in old if old[name].shape != new[name].shape}
    assert len(changed) == 2
    for name in old:
        rows = old[name].shape[-2] if name in changed else None
        np.testing.assert_array_equal(new[name][..., :rows, :] if name in changed else new[name], old[name])
        assert name not in changed or not np.any(new[name][..., rows:, :])


@pytest.mark.parametrize(
    ("have", "want", "fields", "message"),
    [
        (UNET, WIDE_UNET, ("concat_chanels",), "widen: unknown 'concat_chanels'; did you mean 'concat_channels'"),
        (WIDE_UNET, UNET, ("concat_channels",), "widen: concat_channels is 0, but the weights read 4; it may only be"),
        (DIT, DIT, ("scalars",), "widen: DiTConfig reads no scalars, or each by parameters of its own"),
        (WIDE_UNET, dataclasses.replace(UNET, scalars=("motion", "fps")), ("scalars",), "widen: scalars .* must begin"),
    ],
)
def test_what_is_no_wider_is_refused(have, want, fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_wider(have, want, fields)
    assert "\n" not in str(caught.value)


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"widen: a/kernel \(4, 2\) is not \(4, 3\) by further inputs alone"):
        widened({"a": {"kernel": np.ones((4, 2))}}, DIT, {"a": {"kernel": np.ones((4, 3))}})
