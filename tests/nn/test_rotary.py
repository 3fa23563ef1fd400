import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb, get_3d_rotary_pos_embed
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

from vdm_jax.nn.rotary import axis_pairs, rotary_table, rotary_table_at, rotate

GRIDS = [(7,), (3, 4), (2, 3, 4)]


def vectors(*shape):
    return jax.random.normal(jax.random.key(len(shape)), shape)


@pytest.mark.parametrize("grid", GRIDS)
def test_scores_depend_on_the_distance_alone(grid):
    """<R_p q, R_r k> for the same q and k at every pair of points: equal wherever p - r is equal."""
    head_dim, n = 24, int(np.prod(grid))
    table = jnp.asarray(rotary_table(grid, head_dim))
    q, k = (jnp.broadcast_to(vectors(head_dim) * (i + 1), (n, head_dim)) for i in range(2))
    scores = np.asarray(rotate(q, table) @ rotate(jnp.flip(k, -1), table).T)
    points = np.stack(np.unravel_index(np.arange(n), grid), -1)
    by_distance: dict[tuple, list[float]] = {}
    for i, j in np.ndindex(n, n):
        by_distance.setdefault(tuple(points[i] - points[j]), []).append(scores[i, j])
    spread = max(max(values) - min(values) for values in by_distance.values())
    assert spread < 1e-4
    assert np.ptp([values[0] for values in by_distance.values()]) > 1.0


@pytest.mark.parametrize("grid", GRIDS)
def test_the_norm_of_every_pair_is_kept(grid):
    x = vectors(2, 3, int(np.prod(grid)), 20)
    turned = rotate(x, jnp.asarray(rotary_table(grid, 20)))
    pairs = [np.hypot(y[..., :10], y[..., 10:]) for y in (x, turned)]
    np.testing.assert_allclose(*pairs, rtol=1e-5)
    np.testing.assert_allclose(turned[:, :, 0], x[:, :, 0], atol=1e-6)  # the origin is not turned


def test_axes_share_the_pairs_and_time_takes_the_rest():
    assert axis_pairs(128, 3) == (22, 21, 21)
    assert axis_pairs(64, 2) == (16, 16)
    assert axis_pairs(10, 1) == (5,)


def test_it_is_the_rope_of_wan_up_to_the_order_of_the_channels():
    """Published models turn neighbours (2i, 2i + 1); ours are (i, i + D / 2)."""
    grid, head_dim, heads = (3, 4, 5), 32, 2
    theirs = WanRotaryPosEmbed(attention_head_dim=head_dim, patch_size=(1, 1, 1), max_seq_len=32)
    cos, sin = theirs(torch.zeros(1, 4, *grid))
    cos, sin = (part.numpy().reshape(-1, head_dim) for part in (cos, sin))
    table = rotary_table(grid, head_dim)
    np.testing.assert_allclose(table[:, 0], cos[:, ::2], atol=1e-5)
    np.testing.assert_allclose(table[:, 1], sin[:, ::2], atol=1e-5)

    x = np.asarray(vectors(1, heads, 60, head_dim))
    freqs = (torch.from_numpy(cos), torch.from_numpy(sin))
    want = apply_rotary_emb(torch.from_numpy(x.copy()), freqs, use_real=True, use_real_unbind_dim=-1).numpy()
    permutation = np.concatenate([np.arange(0, head_dim, 2), np.arange(1, head_dim, 2)])
    got = rotate(jnp.asarray(x[..., permutation]), jnp.asarray(table))
    np.testing.assert_allclose(got, want[..., permutation], rtol=1e-5, atol=1e-5)


def test_the_dtype_is_kept():
    x = vectors(4, 8).astype(jnp.bfloat16)
    assert rotate(x, jnp.asarray(rotary_table((4,), 8))).dtype == jnp.bfloat16


def test_positions_between_the_points_and_shares_of_ones_own():
    """CogVideoX: a quarter of the pairs to time, positions of a small clip spread over those of the full size."""
    theirs = get_3d_rotary_pos_embed(32, ((0, 1), (6, 4)), (4, 3), 2)
    height, width = np.linspace(0, 6 * 3 / 4, 4), np.linspace(1, 4 * 2 / 3, 3)
    table = rotary_table_at((np.arange(2), height, width), (4, 6, 6))
    for got, want in zip(table.transpose(1, 0, 2), theirs):
        np.testing.assert_allclose(got, want.numpy()[:, ::2], atol=1e-5)
