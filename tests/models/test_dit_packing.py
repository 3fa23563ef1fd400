"""Packed clips: the network gives each clip what it would give it alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_dit import TEXT_DIM, B, H, L, W, awake, call, make

VARIANTS = {
    "full": ({"qk_norm": "head"}, (4, 2, 1)),
    "causal": ({"causal": True, "adaln": "per_block", "pooled_text": True}, (4, 2, 1)),
    "factorised": ({"attention": "factorised", "patch": (2, 2, 2)}, (4, 2, 2)),
    "learned": ({"attention": "factorised", "rope": False, "positions": "learned", "grid": (7, 2, 2)}, (4, 2, 1)),
    "sincos": ({"rope": False, "positions": "sincos"}, (4, 2, 1)),
    "apart": ({"attention": "factorised", "rope": False, "positions": "apart", "grid": (7, 4, 4)}, (4, 2, 1)),
}


def condition(clips: int) -> dict:
    """One prompt, label and frame rate for each clip, `[B, K, ...]`."""
    tokens = jax.random.normal(jax.random.key(5), (B, clips, L, TEXT_DIM))
    mask = jnp.arange(L) < jnp.arange(2, 2 + B * clips).reshape(B, clips, 1)
    vector = {"fps": jnp.arange(1.0, 1 + B * clips).reshape(B, clips), "label": jnp.arange(B * clips).reshape(B, -1)}
    return {"tokens": tokens, "tokens_mask": mask, "vector": vector}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_packed_clip_is_the_clip_alone(name):
    fields, lengths = VARIANTS[name]
    model = awake(make(text_dim=TEXT_DIM, classes=6, scalars=("fps",), **fields), std=0.2)
    frames, clips = sum(lengths), len(lengths)
    x = jax.random.normal(jax.random.key(2), (B, frames, H, W, 3))
    t = jnp.linspace(10.0, 900.0, B * frames).reshape(B, frames)
    segments = jnp.tile(jnp.repeat(jnp.arange(clips), jnp.array(lengths), total_repeat_length=frames), (B, 1))
    cond = condition(clips)
    packed = np.asarray(call(model, x, t, {**cond, "segments": segments}))
    ends = np.cumsum(lengths)
    for k, (begin, end) in enumerate(zip(ends - lengths, ends)):
        own = jax.tree.map(lambda value: value[:, k], cond)  # noqa: B023 (used at once)
        alone = np.asarray(call(model, x[:, begin:end], t[:, begin:end], own))
        assert alone.std() > 1e-4
        np.testing.assert_allclose(packed[:, begin:end], alone, rtol=1e-4, atol=1e-5)


def test_clips_that_are_not_kept_apart_would_differ():
    model = awake(make(), std=0.2)
    x, t = jax.random.normal(jax.random.key(2), (B, 4, H, W, 3)), jnp.full((B, 4), 500.0)
    apart = call(model, x, t, {"segments": jnp.array([[0, 0, 1, 1]] * B)})
    assert np.abs(np.asarray(apart - call(model, x, t))).max() > 1e-3
