"""Continuing a video: what a memory gives is what computing the given frames again gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.tiny_dit import B, H, W, awake, call, make
from vdm_jax.models.dit import DiT, DiTConfig

GIVEN, NEW = 3, 2
LONGER = {"attention": "factorised", "causal": True, "depth": 2, "known_merge": True, "prefix": 2}
TABLE = {"rope": False, "positions": "apart", "grid": (6, 2, 2), "cyclic": True}


def video(frames=GIVEN + NEW, seed=0):
    return jax.random.normal(jax.random.key(seed), (B, frames, H, W, 3))


@nnx.jit(static_argnames="given")
def whole(model, x, given=GIVEN, **cond):
    """All frames at once, the first of them given: told time 0."""
    t = jnp.where(jnp.arange(x.shape[1]) < given, 0.0, jnp.linspace(100.0, 900.0, B)[:, None])
    known = jnp.broadcast_to(jnp.arange(x.shape[1]) < given, x.shape[:2])
    return model(x, t, {"known": known, **cond})


@nnx.jit
def remember(model, x, memory):
    return model.remember(x, jnp.zeros(B), {}, memory)


@nnx.jit
def follow(model, x, memory):
    return model(x, jnp.linspace(100.0, 900.0, B), {}, memory)


@pytest.fixture(scope="module", params=["table", "rope"])
def model(request):
    return awake(make(**LONGER, **(TABLE if request.param == "table" else {})), std=0.15)


def test_frames_that_follow_a_memory_are_those_that_follow_the_frames(model):
    x = video()
    memory = model.memory(B, H, W, frames=4)
    for frames in (x[:, :2], x[:, 2:3]):
        memory = remember(model, frames, memory)
    assert int(memory.written) == GIVEN
    want = whole(model, x)[:, GIVEN:]
    got = follow(model, x[:, GIVEN:], memory)
    assert float(jnp.abs(want).max()) > 0.05
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    emptied = remember(model, x[:, 2:3], remember(model, x[:, :2], memory.reset()))
    np.testing.assert_array_equal(follow(model, x[:, GIVEN:], emptied), got)
    dropped = remember(model, x[:, :2], memory)  # five frames in four places
    assert float(jnp.abs(follow(model, x[:, GIVEN:], dropped) - got).max()) > 1e-3


def test_no_frame_depends_on_a_later_one(model):
    x = video()
    before = whole(model, x)
    for j in (1, GIVEN + 1):  # one that is given, and one that is not
        after = whole(model, x.at[:, j].add(1.0))
        np.testing.assert_array_equal(after[:, :j], before[:, :j])
        assert float(jnp.abs(after[:, j] - before[:, j]).max()) > 1e-3


def test_a_new_model_hears_nothing_of_the_flag_and_the_prefix():
    """On top of trained weights, the merge is the identity and the attention to the prefix adds nothing."""
    model = awake(make(**{**LONGER, "causal": False}), std=0.15)
    fresh = make(**LONGER)
    model.known_in = fresh.known_in
    model.units.spatial.prefix.out = fresh.units.spatial.prefix.out
    plain = awake(make(**{**LONGER, "causal": False, "known_merge": False, "prefix": 0}), std=0.15)
    nnx.update(plain, _without(model))
    x, t = video(), jnp.linspace(0.0, 900.0, B * (GIVEN + NEW)).reshape(B, -1)
    want = call(plain, x, t)
    for known in (jnp.zeros(x.shape[:2], bool), jnp.arange(GIVEN + NEW)[None] < jnp.array([[1], [GIVEN]])):
        np.testing.assert_allclose(call(model, x, t, {"known": known}), want, rtol=1e-5, atol=1e-6)


def _without(model):
    """Its state without what a plain model lacks."""
    state = nnx.state(model)
    del state["known_in"]
    del state["units"]["spatial"]["prefix"]
    return state


def test_places_in_time_go_round():
    model = awake(make(**LONGER, **TABLE), std=0.15)
    x = video()
    at = [whole(model, x, start=jnp.full(B, s)) for s in (0, 4, 10)]
    np.testing.assert_array_equal(at[1], at[2])
    np.testing.assert_allclose(at[0], whole(model, x), rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(at[0] - at[1]).max()) > 1e-3
    each = whole(model, x, start=jnp.array([0, 4]))  # one for each example
    np.testing.assert_allclose(each[1], at[1][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", ["factorised", "full"])
def test_padding_is_seen_by_nobody(attention):
    model = awake(make(attention=attention), std=0.15)

    @jax.jit
    def run(x):
        t = jnp.array([100.0, 500.0])
        padded, back = jax.vjp(lambda x: model(x, t, {"length": jnp.array([2, 4])}), x)
        (reads,) = back(jnp.zeros_like(padded).at[0, :2].set(1.0))
        return padded, model(x[:, :2], t), reads

    padded, cut, reads = run(video(4))
    np.testing.assert_allclose(padded[0, :2], cut[0], rtol=1e-4, atol=1e-6)
    assert float(jnp.abs(reads[:, 2:]).max()) == 0.0
    assert float(jnp.abs(reads[0, :2]).max()) > 0.0


@pytest.mark.parametrize(("fields", "message"), [
    ({"causal": False}, "memory: .*causal=True"),
    ({"temporal": "attention_first"}, "memory: .*temporal='block'"),
    ({"patch": (2, 2, 2)}, r"patch: \(2, 2, 2\) joins 2 frames"),
    ({"rope": False, "positions": "sincos"}, "positions: 'sincos'"),
    ({**TABLE, "grid": (3, 2, 2)}, r"frames: 4 kept frames leave no place in a table of 3"),
])  # fmt: skip
def test_what_cannot_be_kept_is_refused(fields, message):
    config = DiTConfig(**{"patch": (1, 2, 2), "dim": 16, "heads": 2, **LONGER, **fields})
    with pytest.raises(ValueError, match=message):
        nnx.eval_shape(lambda: DiT(config, nnx.Rngs(0)).memory(B, H, W, frames=4))


def test_a_memory_is_read_as_it_was_written():
    model = make(**{**LONGER, "depth": 1})
    memory = model.memory(B, H, W, frames=2)
    x, t = video(2), jnp.zeros(B)
    with pytest.raises(ValueError, match=r"memory: holds 2 rows, the clip has 4.*guidance"):
        model(jnp.concatenate([x, x]), jnp.zeros(2 * B), {}, memory)
    with pytest.raises(ValueError, match="memory: holds frames of 4 tokens, those of the clip have 8"):
        model(jnp.concatenate([x, x], axis=3), t, {}, memory)
    with pytest.raises(ValueError, match="memory: 3 frames at once are more than the 2"):
        model.remember(video(3), t, {}, memory)
    with pytest.raises(ValueError, match="condition: known frames are those of the memory"):
        model(x, t, {"known": jnp.zeros((B, 2), bool)}, memory)


@pytest.mark.parametrize(("fields", "message"), [
    ({"prefix": 3, "attention": "full"}, "prefix: 3 needs attention='factorised'"),
    ({"known_merge": True, "attention": "full"}, "known_merge: True needs"),
    ({"prefix": -1}, "prefix: -1"),
    ({"cyclic": True}, "cyclic: True needs a table"),
])  # fmt: skip
def test_options_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        DiTConfig(**fields)
