"""Blocks are visited where something is seen, and go without a mask where all is; what is computed is the mask."""

import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.attention.block_mask import BlockMask
from vdm_jax.attention.kernel import View

B, NQ, NK, BLOCK_Q, BLOCK_K = 2, 70, 90, 16, 32
KEY_MASK = jnp.arange(NK)[None] < jnp.array([[60], [NK]])
SEGMENTS = {
    "q_segments": jnp.arange(NQ)[None] // jnp.array([[20], [33]]) - 1,
    "k_segments": jnp.arange(NK)[None] // jnp.array([[30], [17]]) - 1,
}
VIEWS = {
    "full": View(1.0),
    "causal": View(1.0, causal=True),
    "unit": View(1.0, causal=True, unit=7),
    "window": View(1.0, window=15),
    "both": View(1.0, causal=True, window=2, unit=6),
    "later": View(1.0, causal=True, q_start=20, k_start=9),
    "earlier": View(1.0, causal=True, window=10, q_start=jnp.int32(4), k_start=jnp.int32(30)),
    "beyond": View(1.0, causal=True, k_start=1000),
    "key_mask": View(1.0, key_mask=KEY_MASK),
    "packed": View(1.0, causal=True, key_mask=KEY_MASK, **SEGMENTS),
}


def dense(mask: BlockMask) -> np.ndarray:
    """The mask `[B, n_q, n_k]` as a kernel computes it."""
    key = np.arange(mask.n_k)[None, None]
    seen = np.ones((B, mask.n_q, mask.n_k), bool)
    if mask.bound is not None:
        seen &= key < mask.bound
    if "limits" in mask.arrays:
        limits = np.asarray(mask.arrays["limits"])[None, :, None]
        seen &= key < limits
        seen &= mask.width is None or key >= limits - mask.width
    if "q_segments" in mask.arrays:
        seen &= np.asarray(mask.arrays["q_segments"])[:, :, None] == np.asarray(mask.arrays["k_segments"])[:, None]
    return seen


@pytest.mark.parametrize("name", VIEWS)
def test_what_is_computed_is_what_is_seen(name):
    view = VIEWS[name]
    mask = BlockMask.of(view, B, NQ, NK, BLOCK_Q, BLOCK_K)
    want = view.dense(NQ, NK)
    want = np.ones((B, NQ, NK), bool) if want is None else np.broadcast_to(want, (B, 1, NQ, NK))[:, 0]
    got = dense(mask)
    np.testing.assert_array_equal(got[:, :NQ, :NK], want)
    assert not got[:, :, NK:].any()


@pytest.mark.parametrize("along_keys", [True, False])
@pytest.mark.parametrize("name", [name for name, view in VIEWS.items() if view.positional])
def test_blocks_are_visited_that_see_something_and_unmasked_that_see_all(name, along_keys):
    mask = BlockMask.of(VIEWS[name], B, NQ, NK, BLOCK_Q, BLOCK_K)
    spans = np.asarray(mask.spans(along_keys))
    mask.arrays.pop("q_segments", None)  # those are looked at in every block
    seen = dense(mask)[0].reshape(mask.n_q // BLOCK_Q, BLOCK_Q, mask.n_k // BLOCK_K, BLOCK_K)
    for want, (begin, end) in ((seen.any((1, 3)), spans[:2]), (seen.all((1, 3)), spans[2:])):
        want = want if along_keys else want.T
        steps = np.arange(want.shape[1])[None]
        np.testing.assert_array_equal((steps >= begin[:, None]) & (steps < end[:, None]), want)


def test_without_positions_there_is_nothing_to_skip():
    assert BlockMask.of(VIEWS["key_mask"], B, NQ, NK, BLOCK_Q, BLOCK_K).spans(True) is None
    exact = BlockMask.of(View(1.0), B, 64, 96, BLOCK_Q, BLOCK_K)
    assert (exact.bound, exact.arrays) == (None, {})


def test_operands_are_padded_behind():
    mask = BlockMask.of(View(1.0), B, NQ, NK, BLOCK_Q, BLOCK_K)
    x = jnp.ones((B, 3, NQ, 5))
    assert mask.queries(x).shape == (6, 80, 5)
    assert mask.queries(x).sum() == x.sum()
    assert mask.keys(jnp.ones((B, 3, NK))).shape == (6, 96)
