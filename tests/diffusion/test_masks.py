import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion.masks import Bernoulli, Blocks, Ends, Mixture, OneFrame, Strided, Task, draw_tasks

KEYS = jax.random.split(jax.random.key(0), 256)


def known(sampler, shape=(16,), keys=KEYS):
    return np.asarray(draw_tasks(sampler, keys, shape).known)


@pytest.mark.parametrize(
    ("sampler", "given"),
    [
        (Ends(first=3), [0, 1, 2]),
        (Ends(last=2), [6, 7]),
        (Ends(first=1, last=1), [0, 7]),
        (Ends(), []),
        (Strided(4), [0, 4]),
        (Strided(3), [0, 3, 6]),
    ],
)
def test_tasks_that_are_always_the_same(sampler, given):
    masks = known(sampler, (8, 4, 4), KEYS[:3])
    assert (masks.dtype, masks.shape) == (bool, (3, 8))
    assert all(np.flatnonzero(mask).tolist() == given for mask in masks)


def test_one_frame_is_given_and_it_may_be_any():
    masks = known(OneFrame(), (5,))
    assert (masks.sum(1) == 1).all()
    assert (np.bincount(masks.argmax(1), minlength=5) > 25).all()


def test_each_frame_is_unknown_with_its_probability():
    masks = known(Bernoulli(0.8))
    assert abs((~masks).mean() - 0.8) < 0.03
    assert len(np.unique(masks, axis=0)) > 100
    assert not known(Bernoulli(1.0)).any()


def test_blocks_are_the_same_in_every_frame_of_a_span_and_all_else_is_given():
    masks = known(Blocks(margin=3), (16, 8, 10))
    assert masks.shape == (256, 16, 8, 10, 1)
    unknown = ~masks[..., 0]
    assert unknown.any(1).sum((1, 2)).min() >= 4
    assert unknown.any(1).sum((1, 2)).max() <= 40
    assert unknown.any(1).mean() > 0.3
    starts, stops = [], []
    for clip in unknown:
        frames = np.flatnonzero(clip.any((1, 2)))
        assert (np.diff(frames) == 1).all()
        assert (clip[frames] == clip[frames[0]]).all()
        starts.append(frames[0])
        stops.append(15 - frames[-1])
    assert set(starts) == set(stops) == {0, 1, 2, 3}  # an end at 0 is not an empty mask
    assert len(np.unique(unknown.any(1), axis=0)) > 200
    assert unknown.any(1).any(0).all()


@pytest.mark.parametrize("shape", [(4, 2, 2), (3, 2, 16), (2, 5, 3)])
def test_small_frames_have_blocks_too(shape):
    masks = known(Blocks(most=1.0, margin=0), shape, KEYS[:32])
    assert (~masks).any((1, 2, 3, 4)).all()


def test_tasks_come_by_their_shares_and_an_example_has_its_own():
    mixture = Mixture((Ends(first=1), Ends(last=1), Blocks(margin=0)), (1.0, 2.0, 1.0))
    keys = jax.random.split(jax.random.key(1), 1024)
    masks = known(mixture, (4, 4, 4), keys)
    assert masks.shape == (1024, 4, 4, 4, 1)
    whole = masks.all((2, 3, 4))
    first, last = (whole == [True, False, False, False]).all(1), (whole == [False, False, False, True]).all(1)
    assert abs(first.mean() - 0.25) < 0.05
    assert abs(last.mean() - 0.5) < 0.05
    np.testing.assert_array_equal(known(mixture, (4, 4, 4), keys[7:9]), masks[7:9])
    assert known(Mixture((Ends(first=1), Ends(last=1))), (4, 4, 4)).shape == (256, 4)


def test_a_task_may_say_which_frames_count():
    def short(rng, shape):
        return Task(jnp.arange(shape[0]) < 1, jnp.arange(shape[0]) < 3)

    tasks = draw_tasks(Mixture((short, Ends(last=1))), KEYS, (4,))
    counts = np.where(np.asarray(tasks.known)[:, :1], [True, True, True, False], True)
    np.testing.assert_array_equal(tasks.counts, counts)
    assert 0.3 < tasks.known[:, 0].mean() < 0.7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ends(first=-1), "first: -1 must be 0 frames or more"),
        (lambda: Strided(1), "step: 1 must be 2 or more"),
        (lambda: Bernoulli(0.0), r"unknown: 0.0 is not a probability above 0"),
        (lambda: Blocks(most=1.5), "most: 1.5 is not a share"),
        (lambda: Blocks(aspect=0.0), "aspect: 0.0 must be above 0"),
        (lambda: Blocks(least=0), "least: 0 must be 1 or more"),
        (lambda: Mixture(()), "parts: a mixture needs at least one task"),
        (lambda: Mixture((Ends(),), (1.0, 2.0)), "shares: 2 of them for 1 tasks"),
        (lambda: Mixture((Ends(),), (0.0,)), "shares: .* must be numbers above 0"),
        (lambda: known(Ends(first=8), (8,)), "first=8 and last=0 leave nothing to generate of a clip of 8 frames"),
        (lambda: known(OneFrame(), (1,)), "nothing to generate"),
        (lambda: known(Strided(4), (1,)), "nothing to generate"),
        (lambda: known(Blocks(), (16,)), "blocks need frames with a height and a width"),
        (lambda: known(Blocks(margin=3), (6, 8, 8)), "margin=3 at both ends may be all of a clip of 6 frames"),
        (lambda: known(Blocks(least=40), (16, 8, 8)), "no block of 40 is within 0.5 of a frame of 8x8"),
    ],
)
def test_what_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()
