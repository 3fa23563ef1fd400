"""The contract that partitions rely on: tiles of one row add up by their lse, forward and backward."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.cases import NK, NQ, POLICIES, SCALE, operands, reference
from vdm_jax.attention.chunked import Chunked, Tiles
from vdm_jax.attention.kernel import NEG, View
from vdm_jax.attention.local import attend_locally, row_delta
from vdm_jax.attention.reference import Reference

KERNELS = {"reference": Reference(), "chunked": Chunked(Tiles(5, 3, 2))}
CUT_Q, CUT_K = 6, 4


def tile(view, rows, columns):
    """The part of a view that `rows` of the queries and `columns` of the keys are; starts become traced."""
    cut = lambda x, axis, part: x if x is None else x[(slice(None),) * axis + (part,)]  # noqa: E731
    return dataclasses.replace(
        view,
        q_start=jnp.int32(rows.start),
        k_start=jnp.int32(columns.start),
        key_mask=cut(view.key_mask, 1, columns),
        mask=cut(cut(view.mask, 2, rows), 3, columns),
        q_segments=cut(view.q_segments, 1, rows),
        k_segments=cut(view.k_segments, 1, columns),
    )


def tiled(kernel, view, q, k, v, d_out):
    """Output and gradients, put together from four tiles of different sizes."""
    out, dq, dk, dv = (np.zeros(x.shape, np.float32) for x in (q, q, k, v))
    columns = (slice(0, CUT_K), slice(CUT_K, NK))
    for rows in (slice(0, CUT_Q), slice(CUT_Q, NQ)):
        q_, d_ = q[:, :, rows], d_out[:, :, rows]
        views = [tile(view, rows, c) for c in columns]
        parts = [kernel.forward(q_, k[:, :, c], v[:, :, c], s) for c, s in zip(columns, views)]
        lse = jnp.logaddexp(parts[0][1], parts[1][1])
        whole = sum(o * jnp.exp(part_lse - lse)[..., None] for o, part_lse in parts)
        out[:, :, rows] = whole
        for c, s in zip(columns, views):
            grads = kernel.backward(q_, k[:, :, c], v[:, :, c], lse, row_delta(whole, d_), d_, s)
            dq[:, :, rows] += grads[0]
            dk[:, :, c] += grads[1]
            dv[:, :, c] += grads[2]
    return out, dq, dk, dv


@pytest.mark.parametrize("policy", ["full", "causal_unit", "window_unit", "all"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_tiles_add_up(kernel, policy):
    q, k, v, d_out = operands()
    got = tiled(KERNELS[kernel], View.of(POLICIES[policy], SCALE), q, k, v, d_out)
    out, pull = jax.vjp(lambda *x: reference(*x, POLICIES[policy], SCALE), q, k, v)
    for a, b in zip(got, (out, *pull(d_out)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_that_see_nothing_have_the_lowest_lse(kernel):
    q, k, v, _ = operands()
    out, lse = KERNELS[kernel].forward(q, k, v, View.of(POLICIES["mask_blind_rows"], SCALE))
    blind = ~np.asarray(POLICIES["mask_blind_rows"].mask.any(-1))
    assert blind.any()
    assert lse.dtype == jnp.float32
    assert (np.asarray(lse)[blind] <= NEG).all()
    assert not np.asarray(out)[blind].any()


def test_python_numbers_of_a_view_are_static():
    view = View(1.0, causal=True, q_start=3, k_start=jnp.int32(2))
    leaves, structure = jax.tree.flatten(view)
    assert len(leaves) == 1
    assert jax.tree.unflatten(structure, leaves) == view
    assert structure != jax.tree.structure(dataclasses.replace(view, q_start=4))
    inside = []
    jax.jit(lambda view: inside.append(view))(view)
    assert (inside[0].scale, inside[0].causal, inside[0].q_start) == (1.0, True, 3)
    assert isinstance(inside[0].k_start, jax.core.Tracer)


@pytest.mark.parametrize("kernel", KERNELS)
def test_remat_finds_the_names(kernel):
    q, k, v, _ = operands()

    def block(q):
        return attend_locally(KERNELS[kernel], q, k, v, View(SCALE)).sum()

    keep = jax.checkpoint_policies.save_only_these_names("attention_out", "attention_lse")
    kept = str(jax.make_jaxpr(jax.grad(jax.checkpoint(block, policy=keep)))(q))
    assert "name=attention_out" in kept
    assert ("name=attention_lse" in kept) != KERNELS[kernel].differentiable
