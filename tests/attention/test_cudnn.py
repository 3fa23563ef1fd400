"""What cuDNN is asked for.

There is no GPU here, so its two primitives are replaced by the formulas they stand for, on the operands they get:
lengths, a diagonal, a window; the derivative from lse and from an output of which only rowsum(dO O) matters.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.cases import reference
from vdm_jax.attention import cudnn
from vdm_jax.attention.cudnn import CuDNN, fused
from vdm_jax.attention.kernel import View
from vdm_jax.attention.local import attend_locally, row_delta
from vdm_jax.attention.policy import Policy
from vdm_jax.attention.reference import Reference

B, H, N, D, SCALE = 3, 2, 12, 8, 0.4
HOLES = jnp.array([[1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1], [1] * N, [0] * N], bool)
POLICIES = {
    "full": Policy(),
    "causal": Policy(causal=True),
    "window": Policy(causal=True, window=3),
    "key_mask": Policy(key_mask=HOLES),
}


def seen(q, k, lengths, options):
    """The mask that cuDNN would make, as a policy."""
    assert options["layout"] == fused.AttentionLayout.BNTH.value
    causal = options["mask_type"] == fused.MaskType.CAUSAL
    padding = options["mask_type"] == fused.MaskType.PADDING
    key_mask = jnp.arange(k.shape[2])[None] < lengths[:, None] if padding else None
    return View(options["scale"], causal=causal, window=options["sliding_window_length"], key_mask=key_mask)


class Forward:
    """`(out, lse)`, and NaN where a clip has no keys."""

    def bind(self, q, k, v, bias, q_lengths, lengths, *_, **options):
        assert options["is_training"]
        assert bias.size == 0
        out, lse = Reference().forward(q, k, v, seen(q, k, lengths, options))
        return out + jnp.where(lse < -1e29, jnp.nan, 0)[..., None].astype(out.dtype), lse


class Backward:
    """`(dq, dk, dv)`, and NaN for keys beyond the lengths."""

    def bind(self, q, k, v, bias, q_lengths, lengths, *rest, **options):
        lse, out, d_out = rest[4:]
        assert {x.dtype for x in (q, k, v, out, d_out)} == {q.dtype}
        view = seen(q, k, lengths, options)
        dq, dk, dv = Reference().backward(q, k, v, lse, row_delta(out, d_out), d_out, view)
        if view.key_mask is not None:
            dk, dv = (jnp.where(view.key_mask[:, None, :, None], x, jnp.nan) for x in (dk, dv))
        return dq.astype(q.dtype), dk.astype(q.dtype), dv.astype(q.dtype)


@pytest.fixture(autouse=True)
def formulas(monkeypatch):
    monkeypatch.setattr(fused, "_dot_product_attention_fwd_p_wrapper", Forward())
    monkeypatch.setattr(fused, "_dot_product_attention_bwd_p_wrapper", Backward())
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused, "check_is_flash_attention", lambda *_: None)


def operands():
    keys = jax.random.split(jax.random.key(0), 4)
    return tuple(jax.random.normal(key, (B, H, N, D)).astype(jnp.bfloat16) for key in keys)


def close(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=2e-2, atol=3e-2)


@pytest.mark.parametrize("name", POLICIES)
def test_output_and_gradients_are_those_of_the_reference(name):
    q, k, v, d_out = operands()
    out, pull = jax.vjp(lambda *x: attend_locally(CuDNN(), *x, View.of(POLICIES[name], SCALE)), q, k, v)
    exact = tuple(x.astype(jnp.float32) for x in (q, k, v))
    want, exact_pull = jax.vjp(lambda *x: reference(*x, POLICIES[name], SCALE), *exact)
    assert out.dtype == jnp.bfloat16
    close((out, *pull(d_out)), (want, *exact_pull(d_out.astype(jnp.float32))))


def test_tiles_add_up():
    q, k, v, d_out = operands()
    view, cuts = View(SCALE), (slice(0, 5), slice(5, N))
    parts = [CuDNN().forward(q, k[:, :, c], v[:, :, c], view) for c in cuts]
    lse = jnp.logaddexp(parts[0][1], parts[1][1])
    assert lse.dtype == jnp.float32
    out = sum(o.astype(jnp.float32) * jnp.exp(part - lse)[..., None] for o, part in parts)
    grads = [CuDNN().backward(q, k[:, :, c], v[:, :, c], lse, row_delta(out, d_out), d_out, view) for c in cuts]
    dq = grads[0][0].astype(jnp.float32) + grads[1][0]
    dk, dv = (jnp.concatenate([g[i] for g in grads], axis=2) for i in (1, 2))
    want, pull = jax.vjp(lambda *x: reference(*x, Policy(), SCALE), q, k, v)
    close((out, dq, dk, dv), (want, *pull(d_out)))


def test_the_stand_in_for_the_output_has_the_delta_and_is_finite():
    _, _, _, d_out = operands()
    d_out = d_out.at[0, 0, 0].set(0)
    delta = jax.random.normal(jax.random.key(5), (B, H, N)) * jnp.any(d_out != 0, axis=-1)
    stand_in = cudnn._with_delta(delta, d_out)
    assert stand_in.dtype == d_out.dtype
    np.testing.assert_allclose(row_delta(stand_in, d_out), delta, rtol=4e-3, atol=1e-6)


def test_a_diagonal_that_begins_elsewhere_is_not_cudnns():
    q, k, v, _ = operands()
    with pytest.raises(AssertionError, match="diagonal"):
        CuDNN().forward(q, k, v, dataclasses.replace(View(SCALE, causal=True), q_start=4))
