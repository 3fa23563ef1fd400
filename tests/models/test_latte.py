import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.attention.meshes import mesh_of
from tests.models.test_dit import dot_flops
from tests.models.test_dit_partition import outcome
from tests.models.tiny_dit import TEXT_DIM, B, H, L, T, W, awake, call, clip, text, times
from vdm_jax.models.latte import Latte, LatteConfig


def make(**fields):
    defaults = {"channels": 3, "dim": 16, "depth": 2, "heads": 2, "text_dim": TEXT_DIM, "frames": 5, "sample_size": 8}
    return Latte(LatteConfig(**{**defaults, **fields}), nnx.Rngs(0))


def test_the_prediction_comes_without_the_variance():
    model = awake(make(), std=0.2)
    cond = {"tokens": text()["tokens"]}
    out = call(model, cond=cond)
    assert out.shape == (B, T, H, W, 3)
    both = nnx.jit(lambda m: m.with_variance(clip(), times(), cond))(model)
    assert both.shape == (B, T, H, W, 6)
    np.testing.assert_allclose(out, both[..., :3], rtol=1e-4, atol=1e-5)
    assert not np.asarray(call(make(), cond=cond)).any()  # a new network says zero
    assert call(make(learned_variance=False), cond=cond).shape == out.shape


def test_padding_of_the_prompt_is_not_read():
    model = awake(make(), std=0.2)
    cond = text()
    want = call(model, cond={"tokens": cond["tokens"][1:, : L - 2]}, x=clip()[1:], t=times()[1:])
    np.testing.assert_allclose(call(model, cond=cond)[1:], want, rtol=1e-4, atol=1e-5)
    frames = jnp.broadcast_to(cond["tokens"][:, None], (B, T, L, TEXT_DIM))
    np.testing.assert_allclose(call(model, cond={**cond, "tokens": frames}), call(model, cond=cond), atol=1e-5)


def test_frames_know_their_places():
    """In time as in the frame: a clip of equal frames of equal patches does not come out so."""
    model = awake(make(), std=0.2)
    x, t = jnp.ones((B, T, H, W, 3)), jnp.full((B, T), 500.0)
    out = np.asarray(call(model, x, t, {"tokens": text()["tokens"]}))
    for a, b in ((out[:, 0], out[:, 1]), (out[:, :, :2], out[:, :, 2:]), (out[:, :, :, :2], out[:, :, :, 2:])):
        assert np.abs(a - b).max() > 1e-2
    later = np.asarray(call(model, x, t.at[:, 1].set(3.0), {"tokens": text()["tokens"]}))
    assert np.abs(later[:, 1] - out[:, 1]).max() > 1e-2


@pytest.mark.parametrize("partition", ["dynamic", "ring"])
def test_a_mesh_gives_what_one_device_gives(partition):
    model = awake(make(heads=4, partition=partition), std=0.2)
    for got, want in zip(outcome(model, text(), mesh_of(data=2, context=4)), outcome(model, text()), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("variance", [True, False])
def test_forward_flops_are_those_of_the_program(variance):
    model = make(dim=32, depth=3, text_dim=24, kernel="reference", learned_variance=variance)
    cond = {"tokens": jnp.zeros((1, 4, 24))}
    program = jax.make_jaxpr(lambda x: model.with_variance(x, jnp.zeros(1), cond))(jnp.zeros((1, 4, 16, 16, 3)))
    np.testing.assert_allclose(model.config.forward_flops(4, 16, 16, 4), dot_flops(program.jaxpr), rtol=1e-9)
    assert 0 < model.config.attention_flops(4, 16, 16, 4) < model.config.forward_flops(4, 16, 16, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 3}, "heads: 3 must divide dim=16"),
        ({"dim": 18, "heads": 1}, "dim: 18 must be a multiple of 4"),
        ({"text_dim": 0}, "text_dim: 0 must be 1 or more"),
        ({"remat": "ful"}, "remat: unknown 'ful'; did you mean 'full'"),
        ({"partition": "rnig"}, "partition: unknown 'rnig'; did you mean 'ring'"),
        ({"sample_size": 1}, "sample_size: 1 is smaller than a patch"),
    ],
)
def test_what_cannot_be_built_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_what_cannot_be_run_is_named():
    model, cond = make(), text()
    with pytest.raises(ValueError, match="frames: 6 is more than the model's 5"):
        model(clip(frames=6), jnp.zeros(B), cond)
    with pytest.raises(ValueError, match="width: 5 is not divisible by the patch 2; the nearest that is: 4"):
        model(jnp.zeros((B, T, H, 5, 3)), jnp.zeros(B), cond)
    with pytest.raises(ValueError, match=r"condition: Latte needs tokens \(it has: none\)"):
        model(clip(), jnp.zeros(B))
    with pytest.raises(ValueError, match="Latte does not read 'concat'"):
        model(clip(), jnp.zeros(B), {**cond, "concat": clip()})
    with pytest.raises(ValueError, match="tokens are given for 2 frames, the clip has 3"):
        model(clip(), jnp.zeros(B), {"tokens": jnp.zeros((B, 2, L, TEXT_DIM))})
