import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.cases import DENSE, NK, NQ, POLICIES, SCALE, B, D, H, attention, operands, reference
from vdm_jax.attention.chunked import Chunked, Tiles, choose_tiles
from vdm_jax.attention.policy import Policy

TILINGS = {
    "whole": Tiles(NQ, NK),
    "beyond": Tiles(16, 16, 3),
    "rows": Tiles(1, NK),
    "columns": Tiles(NQ, 1, 6),
    "even": Tiles(4, 4, 1),
}
UNEVEN = Tiles(5, 3, 2)


def chunked(q, k, v, policy, scale, tiles):
    return attention(Chunked(tiles), q, k, v, policy, scale)


def with_gradients(kernel, *args):
    """Output and gradients of its weighted sum, `(out, (dq, dk, dv))`."""
    q, k, v, weights = args

    def total(q, k, v):
        out = kernel(q, k, v)
        return (out.astype(jnp.float32) * weights).sum(), out

    (_, out), grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return out, grads


def agree(policy, tiles, args, tolerance):
    got, got_grads = with_gradients(lambda q, k, v: chunked(q, k, v, policy, SCALE, tiles), *args)
    exact = tuple(x.astype(jnp.float32) for x in args)
    want, want_grads = with_gradients(lambda q, k, v: reference(q, k, v, policy, SCALE), *exact)
    assert got.dtype == args[0].dtype
    for a, b in zip((got, *got_grads), (want, *want_grads), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", POLICIES)
def test_output_and_gradients_are_those_of_the_reference(name):
    agree(POLICIES[name], UNEVEN, operands(), 1e-5)


@pytest.mark.parametrize("tiling", TILINGS)
def test_the_tiling_changes_nothing(tiling):
    agree(POLICIES["all"], TILINGS[tiling], operands(), 1e-5)


@pytest.mark.parametrize("name", ["full", "causal_unit", "all"])
def test_bfloat16_stays_near_the_exact_result(name):
    agree(POLICIES[name], UNEVEN, operands(dtype=jnp.bfloat16), 2e-2)


def test_a_query_that_sees_nothing_gets_zeros_and_no_gradient():
    out, grads = with_gradients(lambda q, k, v: chunked(q, k, v, Policy(mask=DENSE), SCALE, UNEVEN), *operands())
    blind = ~np.asarray(DENSE.any(-1))
    assert blind.sum() > 3
    assert not np.asarray(out)[blind].any()
    assert not np.asarray(grads[0])[blind].any()
    assert all(np.isfinite(np.asarray(x)).all() for x in (out, *grads))


def test_keys_that_are_masked_do_not_matter():
    q, k, v, _ = operands()
    policy, hidden = POLICIES["key_mask"], ~np.asarray(POLICIES["key_mask"].key_mask)[:, None, :, None]
    far = jnp.where(hidden, 1e4, 0.0)
    got = chunked(q, k + far, v + far, policy, SCALE, UNEVEN)
    np.testing.assert_array_equal(got, chunked(q, k, v, policy, SCALE, UNEVEN))


def temporary_bytes(kernel, length):
    """Memory that the compiled forward and backward pass needs beside operands and results."""
    shape = jax.ShapeDtypeStruct((1, 2, length, 8), jnp.float32)
    step = jax.jit(jax.grad(lambda q, k, v: kernel(q, k, v).sum(), argnums=(0, 1, 2)))
    return step.lower(shape, shape, shape).compile().memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_length_and_not_with_its_square():
    def blockwise(q, k, v):
        return chunked(q, k, v, Policy(causal=True), 1.0, choose_tiles(2, q.shape[2], k.shape[2], cpu=True))

    short, long = (temporary_bytes(blockwise, n) for n in (2048, 8192))
    assert long < 4.5 * short
    assert long < 8192**2  # one float32 score matrix of one head is four times this
    plain = temporary_bytes(lambda q, k, v: reference(q, k, v, Policy(causal=True), 1.0), 2048)
    assert plain > 2 * 4 * 2048**2  # so the measure does see the reference's scores


@pytest.mark.parametrize(("pairs", "n_q", "n_k"), [(1, 8, 8), (512, 64, 64), (6, 3000, 77), (8, 32_760, 32_760)])
@pytest.mark.parametrize("cpu", [True, False])
def test_tiles_fit_the_budget(pairs, n_q, n_k, cpu):
    tiles = choose_tiles(pairs, n_q, n_k, cpu)
    at_once = tiles.group or pairs
    assert pairs % at_once == 0
    smallest = 1 if cpu else 16 * pairs * tiles.block_k  # elsewhere all heads stay together, 16 queries at least
    assert at_once * tiles.block_q * tiles.block_k <= max(2**20 if cpu else 2**26, smallest)
    assert tiles.block_k <= n_k


def test_a_grouped_kernel_takes_masks_of_one_pair_and_of_all():
    q, k, v, _ = operands()
    assert q.shape == (B, H, NQ, D)
    one, all_pairs = (
        POLICIES["mask_shared"],
        Policy(mask=jnp.broadcast_to(POLICIES["mask_shared"].mask, (B, H, NQ, NK))),
    )
    got = [chunked(q, k, v, policy, SCALE, Tiles(NQ, NK, 2)) for policy in (one, all_pairs)]
    np.testing.assert_allclose(*got, rtol=1e-6, atol=1e-6)
