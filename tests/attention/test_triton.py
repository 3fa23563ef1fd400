"""The Triton kernels in Pallas' interpreter against the reference; there is no GPU here."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.cases import reference
from vdm_jax.attention.kernel import NEG, View
from vdm_jax.attention.local import attend_locally, row_delta
from vdm_jax.attention.policy import Policy
from vdm_jax.attention.triton import Triton

B, H, NQ, NK, D, SCALE = 2, 2, 75, 105, 16, 0.3
KERNEL = Triton(block_q=32, block_k=16, interpret=True)
SEGMENTS = {
    "q_segments": jnp.arange(NQ)[None] // jnp.array([[25], [40]]),
    "k_segments": jnp.arange(NK)[None] // jnp.array([[37], [20]]),
}
KEY_MASK = jnp.arange(NK)[None] < jnp.array([[65], [NK]])
POLICIES = {
    "full": Policy(),
    "causal_unit": Policy(causal=True, unit=17),
    "window": Policy(window=8),
    "key_mask": Policy(key_mask=KEY_MASK),
    "all": Policy(causal=True, window=3, unit=10, key_mask=KEY_MASK, **SEGMENTS),
}


def operands(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((B, H, NQ, D), (B, H, NK, D), (B, H, NK, D), (B, H, NQ, D))
    return tuple(jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes))


def close(got, want, tolerance):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, jnp.float32) for name in POLICIES), ("causal_unit", jnp.bfloat16)]
)
def test_output_and_gradients_are_those_of_the_reference(name, dtype):
    q, k, v, d_out = operands(dtype)
    out, pull = jax.vjp(jax.jit(lambda *x: attend_locally(KERNEL, *x, View.of(POLICIES[name], SCALE))), q, k, v)
    assert out.dtype == dtype
    exact = tuple(x.astype(jnp.float32) for x in (q, k, v))
    want, exact_pull = jax.vjp(lambda *x: reference(*x, POLICIES[name], SCALE), *exact)
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    close((out, *pull(d_out)), (want, *exact_pull(d_out.astype(jnp.float32))), tolerance)


def test_tiles_that_begin_where_only_the_program_knows_add_up():
    q, k, v, d_out = operands()
    policy, cuts = POLICIES["causal_unit"], (slice(0, 40), slice(40, NK))

    @jax.jit
    def tiled(q, k, v, d_out, starts):
        views = [dataclasses.replace(View.of(policy, SCALE).keys(c), k_start=s) for c, s in zip(cuts, starts)]
        tiles = [(k[:, :, c], v[:, :, c], view) for c, view in zip(cuts, views)]
        outs, lses = zip(*(KERNEL.forward(q, *tile) for tile in tiles))
        lse = jnp.logaddexp(*lses)
        out = sum(o * jnp.exp(part - lse)[..., None] for o, part in zip(outs, lses))
        grads = [KERNEL.backward(q, k, v, lse, row_delta(out, d_out), d_out, view) for k, v, view in tiles]
        dq, dk, dv = zip(*grads)
        return out, sum(dq), jnp.concatenate(dk, axis=2), jnp.concatenate(dv, axis=2)

    got = tiled(q, k, v, d_out, (jnp.int32(0), jnp.int32(40)))
    want, pull = jax.vjp(lambda *x: reference(*x, policy, SCALE), q, k, v)
    close(got, (want, *pull(d_out)), 1e-5)


def test_rows_that_see_nothing_have_the_lowest_lse():
    q, k, v, _ = operands()
    view = View(SCALE, causal=True, k_start=10, key_mask=KEY_MASK.at[1].set(False))
    out, lse = KERNEL.forward(q, k, v, view)
    blind = np.zeros((B, H, NQ), bool)
    blind[:, :, :10] = blind[1] = True
    np.testing.assert_array_equal(np.asarray(lse) <= NEG / 2, blind)
    assert not np.asarray(out)[blind].any()
    assert np.isfinite(np.asarray(out)).all()


@pytest.mark.parametrize(("d", "dtype"), [(128, jnp.bfloat16), (64, jnp.float32)])
@pytest.mark.parametrize("name", POLICIES)
def test_it_can_be_lowered_for_a_gpu_that_is_not_there(name, d, dtype):
    """Three Triton programs, out of what Triton knows: the interpreter would take anything."""
    view = View.of(POLICIES[name], SCALE)
    q, k = (jax.ShapeDtypeStruct((B, H, n, d), dtype) for n in (NQ, NK))
    both = lambda q, k, v: jax.vjp(lambda *x: attend_locally(Triton(), *x, view), q, k, v)[1](q)  # noqa: E731
    text = jax.jit(both).trace(q, k, k).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@__gpu$xla.gpu.triton(") == 3
    for program in ("triton_forward", "triton_backward_q", "triton_backward_keys"):
        assert f'name = "{program}"' in text
