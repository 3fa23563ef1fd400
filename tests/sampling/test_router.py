import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.adapters.routing import route_text
from vdm_jax.diffusion import RectifiedFlow
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.models.unet import UNet, UNetConfig
from vdm_jax.sampling import guided, make_denoiser, sample, uniform
from vdm_jax.sampling.router import ConditionRouter, Rule, blended, motion_injection, routed, side_by_side

FRAMES, LENGTH, WIDTH = 8, 2, 4
PROCESS = RectifiedFlow(prediction="x0")
CONFIG = DiTConfig(
    patch=(1, 4, 4), dim=12, depth=3, heads=2, attention="factorised", mlp_dim=12, text_dim=WIDTH, rope=False
)
NULL = {"tokens": jnp.zeros((1, LENGTH, WIDTH))}
LEVELS = np.linspace(1, 0, 51)


def prompt(seed, batch=1):
    return {"tokens": jax.random.normal(jax.random.key(seed), (batch, LENGTH, WIDTH))}


@pytest.fixture(scope="module")
def state():
    """Weights of which every one says something."""
    graph, state = nnx.split(DiT(CONFIG, nnx.Rngs(0)))
    draw = np.random.default_rng(0)
    return graph, jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0, 0.3, leaf.shape), leaf.dtype), state)


def network(state):
    return nnx.merge(*state)


def test_equal_prompts_sample_what_one_prompt_does(state):
    x_T = jax.random.normal(jax.random.key(1), (1, FRAMES, 4, 4, 3))
    tau = uniform(np.linspace(1, 0, 4, dtype=np.float32), FRAMES)
    router, text = motion_injection(np.linspace(1, 0, 4), 1, 1), prompt(2)

    def plain(state):
        denoiser = guided(make_denoiser(PROCESS, nnx.merge(state[0], state[1])), 2.0, NULL)
        return sample(denoiser, PROCESS, x_T, tau, text)

    def injected(state):
        denoiser = make_denoiser(PROCESS, route_text(nnx.merge(state[0], state[1])))
        cond = side_by_side([blended([text, text], FRAMES), text], FRAMES)
        empty = side_by_side([NULL, NULL], FRAMES)
        return sample(guided(routed(denoiser, router, 2), 2.0, empty), PROCESS, x_T, tau, cond)

    graph, leaves = state
    one, two = (np.asarray(jax.jit(lambda leaves, run=run: run((graph, leaves)))(leaves)) for run in (plain, injected))
    np.testing.assert_allclose(two, one, atol=1e-5)
    assert np.abs(one).max() > 0.1


def test_each_third_of_a_dit_reads_its_own_text(state):
    """A group whose layers say nothing hears nothing."""
    graph, leaves = state
    x, texts = jax.random.normal(jax.random.key(1), (1, 2, 4, 4, 3)), [prompt(seed)["tokens"] for seed in (2, 3, 4)]
    call = jax.jit(lambda leaves, tokens: route_text(nnx.merge(graph, leaves))(x, jnp.ones((1, 2)), {"tokens": tokens}))
    for silent in range(3):
        quiet = jax.tree.map(lambda leaf: leaf, leaves)
        kernel = quiet["units"]["spatial"]["cross"]["out"]["kernel"]
        bias = quiet["units"]["spatial"]["cross"]["out"]["bias"]
        kernel[...], bias[...] = kernel[...].at[silent].set(0.0), bias[...].at[silent].set(0.0)
        before = np.asarray(call(quiet, jnp.concatenate(texts, axis=1)))
        for changed in range(3):
            others = [text + (1.0 if group == changed else 0.0) for group, text in enumerate(texts)]
            after = np.asarray(call(quiet, jnp.concatenate(others, axis=1)))
            assert np.array_equal(after, before) == (changed == silent)


def test_layers_of_a_unet_are_of_the_half_they_stand_in():
    config = UNetConfig(widths=(8, 8), layers=(1, 1), heads=(2, 2), depth=(2, 0), groups=4, text_dim=WIDTH)
    routed_unet = route_text(nnx.eval_shape(lambda: UNet(config, nnx.Rngs(0))))
    groups = {"down": routed_unet.down[0], "up": routed_unet.up[1]}
    for number, level in ((0, groups["down"]), (2, groups["up"])):
        np.testing.assert_array_equal(level.layers[0].attention.units.space.second.group[...], [number] * 2)
    np.testing.assert_array_equal(routed_unet.mid[0].attention.units.space.second.group[...], [1])


def test_motion_is_injected_in_the_published_steps():
    router, texts = motion_injection(LEVELS), side_by_side([prompt(0), prompt(1)], FRAMES)
    told = routed(lambda x_t, t, cond: jnp.split(cond["tokens"], 3, axis=2), router, 2)
    x = jnp.zeros((1, FRAMES, 1))
    for step, level in enumerate(LEVELS[:-1]):
        encoder, middle, decoder = told(x, jnp.full((1, FRAMES), np.float32(level)), texts)
        wanted = prompt(0 if 5 <= step <= 15 else 1)["tokens"]
        np.testing.assert_array_equal(encoder[:, 0], wanted)
        np.testing.assert_array_equal(middle, encoder)
        np.testing.assert_array_equal(decoder[:, 3], prompt(0)["tokens"])


def test_prompts_are_held_and_blended():
    first, second = ({"tokens": jnp.full((1, LENGTH, WIDTH), value)} for value in (0.0, 1.0))
    masks = (jnp.array([[True, False]]), jnp.array([[False, True]]))
    tokens, mask = blended([dict(text, tokens_mask=m) for text, m in zip((first, second), masks)], 16).values()
    np.testing.assert_allclose(tokens[0, :, 0, 0], [0] * 7 + [0.25, 0.5, 0.75] + [1] * 6)
    np.testing.assert_array_equal(mask[0, [0, 8, 15]], [[True, False], [True, True], [False, True]])
    chained = blended([first, second, first], 32)["tokens"][0, :, 0, 0]
    np.testing.assert_allclose(chained[:16], tokens[0, :, 0, 0])
    np.testing.assert_allclose(chained[16:], 1 - tokens[0, :, 0, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: side_by_side([{"tokens": jnp.zeros((1, 5, LENGTH, WIDTH))}], 8), "tokens: rows for 5 frames, the"),
        (lambda: blended([NULL], 8), "texts: 1 given, there is nothing to blend"),
        (lambda: motion_injection(LEVELS, 5, 50), "first, last: 5, 50 must be rising and within the 50 steps"),
        (lambda: motion_injection(LEVELS, 9, 5), "first, last: 9, 5 must be rising"),
        (lambda: routed(None, motion_injection(LEVELS), 1), "count: 1 texts, but the router reads text number 1"),
        (lambda: routed(None, ConditionRouter(*[Rule(0, 0)] * 3), 2)(jnp.zeros((1, 8, 1)), 0.5, side_by_side(
            [NULL, NULL], 4)), "tokens of shape .* is not 2 texts for 8 frames"),
        (lambda: route_text(DiT(dataclasses.replace(CONFIG, text_dim=0, depth=1), nnx.Rngs(0))), "DiT reads no text"),
        (lambda: route_text(DiT(dataclasses.replace(CONFIG, pooled_text=True, depth=1), nnx.Rngs(0))), "pooled_text"),
        (lambda: route_text(nnx.Module()), "the layers of Module have no groups"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
