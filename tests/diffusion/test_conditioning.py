import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import drop_conditions, unconditional

B = 2000


@pytest.fixture(scope="module")
def cond():
    return {
        "tokens": jnp.ones((B, 3, 2)),
        "tokens_mask": jnp.ones((B, 3), bool),
        "vector": {"fps": jnp.full(B, 24.0), "label": jnp.arange(B)},
        "hint": jnp.ones((B, 1, 1, 1, 1)),
    }


@pytest.fixture(scope="module")
def null():
    return {
        "tokens": jnp.zeros((1, 3, 2)),
        "tokens_mask": jnp.array([[True, False, False]]),
        "vector.fps": -1.0,
        "vector.label": -1,
        "hint": 0.0,
    }


def dropped(new):
    return {
        "tokens": np.asarray(new["tokens"] == 0).all(axis=(1, 2)),
        "mask": ~np.asarray(new["tokens_mask"])[:, 1],
        "fps": np.asarray(new["vector"]["fps"] == -1),
        "label": np.asarray(new["vector"]["label"] == -1),
        "hint": np.asarray(new["hint"] == 0).ravel(),
    }


def test_rates_hold_per_key_and_keys_drop_independently(cond, null):
    rates = {"tokens": 0.1, "vector.fps": 0.5, "hint": 1.0}
    gone = dropped(drop_conditions(cond, null, rates, jax.random.key(0)))
    assert abs(gone["tokens"].mean() - 0.1) < 0.03
    assert abs(gone["fps"].mean() - 0.5) < 0.05
    assert gone["hint"].all()
    assert not gone["label"].any(), "a key without a rate is never dropped"
    assert abs((gone["tokens"] & gone["fps"]).mean() - 0.05) < 0.02


def test_tokens_and_their_mask_drop_together(cond, null):
    gone = dropped(drop_conditions(cond, null, {"tokens": 0.3}, jax.random.key(1)))
    assert 0 < gone["tokens"].sum() < B
    np.testing.assert_array_equal(gone["tokens"], gone["mask"])


def test_the_order_of_rates_does_not_matter_and_inputs_stay(cond, null):
    a = drop_conditions(cond, null, {"tokens": 0.3, "hint": 0.3}, jax.random.key(2))
    b = drop_conditions(cond, null, {"hint": 0.3, "tokens": 0.3}, jax.random.key(2))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
    assert (cond["tokens"] == 1).all()
    assert (cond["vector"]["fps"] == 24.0).all()


def test_gradient_reaches_a_learned_null(cond, null):
    def total(empty):
        new = drop_conditions(cond, {**null, "tokens": empty}, {"tokens": 0.25}, jax.random.key(3))
        return new["tokens"][:, 0, 0].sum()

    grad = jax.grad(total)(null["tokens"])
    gone = dropped(drop_conditions(cond, null, {"tokens": 0.25}, jax.random.key(3)))["tokens"].sum()
    assert grad[0, 0, 0] == gone


def test_unconditional_replaces_everything_named(cond, null):
    assert all(gone.all() for gone in dropped(unconditional(cond, null)).values())
    some = dropped(unconditional(cond, null, ["tokens", "vector.label"]))
    assert some["tokens"].all()
    assert some["mask"].all()
    assert some["label"].all()
    assert not some["fps"].any()
    assert unconditional(cond, null)["vector"]["label"].dtype == cond["vector"]["label"].dtype


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"token": 0.1}, "dropout.token: .*did you mean 'tokens'"),
        ({"vector.fsp": 0.1}, "did you mean 'vector.fps'"),
        ({"vector": 0.1}, "dropout.vector"),
        ({"tokens_mask": 0.1}, "follows 'tokens'"),
        ({"tokens": 1.5}, "not a probability"),
    ],
)
def test_wrong_rates_are_refused(cond, null, rates, message):
    with pytest.raises(ValueError, match=message):
        drop_conditions(cond, null, rates, jax.random.key(0))


def test_missing_and_misfit_null_values_are_refused(cond, null):
    with pytest.raises(ValueError, match="no unconditional value for 'tokens_mask'"):
        drop_conditions(cond, {"tokens": null["tokens"]}, {"tokens": 0.1}, jax.random.key(0))
    with pytest.raises(ValueError, match=r"null.tokens: shape \(1, 4, 2\)"):
        unconditional(cond, {**null, "tokens": jnp.zeros((1, 4, 2))})
