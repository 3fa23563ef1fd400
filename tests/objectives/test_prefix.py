"""Continuing as a task: a prefix is given, a chunk is judged, what is behind it does not exist."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.tiny_dit import awake, make
from vdm_jax.diffusion import VP
from vdm_jax.diffusion.masks import Ends, Mixture, Prefix, draw_tasks
from vdm_jax.objectives.configuration import masks_from
from vdm_jax.objectives.denoising import DenoisingObjective

KEYS = jax.random.split(jax.random.key(0), 128)
B, T = 4, 5


def test_prefixes_are_those_that_chunks_lead_to():
    tasks = draw_tasks(Prefix(first=1, step=2, chunk=2, cyclic=True), KEYS, (9,))
    given, judged = np.asarray(tasks.known.sum(1)), np.asarray(tasks.counts & ~tasks.known)
    assert set(given) == {1, 3, 5, 7}
    assert (judged.sum(1) == 2).all()
    assert (judged.argmax(1) == given).all()
    length, start = np.asarray(tasks.told["length"]), np.asarray(tasks.told["start"])
    np.testing.assert_array_equal(length, given + 2)
    assert (start[length < 9] == 0).all()
    assert len(set(start[length == 9])) > 5
    assert start.max() < 9


def test_all_that_follows_may_be_the_chunk():
    tasks = draw_tasks(Prefix(first=1), KEYS, (4,))
    assert set(np.asarray(tasks.known.sum(1))) == {1, 2, 3}
    assert (tasks.told["length"] == 4).all()
    assert "start" not in tasks.told


@pytest.mark.parametrize(("make_it", "message"), [
    (lambda: Prefix(first=0), "first: 0 must be 1 or more"),
    (lambda: draw_tasks(Prefix(first=4, chunk=3), KEYS, (6,)), "first=4 given frames and a chunk of 3 are more"),
    (lambda: draw_tasks(Mixture((Ends(first=1), Prefix())), KEYS, (6,)), "masks: tasks that tell .*length"),
    (lambda: masks_from([{"kind": "prefix", "frist": 1}], "config"), "frist.*did you mean 'first'"),
    (lambda: DenoisingObjective(VP(), known_level=1.5), "known_level: 1.5 must be from 0 to t_max=1"),
])  # fmt: skip
def test_tasks_that_cannot_be_are_refused(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()


def batch(seed=0, **more):
    return {"video": jax.random.normal(jax.random.key(seed), (B, T, 4, 4, 3)), **more}


OBJECTIVE = DenoisingObjective(VP(prediction="eps"), masks=Prefix(first=1, step=2, chunk=2), known_level=0.1)


@pytest.fixture(scope="module")
def losses():
    """(loss, gradient with respect to the clip) of a DiT that sees both ways, compiled."""
    backbone = awake(make(attention="factorised", known_merge=True, prefix=2), std=0.15)

    def loss(video, rest):
        return OBJECTIVE({"backbone": backbone}, {"video": video, **rest}, jax.random.key(1))[0]

    return jax.jit(jax.value_and_grad(loss))


def test_what_is_padded_or_cut_off_counts_for_nothing(losses):
    length = jnp.array([5, 3, 3, 5])
    video = batch()["video"]
    value, gradient = losses(video, {"length": length})
    tasks = draw_tasks(OBJECTIVE.masks, OBJECTIVE.draw(batch(), jax.random.key(1))["task"], (T,))
    there = np.arange(T) < np.minimum(np.asarray(tasks.told["length"]), np.asarray(length))[:, None]
    reaches = np.abs(np.asarray(gradient)).max((2, 3, 4)) > 0
    assert not reaches[~there].any()
    assert reaches[there & ~np.asarray(tasks.known)].all()
    garbage = jnp.where(jnp.asarray(there)[..., None, None, None], video, 7.0)
    np.testing.assert_array_equal(losses(garbage, {"length": length})[0], value)


class Free(nnx.Module):
    """Predicts a parameter, whatever it is shown; keeps what that was."""

    def __init__(self):
        self.output = nnx.Param(jnp.ones((B, T, 4, 4, 3)))
        self.reads = frozenset({"length"})
        self.seen = nnx.static([])

    def __call__(self, x, t, cond):
        self.seen.append((x, t))
        return self.output[...]


def test_nothing_is_learned_from_given_frames_which_are_not_quite_clean():
    free, data = Free(), batch()
    gradient = nnx.grad(lambda free: OBJECTIVE({"backbone": free}, data, jax.random.key(1))[0])(free)
    tasks = draw_tasks(OBJECTIVE.masks, OBJECTIVE.draw(data, jax.random.key(1))["task"], (T,))
    judged = tasks.counts & ~tasks.known
    per_frame = jnp.abs(jax.tree.leaves(gradient)[0]).max((2, 3, 4))
    np.testing.assert_array_equal(per_frame > 0, judged)
    free = Free()
    OBJECTIVE({"backbone": free}, data, jax.random.key(1))
    (shown, told), known = free.seen[0], np.asarray(tasks.known)
    assert (np.asarray(told)[known] == 0).all()
    alpha, sigma = OBJECTIVE.process.alpha_sigma(jnp.asarray(0.1))
    dirt = (np.asarray(shown) - float(alpha) * np.asarray(data["video"]))[known] / float(sigma)
    assert 0.8 < dirt.std() < 1.2
