"""Videos of any length: a memory gives what computing everything again gives, in two programs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_dit import B, H, W, awake, make
from vdm_jax.diffusion import VP
from vdm_jax.sampling.continuing import ChunkAutoregressive, Recomputing

PROCESS, KEY = VP(prediction="v"), jax.random.key(3)
FIELDS = {"attention": "factorised", "causal": True, "prefix": 2, "known_merge": True, "classes": 2}
TABLE = {"rope": False, "positions": "apart", "grid": (6, 2, 2)}
LABELS = {"vector": {"label": jnp.array([0, 1])}}
MODEL = awake(make(**FIELDS, **TABLE, cyclic=True), std=0.15)
NULL = {"vector.label": -1}


def driver(kind=ChunkAutoregressive, model=MODEL, **fields):
    options = {"chunk": 2, "keep": 4, "trained": 6, "first": 2, **fields}
    return kind(lambda params: model, PROCESS, PROCESS.levels(2), (H, W, 3), **options)


def given(frames=2):
    return jax.random.normal(jax.random.key(0), (B, frames, H, W, 3))


@pytest.fixture(scope="module")
def cached():
    return driver()


def test_remembered_and_recomputed_videos_are_the_same_until_frames_are_forgotten(cached):
    """Both draw the noise of a chunk differently, so it is compared chunk by chunk from the same noise."""
    noise = jax.random.normal(KEY, (B, 6, H, W, 3))
    memory = cached.begin(None, given(2), LABELS, KEY)
    chunk, after = cached.extend(None, memory, LABELS, KEY, B)
    assert (int(memory.written), int(after.written)) == (2, 4)
    video = jnp.concatenate([given(2), chunk], axis=1)

    @jax.jit
    def both(x):
        t, known = jnp.full((B, 6), 500.0).at[:, :4].set(0.0), jnp.broadcast_to(jnp.arange(6) < 4, (B, 6))
        whole = MODEL(jnp.concatenate([video, x], axis=1), t, {**LABELS, "known": known})
        return MODEL(x, t[:, 4:], LABELS, after), whole[:, 4:]

    np.testing.assert_allclose(*both(noise[:, 4:]), rtol=1e-4, atol=1e-5)


def test_a_memory_does_not_depend_on_when_it_is_computed(cached):
    memory = cached.begin(None, given(2), LABELS, KEY)
    once, _ = cached.extend(None, memory, LABELS, KEY, B)
    anew = cached.begin(None, given(2), LABELS, jax.random.key(9), memory.reset())
    again, _ = cached.extend(None, anew, LABELS, KEY, B)
    np.testing.assert_array_equal(once, again)


def test_a_video_goes_on_and_nothing_is_compiled_again(cached):
    video = cached.video(None, given(2), 13, LABELS, KEY)
    assert video.shape == (B, 13, H, W, 3)
    np.testing.assert_array_equal(video[:, :2], given(2))
    assert bool(jnp.isfinite(video).all())
    assert (cached._extend._cache_size(), cached._begin._cache_size()) in ((1, 1), (1, 2))
    np.testing.assert_array_equal(video[:, :6], cached.video(None, given(2), 6, LABELS, KEY))


def test_a_memory_is_as_large_whatever_the_steps():
    few, many = (dataclasses.replace(driver(), levels=PROCESS.levels(steps)) for steps in (10, 100))
    sizes = [
        jax.eval_shape(lambda d=d: d._extend(None, d._begin(None, given(2), LABELS, KEY, None), LABELS, KEY, B)[1])
        for d in (few, many)
    ]
    assert sum(leaf.size for leaf in jax.tree.leaves(sizes[0])) > 1000
    assert [leaf.shape for leaf in jax.tree.leaves(sizes[0])] == [leaf.shape for leaf in jax.tree.leaves(sizes[1])]


def test_guidance_reads_a_memory_of_twice_as_many_rows():
    guided = driver(guidance=2.0, null=NULL)
    memory = jax.eval_shape(lambda: guided._begin(None, given(2), LABELS, KEY, None))
    assert memory.time.k.shape[1] == 2 * B

    def extended(begun):
        return guided._extend(None, begun._begin(None, given(2), LABELS, KEY, None), LABELS, KEY, B)

    chunk, after = jax.eval_shape(lambda: extended(guided))
    assert chunk.shape == (B, 2, H, W, 3)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, memory)
    with pytest.raises(ValueError, match=r"memory: holds 2 rows, the clip has 4"):
        jax.eval_shape(lambda: extended(driver()))


def test_recomputing_makes_videos_too():
    video = jax.eval_shape(lambda: driver(Recomputing).video(None, given(2), 9, LABELS, KEY))
    assert video.shape == (B, 9, H, W, 3)


def test_finished_frames_may_be_noised_before_they_are_seen():
    shown = driver(given_level=0.5)._shown(given(2), KEY)
    alpha, sigma = PROCESS.alpha_sigma(jnp.asarray(0.5))
    np.testing.assert_allclose(shown, alpha * given(2) + sigma * jax.random.normal(KEY, shown.shape), rtol=1e-5)
    assert driver()._shown(given(2), KEY) is not None


def test_a_used_up_table_is_begun_again_or_refused():
    model = make(**FIELDS, **TABLE)
    with pytest.raises(ValueError, match=r"frames: 7, the network's table of places ends at 6; set rebuild, or cyclic"):
        driver(model=model).video(None, given(2), 7, LABELS, KEY)
    video = jax.eval_shape(lambda: driver(model=model, rebuild=4).video(None, given(2), 9, LABELS, KEY))
    assert video.shape == (B, 9, H, W, 3)


@pytest.mark.parametrize(("fields", "message"), [
    ({"keep": 5}, "keep: 5 frames and a chunk of 2 are more than the 6 of training"),
    ({"chunk": 5, "trained": None}, "chunk: 5 frames do not fit into the keep=4"),
    ({"chunk": 0}, "chunk: 0 and keep: 4 must be"),
    ({"given_level": 1.0}, "given_level: 1.0"),
    ({"rebuild": 5}, "rebuild: 5"),
])  # fmt: skip
def test_frames_that_do_not_fit_each_other_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        driver(**fields)


def test_what_training_never_had_is_warned_of():
    with pytest.warns(UserWarning, match="keep: 4 frames are no prefix of training, which had 1, then 2 more each"):
        driver(first=1)
    with pytest.warns(UserWarning, match="chunk: 2 frames at once, training had 8"):
        driver(trained_chunk=8)


def test_begin_refuses_nothing_too_much_and_other_videos(cached):
    with pytest.raises(ValueError, match="given: no frame"):
        cached.begin(None, given(2)[:, :0], LABELS, KEY)
    with pytest.raises(ValueError, match="given: 5 frames are more than the keep=4"):
        cached.begin(None, given(5), LABELS, KEY)
    with pytest.raises(ValueError, match="given: frames of .4, 4, 2., the driver makes"):
        cached.begin(None, given(2)[..., :2], LABELS, KEY)
    memory = MODEL.memory(B, H, W, frames=4)
    held = dataclasses.replace(memory, time=dataclasses.replace(memory.time, count=memory.time.count + 2))
    with pytest.raises(ValueError, match=r"memory: holds 2 frames of another video; use memory.reset"):
        cached.begin(None, given(2), LABELS, KEY, held)
