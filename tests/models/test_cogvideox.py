import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.attention.meshes import mesh_of
from tests.models.test_dit import dot_flops
from tests.models.test_dit_partition import outcome
from tests.models.tiny_dit import TEXT_DIM, B, H, L, T, W, awake, call, clip, text, times
from vdm_jax.models.cogvideox import CogVideoX, CogVideoXConfig
from vdm_jax.models.cogvideox.joint import JointLayout
from vdm_jax.models.dit.layout import TokenLayout
from vdm_jax.sharding import LogicalRules, activation_sharding


def make(**fields):
    defaults = {"channels": 3, "dim": 64, "depth": 1, "heads": 4, "time_dim": 8, "text_dim": TEXT_DIM, "text_length": L}
    return CogVideoX(CogVideoXConfig(**{**defaults, "sample": (5, 4, 6), **fields}), nnx.Rngs(0))


def test_padding_of_the_prompt_is_not_read_where_a_mask_says_so():
    model, cond = awake(make(positions="rope"), std=0.2), text()
    short = call(model, clip()[1:], times()[1:], {"tokens": cond["tokens"][1:, : L - 2]})
    np.testing.assert_allclose(call(model, cond=cond)[1:], short, rtol=1e-4, atol=1e-5)
    assert np.abs(call(model, cond={"tokens": cond["tokens"]})[1:] - short).max() > 1e-3


def test_one_time_a_clip_is_that_time_for_every_frame():
    model, cond, t = awake(make(), std=0.2), text(), jnp.array([100.0, 700.0])
    one, each = call(model, t=t, cond=cond), call(model, t=jnp.broadcast_to(t[:, None], (B, T)), cond=cond)
    np.testing.assert_allclose(one, each, rtol=1e-5, atol=1e-6)
    assert np.abs(call(model, t=times(), cond=cond) - one).max() > 1e-2
    assert not np.asarray(call(make(), cond=cond)).any()  # a new network says zero


@pytest.mark.parametrize(
    ("fields", "mesh"),
    [
        ({"positions": "rope"}, {"data": 2, "context": 4}),
        ({"positions": "rope", "partition": "ring", "heads": 2}, {"context": 4}),
        ({"positions": "rope_learned"}, {"context": 2, "tensor": 2}),
    ],
    ids=str,
)
def test_a_mesh_gives_what_one_device_gives(fields, mesh):
    model = awake(make(**fields), std=0.2)
    cond = {"tokens": text()["tokens"]} if "partition" in fields else text()
    for got, want in zip(outcome(model, cond, mesh_of(**mesh)), outcome(model, cond), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5 * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("context", [1, 4])
def test_joined_and_split_again(context):
    """Every token of text and clip is in the sequence once, and the mask knows which places hold none."""
    words, frames, space, width = 7, 3, 5, 5 if context == 1 else 8
    text_ids = jnp.arange(1.0, words + 1).reshape(1, 1, words, 1)
    clip_ids = jnp.arange(100.0, 100 + frames * width).reshape(1, 1, frames, width, 1)
    with activation_sharding(mesh_of(context=context), LogicalRules()):
        layout = JointLayout.of(TokenLayout.of("full", "auto", frames, space, 4), words)
        joined, mask = layout.join(text_ids, clip_ids), layout.key_mask(None, 1)
        back = layout.split(joined)
        some = layout.key_mask(jnp.arange(words)[None] < 4, 1)
    for got, want in zip(back, (text_ids, clip_ids), strict=True):
        np.testing.assert_array_equal(got, want)
    real = {*range(1, words + 1), *np.asarray(clip_ids[0, 0, :, :space]).ravel()}
    seen = np.asarray(joined).ravel() if mask is None else np.asarray(joined).ravel()[np.asarray(mask[0])]
    assert (mask is None) == (context == 1)
    assert sorted(seen) == sorted(real)
    assert sorted(np.asarray(joined).ravel()[np.asarray(some[0])]) == sorted(real - {5, 6, 7})


@pytest.mark.parametrize(
    "fields", [{}, {"patch": (2, 2, 2), "positions": "rope", "offset": True, "concat_channels": 2}]
)
def test_forward_flops_are_those_of_the_program(fields):
    model = make(depth=2, sample=(4, 16, 16), kernel="reference", **fields)
    cond = {"tokens": jnp.zeros((1, 4, TEXT_DIM))}
    if fields:
        cond |= {"concat": jnp.zeros((1, 4, 16, 16, 2)), "vector": {"ofs": jnp.zeros(1)}}
    program = jax.make_jaxpr(lambda x: model(x, jnp.zeros(1), cond))(jnp.zeros((1, 4, 16, 16, 3)))
    np.testing.assert_allclose(model.config.forward_flops(4, 16, 16, 4), dot_flops(program.jaxpr), rtol=1e-9)
    assert 0 < model.config.attention_flops(4, 16, 16, 4) < model.config.forward_flops(4, 16, 16, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 3}, "heads: 3 must divide dim=64"),
        ({"heads": 8, "positions": "rope"}, "heads: 8 must divide dim=64 into multiples of 16"),
        ({"positions": "rop"}, "positions: unknown 'rop'; did you mean 'rope'"),
        ({"patch": (2, 2, 2)}, "positions: 'sincos' must be 'rope' where a patch has 2 frames"),
        ({"patch": (1, 2, 4)}, r"patch: \(1, 2, 4\) must be as high as it is wide"),
        ({"partition": "dynamic"}, "partition: unknown 'dynamic'"),
        ({"time_dim": 0}, "time_dim: 0 must be 1 or more"),
    ],
)
def test_what_cannot_be_built_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


@pytest.mark.parametrize(
    ("fields", "shape", "change", "message"),
    [
        ({}, (B, T, H, 5, 3), {}, "width: 5 is not divisible by the patch 2; the nearest that is: 4"),
        ({"positions": "rope_learned"}, (B, T, H, 4, 3), {}, "width: 4 is not 6, that of the learned positions"),
        ({"positions": "rope", "patch": (2, 2, 2)}, (B, 2, H, 8, 3), {}, "width: 8 is more than 6, where"),
        ({}, (B, T, H, W, 3), {"concat": 0}, "CogVideoX does not read 'concat'"),
        ({"concat_channels": 3}, (B, T, H, W, 3), {}, "condition: CogVideoX needs concat"),
        ({}, (B, T, H, W, 3), {"tokens": jnp.zeros((B, L + 1, TEXT_DIM))}, f"{L + 1} text tokens, CogVideoX reads {L}"),
        ({}, (B, T, H, W, 3), {"tokens": jnp.zeros((B, T, L, TEXT_DIM))}, "reads one prompt a clip"),
        ({"offset": True}, (B, T, H, W, 3), {"vector": {"fps": 0}}, "reads vector entry ofs"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_named(fields, shape, change, message):
    model = make(**fields)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model(jnp.zeros(shape), jnp.zeros(B), text() | change))
