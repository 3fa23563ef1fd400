import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.cases import KEY_MASK, NK, NQ, POLICIES, B, H
from vdm_jax.attention.policy import CAUSAL, FULL, Policy


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_seen_is_what_the_docstring_says(name):
    policy = POLICIES[name]
    seen = policy.dense(NQ, NK)
    got = np.ones((B, H, NQ, NK), bool) if seen is None else np.broadcast_to(seen, (B, H, NQ, NK))
    for b, h, q, k in np.ndindex(B, H, NQ, NK):
        i, j = q // policy.unit, k // policy.unit
        want = (not policy.causal or j <= i) and (policy.window is None or abs(i - j) < policy.window)
        want = want and (policy.key_mask is None or bool(policy.key_mask[b, k]))
        if policy.mask is not None:
            want = want and bool(np.broadcast_to(policy.mask, got.shape)[b, h, q, k])
        if policy.q_segments is not None:
            want = want and int(policy.q_segments[b, q]) == int(policy.k_segments[b, k])
        assert got[b, h, q, k] == want


def test_a_frame_sees_all_of_itself_and_of_earlier_frames():
    seen = np.asarray(Policy(causal=True, unit=4).dense(12, 12))[0, 0]
    np.testing.assert_array_equal(seen, np.kron(np.tril(np.ones((3, 3))), np.ones((4, 4))))


def test_only_positions_make_a_policy_positional():
    assert not FULL.positional
    assert not Policy(key_mask=KEY_MASK).positional
    assert CAUSAL.positional
    assert Policy(window=1).positional
    assert FULL.dense(3, 3) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 0}, "window: 0 must be at least 1"),
        ({"unit": 0}, "unit: 0 must be at least 1"),
        ({"q_segments": jnp.zeros((B, NQ), int)}, "k_segments: None, but"),
        ({"k_segments": jnp.zeros((B, NK), int)}, "q_segments: None, but"),
    ],
)
def test_fields_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        Policy(**fields)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Policy(key_mask=jnp.ones((B, NK + 1), bool)), r"key_mask: shape \(2, 12\), expected \[B, Nk\]=\(2, 11\)"),
        (
            Policy(q_segments=jnp.zeros((B, NK), int), k_segments=jnp.zeros((B, NK), int)),
            r"q_segments: shape \(2, 11\), expected \[B, Nq\]=\(2, 13\)",
        ),
        (Policy(mask=jnp.ones((NQ, NK), bool)), r"mask: shape \(13, 11\)"),
        (Policy(mask=jnp.ones((3, 1, NQ, NK), bool)), r"mask: shape \(3, 1, 13, 11\)"),
        (Policy(mask=jnp.ones((B, 2, NQ, NK), bool)), r"mask: shape \(2, 2, 13, 11\)"),
        (Policy(mask=jnp.ones((B, H, NK, NQ), bool)), r"expected \[B\|1, H\|1, Nq, Nk\]=\(2, 3, 13, 11\)"),
    ],
)
def test_masks_that_do_not_fit_are_refused(policy, message):
    with pytest.raises(ValueError, match=message):
        policy.check(B, H, NQ, NK)
