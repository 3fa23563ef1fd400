import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.adapters.every import DIT, IMAGE, UNET, awake, definitions, inputs
from vdm_jax.adapters.image_tokens import ImageAttention, ImageTokensConfig
from vdm_jax.nn.attention import CrossAttention

READY = dataclasses.replace(IMAGE, image_dim=4, depth=0)  # features that are tokens
X = jax.random.normal(jax.random.key(0), (2, 3, 5, 8))  # [B, G, N, D]
TEXT, PICTURE = jax.random.normal(jax.random.key(1), (2, 3, 4)), jax.random.normal(jax.random.key(2), (2, 2, 4))
call = jax.jit(lambda layer, x, context, mask: layer(x, context, mask))


def softmaxed(q, k, v):
    """Attention of `[B, G, N, H, c]` to `[B, L, H, c]` by definition, heads merged."""
    weights = jax.nn.softmax(jnp.einsum("bgnhc,blhc->bghnl", q, k) / q.shape[-1] ** 0.5, axis=-1)
    out = jnp.einsum("bghnl,blhc->bgnhc", weights, v)
    return out.reshape(*out.shape[:-2], -1)


@pytest.fixture(scope="module")
def layer():
    adapted = ImageAttention(CrossAttention(8, 2, context_dim=4, rngs=nnx.Rngs(0)), IMAGE, nnx.Rngs(1))
    assert not adapted.image_tokens.kernel[..., 1, :].any()
    assert adapted.image_tokens.kernel[..., 0, :].any()
    adapted.image_tokens.kernel[...] = jax.random.normal(jax.random.key(3), (4, 2, 2, 4))
    adapted.strength = 0.7
    return adapted


@pytest.mark.parametrize("per_group", [False, True])
def test_text_and_picture_are_read_apart_with_one_query(layer, per_group):
    q, text, picture = layer.q(X), layer.kv(TEXT), layer.image_tokens(PICTURE)
    read = softmaxed(q, text[:, :2, :, 0], text[:, :2, :, 1]) + 0.7 * softmaxed(
        q, picture[..., 0, :], picture[..., 1, :]
    )
    mask = jnp.array([[True, True, False, False, False]] * 2)  # of the picture it says nothing
    context = jnp.concatenate([TEXT, PICTURE], axis=1)
    if per_group:
        context, mask = (jnp.repeat(y[:, None], 3, axis=1) for y in (context, mask))
    np.testing.assert_allclose(call(layer, X, context, mask), layer.out(read), atol=1e-5)


def test_a_network_hears_of_the_picture_in_every_frame():
    of = definitions(UNET, READY.put_into)
    params = awake(of.abstract)
    x, t, cond = inputs(of.merge(of.abstract)["backbone"])
    run = jax.jit(lambda x, cond: of.merge(params)["backbone"](x, t, cond))
    cond = {"tokens": cond["tokens"], "tokens_mask": jnp.ones((2, 3), bool), "image": PICTURE}
    change = run(x, {**cond, "image": PICTURE + 1.0}) - run(x, cond)
    assert (jnp.abs(change).max((2, 3, 4)) > 1e-4).all()


@pytest.mark.parametrize(
    ("config", "image", "message"),
    [
        (READY, (2, 3, 4), "image has 3 tokens, the adapter reads 2"),
        (READY, (2, 2, 6), "image has features of width 6, not 4"),
        (IMAGE, (2, 9, 4), "image has features of width 4, not 6"),
        (READY, None, "needs .*image"),
    ],
)
def test_wrong_pictures_are_refused(config, image, message):
    of = definitions(UNET, config.put_into)
    network = of.merge(of.abstract)["backbone"]
    assert network.reads == {"tokens", "image"}
    x, t, cond = inputs(network)
    cond = {"tokens": cond["tokens"]} | ({} if image is None else {"image": np.zeros(image, np.float32)})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda params: of.merge(params)["backbone"](x, t, cond), of.abstract)


def test_wrong_settings_and_networks_are_refused():
    for fields, message in (
        ({"tokens": 0}, "tokens: 0 must be 1 or more"),
        ({"depth": -1}, "depth: -1 must be 0 or more"),
        ({"heads": 7}, "heads: 7 must divide dim=768"),
    ):
        with pytest.raises(ValueError, match=message):
            ImageTokensConfig(**fields)
    with pytest.raises(ValueError, match="adapter: DiT cannot read image tokens"):
        definitions(DIT, IMAGE.put_into)
    with pytest.raises(ValueError, match="image_dim: 6 must be text_dim=4"):
        definitions(UNET, dataclasses.replace(IMAGE, depth=0).put_into)
    with pytest.raises(ValueError, match="adapter: ImageUNet cannot read image tokens"):
        definitions(UNET, lambda network, rngs: IMAGE.put_into(IMAGE.put_into(network, rngs), rngs))
