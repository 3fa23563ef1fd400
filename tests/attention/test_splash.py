"""Splash in Pallas' interpreter against the reference; lengths are uneven and need several tiles each way."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.cases import reference
from vdm_jax.attention import splash
from vdm_jax.attention.kernel import NEG, View
from vdm_jax.attention.local import attend_locally, row_delta
from vdm_jax.attention.policy import Policy
from vdm_jax.attention.splash import Splash
from vdm_jax.attention.splash_blocks import BLOCKS, CHIP_OF, Blocks, Tile, blocks_for

B, H, NQ, NK, D = 2, 2, 300, 420, 16
SCALE = 0.3
SMALL = Tile(128, 256, 128)
CUT = Blocks(SMALL, Tile(256, 128, 128))
SEGMENTS = {
    "q_segments": jnp.arange(NQ)[None] // jnp.array([[100], [170]]),
    "k_segments": jnp.arange(NK)[None] // jnp.array([[150], [80]]),
}
KEY_MASK = jnp.arange(NK)[None] < jnp.array([[260], [NK]])
POLICIES = {
    "full": Policy(),
    "causal": Policy(causal=True),
    "causal_unit": Policy(causal=True, unit=70),
    "window": Policy(window=30),
    "window_unit": Policy(causal=True, window=2, unit=50),
    "key_mask": Policy(key_mask=KEY_MASK),
    "segments": Policy(**SEGMENTS),
    "all": Policy(causal=True, window=3, unit=40, key_mask=KEY_MASK, **SEGMENTS),
}


def operands(dtype=jnp.float32, n_q=NQ, n_k=NK, d=D):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((B, H, n_q, d), (B, H, n_k, d), (B, H, n_k, d), (B, H, n_q, d))
    return tuple(jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes))


def agree(kernel, policy, args, tolerance):
    q, k, v, weights = args
    got, pull = jax.vjp(jax.jit(lambda *x: attend_locally(kernel, *x, View.of(policy, SCALE))), q, k, v)
    exact = tuple(x.astype(jnp.float32) for x in (q, k, v))
    want, exact_pull = jax.vjp(lambda *x: reference(*x, policy, SCALE), *exact)
    assert got.dtype == q.dtype
    grads, exact_grads = pull(weights), exact_pull(weights.astype(jnp.float32))
    for a, b in zip((got, *grads), (want, *exact_grads), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("name", POLICIES)
def test_output_and_gradients_are_those_of_the_reference(name):
    agree(Splash(CUT, interpret=True), POLICIES[name], operands(), 1e-5)


def test_bfloat16_stays_near_the_exact_result():
    agree(Splash(CUT, interpret=True), POLICIES["causal_unit"], operands(jnp.bfloat16), 2e-2)


@pytest.mark.parametrize(("n_q", "n_k"), [(256, 256), (5, 3), (130, 640)])
def test_lengths_that_fit_and_that_do_not(n_q, n_k):
    agree(Splash(CUT, interpret=True), Policy(), operands(n_q=n_q, n_k=n_k), 1e-5)


@pytest.mark.parametrize("name", ["causal_unit", "segments"])
def test_keys_in_several_parts(monkeypatch, name):
    monkeypatch.setattr(splash, "PARTIALS", 2)  # of four blocks
    agree(Splash(CUT, interpret=True), POLICIES[name], operands(), 1e-5)


@pytest.mark.parametrize("name", ["causal_unit", "window_unit", "segments"])
def test_tiles_that_begin_where_only_the_program_knows_add_up(name):
    q, k, v, d_out = operands()
    kernel, cuts = Splash(CUT, interpret=True), (slice(0, 190), slice(190, NK))

    @jax.jit
    def tiled(q, k, v, d_out, starts):
        views = [dataclasses.replace(View.of(POLICIES[name], SCALE).keys(c), k_start=s) for c, s in zip(cuts, starts)]
        tiles = [(k[:, :, c], v[:, :, c], view) for c, view in zip(cuts, views)]
        outs, lses = zip(*(kernel.forward(q, *tile) for tile in tiles))
        lse = jnp.logaddexp(*lses)
        out = sum(o * jnp.exp(part - lse)[..., None] for o, part in zip(outs, lses))
        grads = [kernel.backward(q, k, v, lse, row_delta(out, d_out), d_out, view) for k, v, view in tiles]
        dq, dk, dv = zip(*grads)
        return out, sum(dq), jnp.concatenate(dk, axis=2), jnp.concatenate(dv, axis=2)

    got = tiled(q, k, v, d_out, (jnp.int32(0), jnp.int32(190)))
    want, pull = jax.vjp(lambda *x: reference(*x, POLICIES[name], SCALE), q, k, v)
    for a, b in zip(got, (want, *pull(d_out)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_rows_that_see_nothing_have_the_lowest_lse():
    q, k, v, _ = operands()
    view = View(SCALE, causal=True, k_start=10, key_mask=KEY_MASK.at[1].set(False))
    out, lse = jax.jit(lambda q, k, v: Splash(CUT, interpret=True).forward(q, k, v, view))(q, k, v)
    blind = np.zeros((B, H, NQ), bool)
    blind[:, :, :10] = blind[1] = True
    np.testing.assert_array_equal(np.asarray(lse) <= NEG / 2, blind)
    assert not np.asarray(out)[blind].any()
    assert np.isfinite(np.asarray(out)).all()


def test_a_tile_fits_itself_to_the_lengths():
    assert Tile(1024, 2048, 512).fit(18_900, 75_600) == Tile(1024, 2048, 512)  # 19 and 37 blocks: 18,944 and 75,776
    assert Tile(1024, 2048, 1024).fit(1100, 2100) == Tile(640, 1152, 384)
    assert Tile(1024, 2048, 512).fit(5, 300) == Tile(128, 384, 384)


@pytest.mark.parametrize(
    ("q", "kv", "compute", "field"), [(100, 128, 128, "q"), (128, 0, 128, "kv"), (128, 384, 256, "")]
)
def test_tiles_are_multiples_of_128(q, kv, compute, field):
    with pytest.raises(ValueError, match=f"{field}: .* must be a multiple of 128" if field else "compute: 256 must"):
        Tile(q, kv, compute)


def test_every_chip_has_blocks_and_an_unknown_one_the_smallest():
    assert set(CHIP_OF.values()) == set(BLOCKS)
    for kind, chip in CHIP_OF.items():
        assert blocks_for(kind, jnp.bfloat16) == BLOCKS[chip]
        wide = blocks_for(kind, jnp.float32)
        assert wide.forward.q * 2 == BLOCKS[chip].forward.q
    assert blocks_for("TPU v9", jnp.bfloat16) == BLOCKS["v5e"]
