"""Packed clips are examples: own time, own dropout, equal weight, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.test_denoising import KEY, Recorder, Text, with_text
from vdm_jax.diffusion import VP
from vdm_jax.objectives.denoising import DenoisingObjective

B, K, T, H, W, C, L = 2, 3, 6, 4, 4, 2, 5
LENGTHS = (3, 2, 1)


class Packable(Recorder):
    @property
    def may_read(self):
        return self.reads | {"segments"}


def batch_of(**more):
    video = np.random.default_rng(0).integers(0, 256, (B, T, H, W, C), dtype=np.uint8)
    segments = jnp.asarray(np.tile(np.repeat(np.arange(K), LENGTHS), (B, 1)))
    return {"video": jnp.asarray(video), "segments": segments, "index": jnp.arange(B * K).reshape(B, K), **more}


def test_the_loss_is_the_mean_over_the_clips():
    objective, backbone, batch = DenoisingObjective(VP()), Packable(), batch_of()
    loss, metrics = objective({"backbone": backbone}, batch, KEY)
    draws = objective.draw(batch, KEY)
    noise = jax.vmap(lambda key: jax.random.normal(key, (T, H, W, C)))(draws["noise"])
    x0, (fed, _, cond) = batch["video"] / 127.5 - 1.0, backbone.calls[0]
    np.testing.assert_array_equal(cond["segments"], batch["segments"])
    square = np.asarray((0.5 * fed - VP().target(x0, noise, draws["time"])) ** 2).mean((2, 3, 4))
    weighted = square * np.asarray(VP().weight(draws["time"]))
    ends = np.cumsum(LENGTHS)
    for got, frames in ((metrics["mse"], square), (loss, weighted)):
        clips = [frames[b, e - n : e].mean() for b in range(B) for e, n in zip(ends, LENGTHS)]
        np.testing.assert_allclose(got, np.mean(clips), rtol=1e-5)


def test_each_clip_has_a_time_of_its_own():
    time = np.asarray(DenoisingObjective(VP()).draw(batch_of(), KEY)["time"])
    ends = np.cumsum(LENGTHS)
    clips = [time[b, e - n : e] for b in range(B) for e, n in zip(ends, LENGTHS)]
    assert all(len(np.unique(clip)) == 1 for clip in clips)
    assert len({float(clip[0]) for clip in clips}) == B * K


def test_each_clip_keeps_or_loses_its_own_prompt():
    ids = jnp.arange(1, B * K + 1, dtype=jnp.int32).reshape(B, K, 1) * jnp.ones((1, 1, L), jnp.int32)
    batch = batch_of(text_ids=ids, text_mask=jnp.ones((B, K, L), bool), fps=jnp.full((B, K), 8.0))
    objective = with_text(dropout={"tokens": 0.5, "vector.fps": 0.5}, vector=("fps",))
    kept = set()
    for seed in range(8):
        backbone = Packable({"tokens", "vector"})
        objective({"backbone": backbone, "text": Text()}, batch, jax.random.key(seed))
        cond = backbone.calls[0][2]
        tokens, mask, fps = cond["tokens"][..., 0, 0], cond["tokens_mask"], cond["vector"]["fps"]
        assert tokens.shape == (B, K)
        assert bool(((tokens == 0) | (tokens == ids[..., 0])).all())
        np.testing.assert_array_equal(mask.sum(-1), np.where(tokens == 0, 1, L))
        assert set(np.unique(fps)) <= {-1.0, 8.0}
        kept.add(tuple(np.asarray(tokens != 0).ravel().tolist()))
    assert len(kept) > 4


@pytest.mark.parametrize(("change", "message"), [
    ({"index": jnp.arange(B)}, r"segments: packed clips need 'index' \[B, K\]"),
    ({"known": jnp.zeros((B, T), bool)}, "known: nothing can be given of packed clips"),
])  # fmt: skip
def test_what_packed_clips_cannot_have_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DenoisingObjective(VP())({"backbone": Packable()}, {**batch_of(), **change}, KEY)


def test_dropout_of_what_is_not_per_clip_is_refused():
    objective = DenoisingObjective(VP(), dropout={"hint": 0.5})
    with pytest.raises(ValueError, match="dropout: 'hint' is not dropped clip by clip"):
        objective({"backbone": Packable({"hint"})}, batch_of(hint=jnp.zeros((B, T, H, W, C))), KEY)
